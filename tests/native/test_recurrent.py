"""The kernel of recurrent layers against the interpreter in float64, around vectors of 8 and 16 units and tiles of 3 to 12 rows."""

from __future__ import annotations

import math

import pytest
import torch
from layout import Format, run
from layout import dense as in_format

from agreement import BFLOAT16_TIMES_AUTOCAST, FLOAT32_LIMIT, FLOAT32_TIMES_EAGER, relative_error
from drystone import native
from drystone.graph.ops import Recurrent
from drystone.graph.ops.recurrent import GATES

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")


def dense(shape, dtype=torch.float32):
    return in_format(shape, Format.plain, dtype)


KINDS = list(GATES)
SIZES = [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 65]  # units: vectors of 8 and 16, strips of two
BATCHES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 33]  # rows: tiles of 3, 4, 6, 8 and 12


class Layer:
    """One layer's operands, drawn from its sizes, and what it gives: through the kernel, and as the interpreter has it."""

    def __init__(self, kind, hidden, batch, steps=3, directions=1, projection=None, states=True, dtype=torch.float32, bias=True):
        generator = torch.Generator().manual_seed(hidden * 1000 + batch + 7)

        def normal(*shape):
            return torch.randn(shape, generator=generator)

        size = projection or hidden
        self.kind, self.hidden, self.size, self.directions, self.dtype = kind, hidden, size, directions, dtype
        self.steps, self.batch = steps, batch
        self.gates = normal(steps, batch, directions * GATES[kind] * hidden)
        self.weights = [(normal(GATES[kind] * hidden, size) / size**0.5).to(dtype) for _ in range(directions)]
        self.biases = [normal(hidden) for _ in range(directions)] if kind == "gru" and bias else None
        self.projections = [(normal(size, hidden) / hidden**0.5).to(dtype) for _ in range(directions)] if projection else None
        self.state = normal(directions, batch, size).to(dtype) if states else None
        self.cell = normal(directions, batch, hidden) if states and kind == "lstm" else None

    def outputs(self, batch_first):
        order = (self.batch, self.steps) if batch_first else (self.steps, self.batch)
        result = [torch.full((*order, self.directions * self.size), math.nan, dtype=self.dtype)]
        result.append(torch.full((self.directions, self.batch, self.size), math.nan, dtype=self.dtype))
        if self.kind == "lstm":
            result.append(torch.full((self.directions, self.batch, self.hidden), math.nan))
        return result

    def native(self, batch_first=False, threads=2, widened=False):
        native.set_threads(threads)
        code, gates = native.DTYPES[self.dtype], GATES[self.kind]
        given = self.gates.transpose(0, 1).contiguous() if batch_first else self.gates
        outputs = self.outputs(batch_first)
        descs = [None if x is None else dense(x.shape, x.dtype) for x in (given, self.state, self.cell, *outputs)]
        final_cell = descs[5] if self.kind == "lstm" else None
        flags = (batch_first, self.biases is not None, self.projections is not None)
        step = native.recurrent(self.kind, code, self.hidden, self.directions, *flags, *descs[:5], final_cell, widened)
        packed = []
        for d in range(self.directions):
            packed.append(self.pack(native.RecurrentWeights(code, gates, self.hidden, self.size), self.weights[d]))
            packed += [self.biases[d]] if self.biases else []
            if self.projections:
                packed.append(self.pack(native.RecurrentWeights(code, 1, self.size, self.hidden), self.projections[d]))
        states = [x for x in (self.state, self.cell) if x is not None]
        run(step, given, *packed, *states, *outputs, threads=threads)
        outputs[0] = outputs[0].transpose(0, 1) if batch_first else outputs[0]
        return outputs

    @staticmethod
    def pack(packing, weight):
        memory = torch.full((packing.packed_bytes,), 255, dtype=torch.uint8)  # not a number, where nothing is written
        packing.pack(native.DTYPES[weight.dtype], weight.contiguous().data_ptr(), memory.data_ptr())
        return memory

    def exact(self, dtype=torch.float64):
        operands = [self.gates]
        for d in range(self.directions):
            operands.append(self.weights[d])
            operands += [self.biases[d]] if self.biases else []
            operands += [self.projections[d]] if self.projections else []
        operands += [x for x in (self.state, self.cell) if x is not None]
        op = Recurrent(
            kind=self.kind,
            directions=self.directions,
            batch_first=False,
            has_bias=self.biases is not None,
            projects=self.projections is not None,
            has_state=self.state is not None,
        )
        return op.run([x.to(dtype) for x in operands])

    def check(self, **options):
        got = self.native(**options)
        for given, wanted, float32 in zip(got, self.exact(), self.exact(torch.float32), strict=True):
            if self.dtype == torch.float32:
                own = relative_error(float32, wanted)  # of a single unit, may be much: what is left of a difference
                assert relative_error(given, wanted) < max(FLOAT32_LIMIT, FLOAT32_TIMES_EAGER * own)
            else:  # what rounding the sequence costs, and each state on the way
                rounded = relative_error(float32.bfloat16(), wanted)
                assert relative_error(given, wanted) < 2 * BFLOAT16_TIMES_AUTOCAST * rounded + 2e-3
        return got


