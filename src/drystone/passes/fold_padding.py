"""Padding with zeros before a convolution becomes the convolution's own.

before:  pad(x, before=(0, 0, 0, 0), after=(0, 0, 1, 1), value=0) → conv(padding_l=(0, 0), padding_r=(0, 0))
after:   conv(x, padding_l=(0, 0), padding_r=(1, 1))
"""

from __future__ import annotations

from dataclasses import replace

from drystone.graph.graph import Graph, Node
from drystone.graph.ops import Conv, Pad


def fold_padding(graph: Graph) -> Graph:
    """Each conv that reads such a pad; the pad stays for other readers."""
    for node in graph.nodes:
        if isinstance(node.op, Conv) and (pad := node.inputs[0].producer) is not None and isinstance(pad.op, Pad):
            _fold(pad, node)
    return graph.prune()


def _fold(pad: Node, conv: Node) -> None:
    around, op = pad.of(Pad), conv.of(Conv)
    before, after = around.before, around.after
    if around.mode != "constant" or around.value != 0 or min(*before, *after) < 0 or any((*before[:2], *after[:2])):
        return
    left = tuple(a + b for a, b in zip(op.padding_l, before[2:], strict=True))
    right = tuple(a + b for a, b in zip(op.padding_r, after[2:], strict=True))
    # A convolution padded by its whole window and more computes outputs of nothing but padding: kernels do not expect that.
    kernel = conv.inputs[1].shape[2:]
    window = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, op.dilation, strict=True)]
    if any(padding >= size for padding, size in zip((*left, *right), (*window, *window), strict=True)):
        return
    conv.op = replace(op, padding_l=left, padding_r=right)
    conv.inputs[0] = pad.inputs[0]
