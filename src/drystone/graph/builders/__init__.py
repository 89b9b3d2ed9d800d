"""One function an ATen operator: from its arguments to nodes of the graph. One file a family of operators."""

from drystone.graph.builders import convolution, elements, movement, normalization, pointwise, pooling, reductions, resize, shape  # noqa: F401
