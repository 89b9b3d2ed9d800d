"""Products of two matrices that are both computed, where ATen says more than ``matmul``: einsum.

``matmul``, ``bmm`` and ``baddbmm`` stay ATen nodes until attention has been recognised (passes/batch_products.py).
"""

from __future__ import annotations

import math
from typing import Any

from drystone.graph.builders.registry import Built, Declined, Emitter, builds
from drystone.graph.builders.shape import permute_to
from drystone.graph.graph import Value
from drystone.graph.ops import BatchMatmul


def batch_matmul(b: Emitter, left: Value, right: Value) -> Value:
    """left (…, M, K) @ right (…, K, N), of the same rank."""
    rank = len(left.shape)
    return b.emit(BatchMatmul((tuple(range(rank)), tuple(range(rank)))), [left, right])


@builds("einsum")
def einsum(b: Emitter, equation: str, operands: list[Value], path: Any = None) -> Built:
    """Of two operands with no letter twice: letters of both are batch where the result has them, and else summed over."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    if len(operands) != 2 or not arrow or "." in equation or any(len(set(term)) < len(term) for term in [*names, result]):
        raise Declined("an einsum other than of two operands with letters of their own")
    first, second = names
    batch = [name for name in result if name in first and name in second]
    summed = [name for name in first if name in second and name not in result]
    rows = [name for name in first if name not in second]
    columns = [name for name in second if name not in first]
    if not summed or set(rows + columns) - set(result):
        raise Declined("an einsum that sums over a letter of one operand, or over none")
    size = dict(zip(first + second, operands[0].shape + operands[1].shape, strict=True))

    def arranged(value: Value, term: str, *groups: list[str]) -> Value:
        value = permute_to(b, value, [term.index(name) for group in (batch, *groups) for name in group])
        return b.reshape(value, [size[name] for name in batch] + [math.prod(size[name] for name in group) for group in groups])

    product = batch_matmul(b, arranged(operands[0], first, rows, summed), arranged(operands[1], second, summed, columns))
    order = [*batch, *rows, *columns]
    return permute_to(b, b.reshape(product, [size[name] for name in order]), [order.index(name) for name in result])
