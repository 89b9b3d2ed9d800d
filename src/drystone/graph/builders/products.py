"""Products of two matrices that are both computed, where ATen says more than ``matmul``: einsum.

``matmul``, ``bmm`` and ``baddbmm`` stay ATen nodes until attention has been recognised (passes/recognise_matmuls.py).
"""

from __future__ import annotations

import math

from drystone.graph.builders import pointwise
from drystone.graph.builders.registry import Built, Declined, Emitter, builds
from drystone.graph.builders.shape import permute_to
from drystone.graph.graph import Value
from drystone.graph.ops import Matmul, Reduce


def matmul(b: Emitter, left: Value, right: Value) -> Value:
    """left (…, M, K) @ right (…, K, N), of the same rank."""
    rank = len(left.shape)
    return b.emit(Matmul((tuple(range(rank)), tuple(range(rank)))), [left, right])


@builds("einsum")
def einsum(b: Emitter, equation: str, operands: list[Value], path: list[int] | None = None) -> Built:
    """Two operands after the other, in the order of ``path`` where one is given, become one."""
    terms, result = _letters(equation.replace(" ", ""), [len(value.shape) for value in operands])
    size: dict[str, int] = {}
    for term, value in zip(terms, operands, strict=True):
        for name, count in zip(term, value.shape, strict=True):
            if len(set(term)) < len(term) or size.setdefault(name, count) != count:
                raise Declined("an einsum with a letter twice in an operand, or of two sizes")
    left = list(zip(terms, operands, strict=True))
    pairs = zip(path[::2], path[1::2], strict=True) if path else ((0, 1),) * (len(left) - 1)
    for pair in pairs:
        second, first = (left.pop(index) for index in sorted(pair, reverse=True))
        kept = result + "".join(term for term, _ in left)
        # A path counts on the product being the last; without one it is the first that is multiplied next.
        left.insert(len(left) if path else 0, _contracted(b, first, second, kept, size))
    ((term, value),) = left
    term, value = _summed(b, term, value, result)
    return permute_to(b, value, [term.index(name) for name in result])


Named = tuple[str, Value]


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """A letter for each axis of the operands and of the result; those of an ellipsis are letters that no equation has."""
    given, arrow, result = equation.partition("->")
    terms = given.split(",")
    axes = [rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    others = "".join(chr(0x3B1 + index) for index in range(max(axes)))
    if any(count not in (0, len(others)) for count in axes):
        raise Declined("an einsum with ellipses of different lengths")
    if not arrow:
        once = sorted(name for name in set(given) - set(",.") if given.count(name) == 1)
        result = ("..." if others else "") + "".join(once)
    if others and "..." not in result:
        raise Declined("an einsum that sums over an ellipsis")
    return [term.replace("...", others) for term in terms], result.replace("...", others)


def _summed(b: Emitter, term: str, value: Value, kept: str) -> Named:
    """Without the axes that nobody else has."""
    dims = tuple(index for index, name in enumerate(term) if name not in kept)
    return "".join(name for name in term if name in kept), b.emit(Reduce("sum", dims, keepdim=False), [value]) if dims else value


def _contracted(b: Emitter, first: Named, second: Named, kept: str, size: dict[str, int]) -> Named:
    """The product of two, summed over the letters of both that are not ``kept``."""
    (one, x), (two, y) = _summed(b, *first, kept + second[0]), _summed(b, *second, kept + first[0])
    batch = [name for name in one if name in two and name in kept]
    summed = [name for name in one if name in two and name not in kept]
    rows, columns = [name for name in one if name not in two], [name for name in two if name not in one]
    order = [*batch, *rows, *columns]

    def arranged(value: Value, term: str, *groups: list[str]) -> Value:
        value = permute_to(b, value, [term.index(name) for group in (batch, *groups) for name in group])
        return b.reshape(value, [size[name] for name in batch] + [math.prod(size[name] for name in group) for group in groups])

    if summed:
        product = matmul(b, arranged(x, one, rows, summed), arranged(y, two, summed, columns))
    else:
        product = pointwise.binary(b, "mul", arranged(x, one, rows, []), arranged(y, two, [], columns))
    return "".join(order), b.reshape(product, [size[name] for name in order])
