"""Generation of text: caches of keys and values, and attention over them."""
