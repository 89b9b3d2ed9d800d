"""The implementations of each operator, the ones to try first at the front. ATen is always the last resort."""

from __future__ import annotations

from drystone.graph import ops
from drystone.graph.graph import Node
from drystone.graph.ops import Conv, ConvTranspose
from drystone.plan.implementations.aten import Aten
from drystone.plan.implementations.attention import Attention, CachedAttention
from drystone.plan.implementations.base import Implementation, Layout
from drystone.plan.implementations.convolution import ActivationApart, OneDnnConvolution
from drystone.plan.implementations.depthwise import Depthwise
from drystone.plan.implementations.direct import Direct
from drystone.plan.implementations.dynamic_linear import DynamicGemm
from drystone.plan.implementations.elements import ELEMENTS
from drystone.plan.implementations.gemm import Gemm, GroupedGemm, GroupedRows
from drystone.plan.implementations.implicit_gemm import ImplicitGemm
from drystone.plan.implementations.linear import OneDnnLinear
from drystone.plan.implementations.matmul import OneDnnMatmul
from drystone.plan.implementations.movement import MOVEMENT
from drystone.plan.implementations.pointwise import Convert, OneDnnConvert, Pointwise
from drystone.plan.implementations.quantisation import CONVERSIONS, InFloats, is_of_codes
from drystone.plan.implementations.recurrent import Recurrent
from drystone.plan.implementations.reductions import REDUCTIONS
from drystone.plan.implementations.rotary import Rotary
from drystone.plan.implementations.windows import WINDOWS
from drystone.plan.implementations.winograd import Winograd

_WINOGRAD = Winograd(tile=4), Winograd(tile=2)

IMPLEMENTATIONS: list[Implementation] = [
    *(OneDnnConvolution(op) for op in (Conv, ConvTranspose)),
    ActivationApart(Conv),
    ImplicitGemm(),
    Depthwise(),
    *_WINOGRAD,
    Direct(_WINOGRAD),
    Gemm(narrow=True),
    Gemm(),
    DynamicGemm(),
    GroupedGemm(rounds_x=True),
    GroupedGemm(),
    GroupedRows(),
    OneDnnLinear(inner_product=False),
    OneDnnLinear(inner_product=True),
    Attention(),
    CachedAttention(),
    Recurrent(),
    Recurrent(narrow=True),
    OneDnnMatmul(),
    Pointwise(),
    Convert(),
    OneDnnConvert(),
    Rotary(),
    *REDUCTIONS,
    *WINDOWS,
    *ELEMENTS,
    *MOVEMENT,
    *CONVERSIONS,
]
_IN_FLOATS = [InFloats(implementation) for implementation in IMPLEMENTATIONS]

ATEN = Aten()

Option = tuple[Implementation, Layout]


def options(node: Node) -> tuple[list[Option], str]:
    """Every way to compute ``node``, and, where there is none but ATen, the reason."""
    found: list[Option] = []
    reason = (isinstance(node.op, ops.Aten) and node.op.reason) or f"{node.op} has no native implementation"
    for implementation in IMPLEMENTATIONS:
        if not isinstance(node.op, implementation.op):
            continue
        refusal = implementation.refuses(node)
        if refusal:
            reason = refusal
        else:
            found += [(implementation, layout) for layout in implementation.layouts(node)]
    for implementation in _IN_FLOATS if is_of_codes(node) else ():
        if isinstance(node.op, implementation.op) and not implementation.refuses(node):
            found += [(implementation, layout) for layout in implementation.layouts(node)]
    return found, reason
