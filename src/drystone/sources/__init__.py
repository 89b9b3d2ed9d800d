"""Sources of graphs: each gives a preparer graphs and weights, and the user a module that runs the programs."""
