"""The shapes of products of two computed matrices, of attention, of rotary embeddings and of recurrent layers. As shapes.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from drystone.artefact.document import require
from drystone.artefact.shapes import Shape, broadcasts, takes, together
from drystone.graph.graph import Node, Value
from drystone.graph.recurrent import GATES, operand_count, operands


def _ordered(node: Node, value: Value, dims: Sequence[int]) -> Shape:
    require(sorted(dims) == list(range(len(value.shape))), f"{node.name}: {list(dims)} is no order of the axes of {value}")
    return tuple(value.shape[dim] for dim in dims)


def batch_matmul(node: Node) -> Shape:
    takes(node, 2)
    a, b = (_ordered(node, value, dims) for value, dims in zip(node.inputs, node.attrs["dims"], strict=True))
    require(len(a) == len(b) >= 2 and a[-1] == b[-2], f"{node.name}: {list(a)} and {list(b)} have no product")
    return (*together(node, [a[:-2], b[:-2]]), a[-2], b[-1])


def rotary(node: Node) -> Shape:
    takes(node, 3)
    shape = _ordered(node, node.inputs[0], node.attrs["dims"])
    require(shape and shape[-1] % 2 == 0 and node.attrs["dims"][-1] == len(shape) - 1, f"{node.name}: no halves of {list(shape)}")
    for factors in node.inputs[1:]:
        fits = factors.shape and factors.shape[-1] == shape[-1] and broadcasts(factors.shape, shape)
        require(fits, f"{node.name}: {factors} does not fit {list(shape)}")
    return shape


def attention(node: Node) -> Shape:
    first, has_mask = node.attrs["heads_first"], node.attrs["has_mask"]
    takes(node, 3 + has_mask)
    require(len(first) == 4, f"{node.name}: the order of axes is that of three operands and the result")
    require(all(len(value.shape) == 4 for value in node.inputs[:3]), f"{node.name}: an attention has operands of four axes")
    heads = [_heads_first(value.shape, order) for value, order in zip(node.inputs[:3], first, strict=False)]
    (batch, count, queries, depth), key, value = heads
    fits = key[0] == value[0] == batch and key[1:3] == value[1:3] and count % key[1] == 0 and key[3] == depth
    require(fits, f"{node.name}: {', '.join(map(str, node.inputs[:3]))} do not fit together")
    dtypes = {operand.dtype for operand in [*node.inputs[:3], node.output]}
    require(len(dtypes) == 1 and torch.bool not in dtypes, f"{node.name} changes its dtype")
    if has_mask:
        mask = node.inputs[3]
        require(broadcasts(mask.shape, (batch, count, queries, key[2])), f"{node.name}: {mask} does not fit the scores")
    return _heads_first((batch, count, queries, value[3]), first[3])


def _heads_first(shape: Shape, already: bool) -> Shape:
    """(B, H, T, D) of that or of (B, T, H, D); and back."""
    return shape if already else (shape[0], shape[2], shape[1], shape[3])


def _recurrent_sizes(node: Node) -> tuple[int, int, int]:
    """(batch, hidden, state) of a recurrent node with the right number of operands, of which the first is a sequence."""
    given = operands(node, node.inputs)
    weight = given.directions[0].weight
    require(
        len(given.gates.shape) == 3 and len(weight.shape) == 2, f"{node.name}: {given.gates} and {weight} are no recurrent layer"
    )
    return given.gates.shape[0 if node.attrs["batch_first"] else 1], weight.shape[0] // GATES[node.attrs["kind"]], weight.shape[1]


def recurrent(node: Node) -> Shape:
    kind, count = node.attrs["kind"], node.attrs["directions"]
    takes(node, operand_count(node))
    require(kind == "lstm" or not node.attrs["projects"], f"{node.name}: a {kind} projects nothing")
    require(kind == "gru" or not node.attrs["has_bias"], f"{node.name}: a {kind} has no bias inside")
    batch, hidden, size = _recurrent_sizes(node)
    require(node.attrs["projects"] or size == hidden, f"{node.name}: a state of {size} for {hidden} units")
    given = operands(node, node.inputs)
    expected: list[tuple[Value | None, Shape]] = [(given.gates, (*given.gates.shape[:2], count * GATES[kind] * hidden))]
    for direction in given.directions:
        expected += [
            (direction.weight, (GATES[kind] * hidden, size)),
            (direction.bias, (hidden,)),
            (direction.projection, (size, hidden)),
        ]
        constants = [value for value in (direction.weight, direction.bias, direction.projection) if value is not None]
        require(all(value.is_constant for value in constants), f"{node.name}: a weight is no constant")
    expected += [(given.state, (count, batch, size)), (given.cell, (count, batch, hidden))]
    for value, shape in expected:
        require(value is None or value.shape == shape, f"{node.name}: {value} is not of the shape {list(shape)}")
    return (*given.gates.shape[:2], count * size)


def recurrent_states(node: Node) -> list[Shape]:
    """Of the last state, and of an LSTM's last cell."""
    count = node.attrs["directions"]
    batch, hidden, size = _recurrent_sizes(node)
    state, cell = (count, batch, size), (count, batch, hidden)
    return [state, cell] if node.attrs["kind"] == "lstm" else [state]
