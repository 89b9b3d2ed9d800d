"""One function an ATen operator: from its arguments to nodes of the graph. One file a family of operators."""

from drystone.graph.builders import (  # noqa: F401
    attention,
    convolution,
    elements,
    movement,
    normalization,
    pointwise,
    pooling,
    products,
    quantisation,
    recurrent,
    reductions,
    resize,
    shape,
    unfold,
)
