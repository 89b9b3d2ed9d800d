"""Which transposed convolutions take a bias and an epilogue."""

from __future__ import annotations

from collections.abc import Sequence

from drystone.graph.graph import Node


def finishes(groups: int, kernel: Sequence[int], stride: Sequence[int], sizes: Sequence[int]) -> bool:
    """``sizes``: the output's spatial ones.

    oneDNN has kernels that do, but not for groups, nor for outputs between the windows, nor where strides leave a rest. It would
    add to the results of those one by one, many times slower than a pointwise kernel does afterwards.
    """
    return groups == 1 and all(k >= s and size % s == 0 for k, s, size in zip(kernel, stride, sizes, strict=True))


def stays_bare(node: Node) -> bool:
    """Whether ``node`` is a transposed convolution that takes neither."""
    if node.op != "conv_transpose":
        return False
    return not finishes(node.attrs["groups"], node.inputs[1].shape[2:], node.attrs["stride"], node.output.shape[2:])