@pytest.mark.parametrize("hidden", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_remainder_of_units(kind, hidden):
    for batch in (1, 5):
        Layer(kind, hidden, batch).check()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_remainder_of_rows(kind, batch):
    Layer(kind, 37, batch).check()


@pytest.mark.parametrize("widened", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(kind, widened):
    for hidden, batch in ((1, 1), (15, 2), (16, 3), (33, 1), (33, 7), (64, 13)):
        Layer(kind, hidden, batch, dtype=torch.bfloat16).check(widened=widened)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("hidden", "size"), [(1, 1), (17, 8), (40, 33), (64, 31), (70, 64)])
def test_projections(hidden, size, dtype):
    for batch in (1, 7):
        Layer("lstm", hidden, batch, projection=size, dtype=dtype).check()


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_directions_and_orders(kind, directions):
    for steps in (1, 2, 6):
        for batch_first in (False, True):
            Layer(kind, 21, 3, steps, directions).check(batch_first=batch_first)


@pytest.mark.parametrize("kind", KINDS)
def test_from_zeros_and_without_bias(kind):
    Layer(kind, 21, 3, states=False, bias=False).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_on_any_number_of_threads(kind, directions, dtype):
    """Enough units and rows that threads share a step."""
    layer = Layer(kind, 200, 9, 4, directions, dtype=dtype, projection=40 if kind == "lstm" else None)
    results = [layer.native(threads=threads) for threads in (1, 2, 2, 3, 4)]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_large_numbers_saturate(kind):
    layer = Layer(kind, 20, 2, 1)
    layer.gates = layer.gates.sign() * torch.tensor([1e4, 3e38]).view(1, 2, 1)
    layer.check()


@pytest.mark.parametrize("kind", KINDS)
def test_not_a_number_stays_in_its_row(kind):
    layer = Layer(kind, 20, 9, 3)
    layer.gates[1, 4, 0] = math.nan
    layer.gates[1, 5, 0] = math.inf
    got, wanted = layer.native(), layer.exact(torch.float32)
    for given, expected in zip(got, wanted, strict=True):
        assert torch.equal(given.isnan(), expected.isnan())
        torch.testing.assert_close(given, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert got[0][2, 4].isnan().all() and not got[0][:, :4].isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_times_a_weight_that_is_not_finite(kind):
    for hidden, batch, directions in ((20, 2, 2), (33, 9, 1)):
        layer = Layer(kind, hidden, batch, 1, directions, states=False)
        layer.check()
        layer.weights[-1][3, 5], layer.weights[0][-1, 0] = math.nan, math.inf
        for given, expected in zip(layer.native(), layer.exact(torch.float32), strict=True):
            torch.testing.assert_close(given, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
            assert given.isnan().any()


def test_what_does_not_fit_is_refused():
    layer = Layer("lstm", 8, 2)
    f32, gates = native.DType.f32, dense((3, 2, 32))
    y, h, c = (dense(x.shape) for x in layer.outputs(False))
    good = ("lstm", f32, 8, 1, False, False, False, gates, None, None, y, h, c)
    native.recurrent(*good)
    for index, value in (
        (0, "mgu"),
        (1, native.DType.s32),
        (2, 9),
        (3, 2),
        (4, True),
        (5, True),
        (7, dense((3, 2, 31))),
        (7, dense((3, 2, 32), torch.bfloat16)),
        (8, dense((1, 2, 9))),
        (10, dense((3, 2, 9))),
        (11, dense((1, 3, 8))),
        (12, None),
    ):
        with pytest.raises(ValueError):
            native.recurrent(*good[:index], value, *good[index + 1 :])
    for bad in ((native.DType.s32, 4, 8, 8), (f32, 2, 8, 8), (f32, 4, 0, 8), (f32, 4, 2**31, 8)):
        with pytest.raises(ValueError):
            native.RecurrentWeights(*bad)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch(kind):
    """More threads than the layer has strips: teams of them take rows of their own."""
    for directions in (1, 2):
        layer = Layer(kind, 70, 41, 3, directions)
        for threads in (3, 8, 13):
            layer.check(threads=threads)
