"""nn.LSTM, GRU, RNN and their cells through ``drystone.optimize``: no variant of theirs runs on ATen."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import drystone
from agreement import Reference, leaves
from drystone import native

pytestmark = [
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
    pytest.mark.usefixtures("no_tuning_cache"),
]

STEPS, INPUTS, HIDDEN = 6, 13, 20
LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}
DTYPES = [None, torch.bfloat16]


class Called(nn.Module):
    """A layer whose states are arguments of their own, as ``Reference`` gives them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, *states):
        return self.layer(x, states if len(states) == 2 else states[0]) if states else self.layer(x)


def layer(kind, **options):
    torch.manual_seed(0)
    return Called(LAYERS[kind](INPUTS, HIDDEN, **options)).eval().requires_grad_(False)


def inputs_of(module, batch=3, steps=STEPS, states=True):
    """x, and states for the layer's directions; ``batch`` None for an input without one."""
    own = module.layer
    order = () if batch is None else (batch,)
    x = torch.randn(*order, steps, INPUTS) if own.batch_first else torch.randn(steps, *order, INPUTS)
    count = own.num_layers * (1 + own.bidirectional)
    sizes = [own.proj_size or HIDDEN, HIDDEN][: 1 + isinstance(own, nn.LSTM)] if states else []
    return (x, *(torch.randn(count, *order, size) for size in sizes))


def check(module, inputs, dtype=None):
    expected = Reference(module, inputs)
    fast = drystone.optimize(module, inputs, dtype=dtype, strict=True, tuning="estimate")
    result = fast(*inputs)
    (expected.check_float32 if dtype is None else expected.check_bfloat16)(result)
    for a, b in zip(leaves(result), leaves(fast(*inputs)), strict=True):
        assert torch.equal(a, b)
    return fast


KINDS = [("lstm", {}), ("lstm", {"proj_size": 9}), ("gru", {}), ("rnn", {}), ("rnn", {"nonlinearity": "relu"})]
of_every_kind = pytest.mark.parametrize(("kind", "more"), KINDS, ids=["lstm", "lstm-projected", "gru", "rnn-tanh", "rnn-relu"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
@pytest.mark.parametrize("num_layers", [1, 3])
@of_every_kind
def test_layers(kind, more, num_layers, bidirectional, dtype):
    module = layer(kind, num_layers=num_layers, bidirectional=bidirectional, **more)
    check(module, inputs_of(module), dtype)


@of_every_kind
def test_batch_first(kind, more):
    module = layer(kind, batch_first=True, bidirectional=True, num_layers=2, **more)
    check(module, inputs_of(module))
    check(module, inputs_of(module, batch=1, states=False))


@of_every_kind
def test_without_states_biases_and_batch(kind, more):
    module = layer(kind, **more)
    check(module, inputs_of(module, states=False))
    check(module, inputs_of(module, batch=None))
    check(module, inputs_of(module, batch=None, states=False))
    module = layer(kind, bias=False, num_layers=2, **more)
    check(module, inputs_of(module))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 33])
def test_batches_and_a_single_step(kind, batch):
    module = layer(kind)
    check(module, inputs_of(module, batch))
    check(module, inputs_of(module, batch, steps=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "more"), [("lstm", {}), ("gru", {}), ("rnn", {}), ("rnn", {"nonlinearity": "relu"})])
def test_cells(kind, more, bias, dtype):
    module = Called(CELLS[kind](INPUTS, HIDDEN, bias=bias, **more)).eval().requires_grad_(False)
    for batch in ((3,), (1,), ()):
        states = [torch.randn(*batch, HIDDEN) for _ in range(1 + (kind == "lstm"))]
        check(module, (torch.randn(*batch, INPUTS), *states), dtype)
    check(module, (torch.randn(3, INPUTS),), dtype)


