"""The operators of the graph, a file a family. ``OPERATORS`` has them by name."""

from drystone.graph.ops.aten import Aten
from drystone.graph.ops.convolutions import Conv, Convolution, ConvTranspose
from drystone.graph.ops.elements import Elementwise, Fold, Index
from drystone.graph.ops.movement import Cat, Convert, Expand, Gather, Pad, Permute, Reshape, Slice
from drystone.graph.ops.operator import OPERATORS, Operator, OperatorError
from drystone.graph.ops.pointwise import Pointwise
from drystone.graph.ops.products import Attention, BatchMatmul, Matmul, Rotary
from drystone.graph.ops.recurrent import Recurrent
from drystone.graph.ops.reductions import GroupNorm, LayerNorm, LocalResponseNorm, Norm, Reduce, Softmax
from drystone.graph.ops.weight_product import WeightProduct
from drystone.graph.ops.windows import Pool, Resize

__all__ = [
    "OPERATORS",
    "Aten",
    "Attention",
    "BatchMatmul",
    "Cat",
    "Conv",
    "ConvTranspose",
    "Convert",
    "Convolution",
    "Elementwise",
    "Expand",
    "Fold",
    "Gather",
    "GroupNorm",
    "Index",
    "LayerNorm",
    "LocalResponseNorm",
    "Matmul",
    "Norm",
    "Operator",
    "OperatorError",
    "Pad",
    "Permute",
    "Pointwise",
    "Pool",
    "Recurrent",
    "Reduce",
    "Reshape",
    "Resize",
    "Rotary",
    "Slice",
    "Softmax",
    "WeightProduct",
]
