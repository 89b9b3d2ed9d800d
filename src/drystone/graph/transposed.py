"""Which transposed convolutions take a bias and an epilogue."""

from __future__ import annotations

from collections.abc import Sequence

from drystone.graph.graph import Node


def finishes(groups: int, kernel: Sequence[int], stride: Sequence[int]) -> bool:
    """oneDNN has kernels that do, but not for groups, nor for outputs between the windows, which no input reaches. It would add
    to the results of those one by one, many times slower than a pointwise kernel does afterwards."""
    return groups == 1 and all(k >= s for k, s in zip(kernel, stride, strict=True))


def stays_bare(node: Node) -> bool:
    """Whether ``node`` is a transposed convolution that takes neither."""
    return node.op == "conv_transpose" and not finishes(node.attrs["groups"], node.inputs[1].shape[2:], node.attrs["stride"])
