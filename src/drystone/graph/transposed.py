"""Which transposed convolutions take a bias and an epilogue."""

from __future__ import annotations

import math
from collections.abc import Sequence

from drystone.graph.graph import Node
from drystone.graph.ops import ConvTranspose

# Weights of a block of outputs that any second level cache holds: where one does not, kernels of oneDNN add the bias twice.
CACHED_BYTES = 1 << 19
BLOCK = 64


def finishes(groups: int, weight: Sequence[int], stride: Sequence[int], sizes: Sequence[int]) -> bool:
    """``weight``: the shape (O, C / groups, *k); ``sizes``: the output's spatial ones.

    oneDNN has kernels that do, but not for groups, nor for outputs between the windows, nor where strides leave a rest, and none
    to be trusted for large weights. It would add to the results of those one by one, many times slower than a pointwise kernel
    does afterwards.
    """
    outputs, *rest = weight
    if groups > 1 or 4 * min(outputs, BLOCK) * math.prod(rest) > CACHED_BYTES:
        return False
    return all(k >= s and size % s == 0 for k, s, size in zip(weight[2:], stride, sizes, strict=True))


def stays_bare(node: Node) -> bool:
    """Whether ``node`` is a transposed convolution that takes neither."""
    if not isinstance(node.op, ConvTranspose):
        return False
    return not finishes(node.op.groups, node.inputs[1].shape, node.op.stride, node.output.shape[2:])
