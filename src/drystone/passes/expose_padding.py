"""A convolution whose weight holds NaN or infinity gets the zeros that it pads with as a tensor.

before:  conv(x, w, padding_l=(1, 1), padding_r=(1, 1))
after:   pad(x, before=(0, 0, 1, 1), after=(0, 0, 1, 1), value=0) → conv(w, padding_l=(0, 0), padding_r=(0, 0))
A zero times NaN is NaN, and so it is at the border in some of torch's kernels; others leave padding out. A network that has
diverged shall not look the better for the kernel that was chosen.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from drystone.graph.graph import Graph, Node, make_node
from drystone.graph.ops import Conv, Pad


def expose_padding(graph: Graph) -> Graph:
    for node in [node for node in graph.nodes if isinstance(node.op, Conv)]:
        padded = any((*node.of(Conv).padding_l, *node.of(Conv).padding_r))
        # A sum that overflows says so needlessly, which does no harm.
        if padded and node.inputs[1].is_constant and not node.inputs[1].constant.sum(dtype=torch.float32).isfinite():
            _expose(graph, node)
    return graph


def _expose(graph: Graph, conv: Node) -> None:
    x = conv.inputs[0]
    op = conv.of(Conv)
    pad = make_node(Pad((0, 0, *op.padding_l), (0, 0, *op.padding_r), "constant"), [x], name=conv.name, instead_of=conv)
    graph.nodes.insert(graph.nodes.index(conv), pad)
    conv.inputs[0] = pad.output
    nothing = (0,) * len(op.stride)
    conv.op = replace(op, padding_l=nothing, padding_r=nothing)
