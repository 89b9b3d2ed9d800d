"""Local response norm, which torch exports in pieces, as one node.

before:  square = mul(x, x); pad and avg_pool along the channels; scaled = (alpha * pooled + k) ** beta; div(x, scaled)
after:   lrn(x) size, alpha, beta, k
"""

from __future__ import annotations

from collections.abc import Callable

from drystone.graph.graph import Graph, Node, Value, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import LocalResponseNorm, Operator, Pad, Pointwise, Pool, Reshape

_EXPONENTS = {"square": 2.0, "sqrt": 0.5, "reciprocal": -1.0, "rsqrt": -0.5}


def recognize_local_response_norm(graph: Graph) -> Graph:
    found = False
    for position, node in enumerate(graph.nodes):
        norm = _match(node)
        if norm is not None:
            old = node.output
            graph.nodes[position] = new = make_node(norm, node.inputs[:1], old.dtype, node.name)
            graph.replace(old, new.output)
            found = True
    return graph.prune() if found else graph


def _match(node: Node) -> LocalResponseNorm | None:
    """Walks up from the division; None where a step is not as torch writes it."""
    if _single(node, "div") is None:
        return None
    x, scaled = node.inputs
    walk = _Walk(scaled)
    beta = 1.0
    if (power := walk.step(lambda op: op.kind == "pow" or op.kind in _EXPONENTS)) is not None:
        beta = _EXPONENTS.get(power.kind, power.alpha)
    shift = walk.step(lambda op: op.kind == "affine" and op.alpha == 1)
    scale = walk.step(lambda op: op.kind == "affine" and op.beta == 0)
    if shift is None or scale is None:
        return None
    pool = walk.through_reshapes(Pool)
    pad = walk.through_reshapes(Pad)
    square = walk.through_reshapes(Pointwise)
    if pool is None or pad is None or square is None or _single(square, "mul") is None:
        return None
    if len(pad.inputs[0].shape) != len(pad.output.shape) or square.inputs != [x, x]:
        return None
    size = _window(pool.of(Pool), pad.of(Pad), pad.inputs[0].shape, x)
    return None if size is None else LocalResponseNorm(size, scale.alpha, beta, shift.beta)


def _window(pool: Pool, pad: Pad, padded_shape: tuple[int, ...], x: Value) -> int | None:
    """The number of channels under a window; None if padding and pool are anything but torch's for this norm."""
    if pool.divisors is None or pool.divisor_override or len(x.shape) < 3:
        return None
    channels, *others = pool.windows
    size = channels[0][1] - channels[0][0]
    along_channels = tuple((i, i + size, 1) for i in range(x.shape[1]))
    single = all(axis == tuple((i, i + 1, 1) for i in range(len(axis))) for axis in others)
    rank = len(padded_shape)
    before, after = [0] * rank, [0] * rank
    before[2], after[2] = size // 2, (size - 1) // 2
    padded = pad == Pad(tuple(before), tuple(after), "constant")
    averaged = all(divisor == size for divisor in pool.divisors[0])
    unchanged = padded_shape[:3] == (x.shape[0], 1, x.shape[1])
    return size if channels == along_channels and single and padded and averaged and unchanged else None


def _single(node: Node | None, kind: str) -> PointwiseOp | None:
    """The only instruction of a pointwise node on two different operands, if it is of this kind."""
    if node is None or not isinstance(node.op, Pointwise) or len(node.op.ops) != 1:
        return None
    op = node.op.ops[0]
    return op if op.kind == kind and op.args == (("in", 0), ("in", 1)) else None


class _Walk:
    """Goes from a value up through its producers."""

    def __init__(self, value: Value) -> None:
        self.value = value

    def step(self, wanted: Callable[[PointwiseOp], bool]) -> PointwiseOp | None:
        """Over a node of one unary instruction."""
        node = self.value.producer
        if node is None or not isinstance(node.op, Pointwise) or len(node.op.ops) != 1 or len(node.inputs) != 1:
            return None
        op = node.op.ops[0]
        if not wanted(op):
            return None
        self.value = node.inputs[0]
        return op

    def through_reshapes(self, op: type[Operator]) -> Node | None:
        """Over any reshapes and the node above them, if that is an ``op``."""
        node = self.value.producer
        while node is not None and isinstance(node.op, Reshape):
            node = node.inputs[0].producer
        if node is None or not isinstance(node.op, op):
            return None
        self.value = node.inputs[0]
        return node