class Loop(nn.Module):
    """A cell that a model calls step by step, its states going on as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(INPUTS, HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x):
        h, c = x.new_zeros(x.shape[1], HIDDEN), x.new_zeros(x.shape[1], HIDDEN)
        for step in x.unbind(0):
            h, c = self.cell(step, (h, c))
        return self.head(h), c


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loop_over_cells(dtype):
    check(Loop().eval().requires_grad_(False), (torch.randn(STEPS, 2, INPUTS),), dtype)


class Tagger(nn.Module):
    """What surrounds such layers: the sequence goes on permuted and in parts, one state is read, the other is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(INPUTS, HIDDEN, batch_first=True, bidirectional=True)
        self.second, self.head = nn.GRU(2 * HIDDEN, HIDDEN), nn.Linear(2 * HIDDEN, 5)

    def forward(self, x):
        y, (_, c) = self.first(x)
        z, _ = self.second(y.relu().transpose(0, 1), c.tanh()[:1])
        return self.head(torch.cat([z.transpose(0, 1), y[:, :, :HIDDEN]], 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_within_a_model(dtype):
    module = Tagger().eval().requires_grad_(False)
    check(module, (torch.randn(4, STEPS, INPUTS),), dtype)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_module_that_is_bfloat16_itself(kind):
    module = layer(kind, num_layers=2, bidirectional=True)
    low = copy.deepcopy(module).bfloat16()
    inputs = tuple(x.bfloat16() for x in inputs_of(module))
    fast = drystone.optimize(low, inputs, strict=True, tuning="estimate")
    exact = Reference(copy.deepcopy(low).float(), tuple(x.float() for x in inputs))
    for got, want, eager in zip(leaves(fast(*inputs)), exact.float64, leaves(low(*inputs)), strict=True):
        assert got.dtype == torch.bfloat16 and got.shape == want.shape
        assert (got.double() - want).norm() <= 1.5 * (eager.double() - want).norm()


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("kind", LAYERS)
def test_threads(kind, batch):
    """Large enough that threads share each step; the bits are the same on any number of them."""
    torch.manual_seed(0)
    module = Called(LAYERS[kind](32, 150, 2, bidirectional=True)).eval().requires_grad_(False)
    x = torch.randn(4, batch, 32)
    expected = Reference(module, (x,))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(drystone.optimize(module, (x,), strict=True, tuning="estimate")(x))
        expected.check_float32(results[-1])
    for a, b in zip(leaves(results[1]), leaves(results[2]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", LAYERS)
def test_not_a_number_and_infinity(kind):
    module = layer(kind)
    x, *states = inputs_of(module)
    x[2, 0, 3], x[3, 1, 4] = math.nan, math.inf
    fast = drystone.optimize(module, (x, *states), strict=True, tuning="estimate")
    for got, want in zip(leaves(fast(x, *states)), leaves(module(x, *states)), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("kind", LAYERS)
def test_any_batch(kind):
    module = layer(kind, num_layers=2).layer
    dim = torch.export.Dim("batch", min=1, max=64)
    example = torch.randn(STEPS, 4, INPUTS)
    fast = drystone.optimize(module, example, dynamic_shapes={"input": {1: dim}}, strict=True, tuning="estimate")
    for batch in (4, 1, 9):
        x = torch.randn(STEPS, batch, INPUTS)
        Reference(module, (x,)).check_float32(fast(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@of_every_kind
def test_an_artefact_gives_the_same_bits(kind, more, dtype, tmp_path: Path):
    module = layer(kind, num_layers=2, bidirectional=True, **more)
    inputs = inputs_of(module)
    fast = drystone.optimize(module, inputs, dtype=dtype, strict=True, tuning="estimate")
    drystone.save(fast, tmp_path / "m.drystone")
    again = drystone.load(tmp_path / "m.drystone")
    for a, b in zip(leaves(again(*inputs)), leaves(fast(*inputs)), strict=True):
        assert torch.equal(a, b)


def test_no_warning_of_torchs_own():
    module = layer("lstm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drystone.optimize(module, inputs_of(module), tuning="estimate")
