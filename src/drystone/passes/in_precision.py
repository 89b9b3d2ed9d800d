"""The graph as this CPU computes it in the precision that is asked for.

Where the CPU multiplies bfloat16: before and after are lower_precision's. Where it does not, weights of linear and recurrent
layers are narrowed, and products that are bfloat16 already are widened. Below AVX2, where torch computes everything, the graph
stays as it is.
"""

from __future__ import annotations

import torch

from drystone import native
from drystone.graph.graph import Graph
from drystone.passes.lower_precision import lower_precision
from drystone.passes.narrow_weights import narrow_weights
from drystone.passes.widen_products import widen_products


def in_precision(graph: Graph, dtype: torch.dtype | None) -> Graph:
    """Run after ``simplify``. ``dtype``: as ``optimize`` takes it."""
    if native.multiplies_bfloat16():
        return lower_precision(graph) if dtype is torch.bfloat16 else graph
    if native.isa() == "none":
        return graph
    return widen_products(narrow_weights(graph) if dtype is torch.bfloat16 else graph)


def bfloat16_notice() -> str:
    """What dtype=torch.bfloat16 comes to where the CPU does not multiply bfloat16; empty where it does."""
    if native.multiplies_bfloat16():
        return ""
    if native.isa() == "none":
        return "dtype=torch.bfloat16: without AVX2 all is stored and computed in float32, by torch"
    return (
        f"dtype=torch.bfloat16: this CPU ({native.isa()}) does not multiply bfloat16, so weights of linear and recurrent layers "
        "are stored in it, and all is computed in float32"
    )
