"""What a ``recurrent`` node computes, slowly and plainly, and how its operands follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from drystone.graph.graph import Node

Tensor = torch.Tensor
T = TypeVar("T")

#: Gates of a unit, in torch's order: i f g o; r z n; one.
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass
class Direction(Generic[T]):
    """W_hh (G H, R), the bias (H) inside a GRU's new gate, the projection (R, H)."""

    weight: T
    bias: T | None
    projection: T | None


@dataclass
class Operands(Generic[T]):
    """A node's inputs, or what stands for them, by what they are. ``cell`` is an LSTM's."""

    gates: T
    directions: list[Direction[T]]
    state: T | None
    cell: T | None


def operand_count(node: Node) -> int:
    a = node.attrs
    return 1 + a["directions"] * (1 + a["has_bias"] + a["projects"]) + a["has_state"] * (1 + (a["kind"] == "lstm"))


def operands(node: Node, inputs: Sequence[T]) -> Operands[T]:
    """``inputs`` in the order of ``node.inputs``, ``operand_count(node)`` of them."""
    a, (gates, *rest) = node.attrs, inputs
    directions = []
    for _ in range(a["directions"]):
        weight = rest.pop(0)
        bias = rest.pop(0) if a["has_bias"] else None
        directions.append(Direction(weight, bias, rest.pop(0) if a["projects"] else None))
    state = rest.pop(0) if a["has_state"] else None
    return Operands(gates, directions, state, rest.pop(0) if rest else None)


def recurrent(node: Node, inputs: list[Tensor]) -> list[Tensor]:
    """[y, h], for an LSTM [y, h, c]."""
    kind, time = node.attrs["kind"], 1 if node.attrs["batch_first"] else 0
    given = operands(node, inputs)
    count = len(given.directions)
    sequences, states, cells = [], [], []
    for index, direction in enumerate(given.directions):
        steps = list(given.gates.chunk(count, 2)[index].unbind(time))
        batch, size = steps[0].shape[0], direction.weight.shape[1]
        h = given.gates.new_zeros(batch, size) if given.state is None else given.state[index]
        c = given.gates.new_zeros(batch, steps[0].shape[1] // GATES[kind]) if given.cell is None else given.cell[index]
        made = []
        for gates in reversed(steps) if index == 1 else steps:
            h, c = _step(kind, gates, direction, h, c)
            made.append(h)
        sequences.append(torch.stack(made[::-1] if index == 1 else made, time))
        states.append(h)
        cells.append(c)
    last = [states, cells] if kind == "lstm" else [states]
    return [torch.cat(sequences, 2), *(torch.stack(parts) for parts in last)]


def _step(kind: str, gates: Tensor, direction: Direction[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    inner = h @ direction.weight.t()
    if kind == "lstm":
        i, f, g, o = (gates + inner).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (h if direction.projection is None else h @ direction.projection.t()), c
    if kind == "gru":
        (r, z, n), (inner_r, inner_z, inner_n) = gates.chunk(3, 1), inner.chunk(3, 1)
        update = (z + inner_z).sigmoid()
        new = (n + (r + inner_r).sigmoid() * (inner_n if direction.bias is None else inner_n + direction.bias)).tanh()
        return (1 - update) * new + update * h, c
    return ((gates + inner).tanh() if kind == "rnn_tanh" else (gates + inner).relu()), c
