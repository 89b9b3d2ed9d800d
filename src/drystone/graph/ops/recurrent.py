"""Recurrent layers, after the product of all time steps' inputs: LSTM, GRU and plain RNNs, in one or two directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, TypeVar

import torch

from drystone.graph.graph import Value
from drystone.graph.ops.operator import OneOf, Operator, Sample, Shape, Tensor, Whole, require, takes

__all__ = ["Recurrent"]

T = TypeVar("T")

# Gates of a unit, in torch's order: i f g o; r z n; one.
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


@dataclass(frozen=True)
class Recurrent(Operator):
    """The hidden part of a layer of LSTM, GRU or RNN: [y, h], of an LSTM [y, h, c].

    T steps, batch N, D ``directions``, G gates of H units. Operands: gates (T, N, D G H) float32, what the inputs give them, with
    the biases, in torch's order; for each direction W_hh (G H, R), the bias (H) inside a GRU's new gate if ``has_bias``, the
    projection (R, H) if ``projects``; if ``has_state`` the state (D, N, R) and an LSTM's cell (D, N, H), zeros otherwise. Results:
    y (T, N, D R), or (N, T, D R) if ``batch_first``; h (D, N, R), c (D, N, H). The second direction runs backwards.
    """

    name: ClassVar[str] = "recurrent"
    sample: ClassVar[Sample] = (("lstm", 1, False, False, False, False), [(3, 1, 64)], [(64, 16)])

    kind: Annotated[str, OneOf(GATES)]
    directions: Annotated[int, Whole(1, 2)]
    batch_first: bool
    has_bias: bool
    projects: bool
    has_state: bool

    @property
    def operands(self) -> int:
        return 1 + self.directions * (1 + self.has_bias + self.projects) + self.has_state * (1 + (self.kind == "lstm"))

    def by_role(self, inputs: Sequence[T]) -> Operands[T]:
        """``inputs``, in the order of a node's and ``operands`` of them, by what they are."""
        gates, *rest = inputs
        directions = []
        for _ in range(self.directions):
            weight = rest.pop(0)
            bias = rest.pop(0) if self.has_bias else None
            directions.append(Direction(weight, bias, rest.pop(0) if self.projects else None))
        state = rest.pop(0) if self.has_state else None
        return Operands(gates, directions, state, rest.pop(0) if rest else None)

    def _sizes(self, inputs: Sequence[Value]) -> tuple[int, int, int]:
        """(batch, hidden, state) where there are enough operands, of which the first is a sequence."""
        given = self.by_role(inputs)
        weight = given.directions[0].weight
        require(len(given.gates.shape) == 3 and len(weight.shape) == 2, f"{given.gates} and {weight} are no recurrent layer")
        return given.gates.shape[0 if self.batch_first else 1], weight.shape[0] // GATES[self.kind], weight.shape[1]

    def operations(self, inputs: Sequence[Value], output: Value) -> int:
        given = self.by_role(inputs)
        rows = given.gates.shape[0] * given.gates.shape[1]
        weights = [weight for one in given.directions for weight in (one.weight, one.projection) if weight is not None]
        return 2 * rows * sum(weight.numel for weight in weights)

    def shape(self, inputs: Sequence[Value]) -> Shape:
        kind, count = self.kind, self.directions
        takes(self, inputs, self.operands)
        require(kind == "lstm" or not self.projects, f"a {kind} projects nothing")
        require(kind == "gru" or not self.has_bias, f"a {kind} has no bias inside")
        batch, hidden, size = self._sizes(inputs)
        require(self.projects or size == hidden, f"a state of {size} for {hidden} units")
        given = self.by_role(inputs)
        expected: list[tuple[Value | None, Shape]] = [(given.gates, (*given.gates.shape[:2], count * GATES[kind] * hidden))]
        for direction in given.directions:
            expected += [
                (direction.weight, (GATES[kind] * hidden, size)),
                (direction.bias, (hidden,)),
                (direction.projection, (size, hidden)),
            ]
            constants = [value for value in (direction.weight, direction.bias, direction.projection) if value is not None]
            require(all(value.is_constant for value in constants), "a weight is no constant")
        expected += [(given.state, (count, batch, size)), (given.cell, (count, batch, hidden))]
        for value, shape in expected:
            require(value is None or value.shape == shape, f"{value} is not of the shape {list(shape)}")
        return (*given.gates.shape[:2], count * size)

    def further(self, inputs: Sequence[Value]) -> list[Shape]:
        batch, hidden, size = self._sizes(inputs)
        state, cell = (self.directions, batch, size), (self.directions, batch, hidden)
        return [state, cell] if self.kind == "lstm" else [state]

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        kind, time = self.kind, 1 if self.batch_first else 0
        given = self.by_role(inputs)
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
