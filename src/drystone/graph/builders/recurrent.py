"""LSTM, GRU and RNN: for each layer one product of all time steps' inputs, and one ``recurrent`` node that runs through time.

before:  y, h, c = lstm(x, (h0, c0), weights, …)
after:   gates = linear(x, W_ih of both directions, b_ih + b_hh);  y, h, c = recurrent(gates, W_hh of each direction, h0, c0)
The gates' inputs are float32 whatever x is: sums are not rounded on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from drystone.graph.builders.registry import Built, Declined, Emitter, builds
from drystone.graph.graph import Value
from drystone.graph.ops import Cat, Linear, Recurrent, Slice


@dataclass
class Direction:
    """The parameters of one direction of a layer: W_ih (G H, I), W_hh (G H, R), b_ih and b_hh (G H), W_hr (R, H)."""

    inputs: Value
    hidden: Value
    biases: tuple[Value, Value] | None
    projection: Value | None


def directions_of(params: list[Value], has_biases: bool, layers: int, bidirectional: bool) -> list[list[Direction]]:
    """Of each layer, its directions."""
    if not all(value.is_constant for value in params):
        raise Declined("a recurrent layer whose weights are computed")
    count = layers * (1 + bidirectional)
    size = len(params) // count
    if size * count != len(params) or size - 2 * has_biases not in (2, 3):
        raise Declined(f"a recurrent layer of {len(params)} parameters")
    found = []
    for start in range(0, len(params), size):
        inputs, hidden, *rest = params[start : start + size]
        biases = (rest[0], rest[1]) if has_biases else None
        found.append(Direction(inputs, hidden, biases, rest[-1] if len(rest) % 2 else None))
    return [found[i : i + 1 + bidirectional] for i in range(0, count, 1 + bidirectional)]


def _joined(values: list[Value], dtype: torch.dtype, what: str, make: Callable[[], torch.Tensor]) -> Value:
    """A constant that is made of others, when it is packed; the same in every graph of a model."""
    rows = sum(value.shape[0] for value in values)
    identity = ("recurrent", what, *(value.key for value in values))
    return Value((rows, *values[0].shape[1:]), dtype, values[0].name, data=make, identity=identity)


def input_weights(layer: list[Direction]) -> Value:
    values = [direction.inputs for direction in layer]
    if len(values) == 1:
        return values[0]
    return _joined(values, values[0].dtype, "inputs", lambda: torch.cat([value.constant.detach() for value in values]))


def gate_bias(layer: list[Direction], kind: str) -> Value | None:
    """b_ih + b_hh in float32, of all directions; of a GRU's new gate b_ih alone, as its b_hh is scaled by the reset gate."""
    pairs = [direction.biases for direction in layer if direction.biases is not None]
    if not pairs:
        return None

    def total() -> torch.Tensor:
        parts = []
        for given, hidden in pairs:
            added = hidden.constant.detach().float().clone()
            if kind == "gru":
                added[-added.numel() // 3 :] = 0
            parts.append(given.constant.detach().float() + added)
        return torch.cat(parts)

    value = _joined([given for given, _ in pairs], torch.float32, "biases", total)
    value.identity = (value.identity, *(hidden.key for _, hidden in pairs), kind == "gru")
    return value


def inner_bias(direction: Direction) -> Value:
    assert direction.biases is not None
    hidden = direction.biases[1]
    size = hidden.shape[0] // 3
    identity = ("recurrent", "inner bias", hidden.key)
    return Value((size,), torch.float32, hidden.name, data=lambda: hidden.constant.detach().float()[-size:], identity=identity)


def _layer(
    b: Emitter, kind: str, x: Value, layer: list[Direction], states: list[Value], batch_first: bool, cell_dtype: torch.dtype
) -> list[Value]:
    """The outputs of one layer, [y, h] or [y, h, c], for x (T, N, I) and states (D, N, ·)."""
    bias = gate_bias(layer, kind)
    operands = [x, input_weights(layer)] if bias is None else [x, input_weights(layer), bias]
    gates = b.emit(Linear(has_bias=bias is not None), operands, torch.float32)
    inside = kind == "gru" and bias is not None
    weights = []
    for direction in layer:
        weights.append(direction.hidden)
        weights += [inner_bias(direction)] if inside else []
        weights += [direction.projection] if direction.projection is not None else []
    op = Recurrent(
        kind=kind,
        directions=len(layer),
        batch_first=batch_first,
        has_bias=inside,
        projects=layer[0].projection is not None,
        has_state=bool(states),
    )
    y = b.emit(op, [gates, *weights, *states], x.dtype)
    node = y.producer
    assert node is not None
    for shape, dtype, what in zip(op.further(node.inputs), (x.dtype, cell_dtype), ("state", "cell"), strict=False):
        node.outputs.append(Value(shape, dtype, f"{y.name}.{what}", producer=node))
    return node.outputs


def _part(b: Emitter, state: Value, index: int, count: int) -> Value:
    """Rows [index, index + count) of a state (layers and directions, N, ·)."""
    if state.shape[0] == count:
        return state
    if state.is_constant:
        return b.constant(state.constant.narrow(0, index, count), state.name)
    return b.emit(Slice(0, index, count), [state])


def _are_zeros(states: list[Value]) -> bool:
    return all(state.is_constant and not state.constant.any() for state in states)


def _layers(
    b: Emitter,
    kind: str,
    x: Value,
    states: list[Value],
    params: list[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Value | None]:
    if train and dropout:
        raise Declined("a recurrent layer that drops")
    if len(x.shape) != 3:
        raise Declined("packed sequences")
    count = 1 + bidirectional
    given = [] if _are_zeros(states) else states
    made = []
    for index, layer in enumerate(directions_of(params, has_biases, num_layers, bidirectional)):
        parts = [_part(b, state, index * count, count) for state in given]
        x, *last = _layer(b, kind, x, layer, parts, batch_first, b.dtype)
        made.append(last)

    def final(which: int) -> Value | None:
        parts = [last[which] for last in made]
        if len(parts) == 1 or not b.reads(1 + which):
            return parts[0] if len(parts) == 1 else None
        return b.emit(Cat(0), parts)

    return [x, *(final(which) for which in range(len(states)))]


@builds("lstm.input")
def lstm(b: Emitter, x: Value, hx: list[Value], params: list[Value], *options: bool) -> Built:
    return _layers(b, "lstm", x, hx, params, *options)  # type: ignore[arg-type]


def _one_state(kind: str) -> None:
    @builds(f"{kind}.input")
    def layers(b: Emitter, x: Value, hx: Value, params: list[Value], *options: bool) -> Built:
        return _layers(b, kind, x, [hx], params, *options)  # type: ignore[arg-type]


for _kind in ("gru", "rnn_tanh", "rnn_relu"):
    _one_state(_kind)


def _cell(b: Emitter, kind: str, x: Value, states: list[Value], params: list[Value | None]) -> list[Value]:
    """One time step: x (N, I) and states (N, H)."""
    given = [value for value in params if value is not None]
    if len(given) % 2 or len(x.shape) != 2:
        raise Declined("a recurrent cell with one bias, or of other than two axes")
    (layer,) = directions_of(given, len(given) == 4, 1, False)
    batch = x.shape[0]
    states = [] if _are_zeros(states) else [b.reshape(state, (1, *state.shape)) for state in states]
    _, *last = _layer(b, kind, b.reshape(x, (1, *x.shape)), layer, states, False, b.dtype)
    return [b.reshape(state, (batch, state.shape[2])) for state in last]


@builds("lstm_cell")
def lstm_cell(b: Emitter, x: Value, hx: list[Value], *params: Value | None) -> Built:
    return list(_cell(b, "lstm", x, hx, list(params)))


def _one_state_cell(kind: str) -> None:
    @builds(f"{kind}_cell")
    def cell(b: Emitter, x: Value, hx: Value, *params: Value | None) -> Built:
        return _cell(b, kind, x, [hx], list(params))[0]


for _kind in ("gru", "rnn_tanh", "rnn_relu"):
    _one_state_cell(_kind)
