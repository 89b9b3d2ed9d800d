"""Winograd's convolution over three spatial axes against float64: 3×3×3, and 1×3×3 slice by slice."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from layout import blank, dense, lay, place, read, run

from drystone import native
from drystone.graph.graph import Node, Value, constant, make_node
from drystone.graph.ops import Conv
from drystone.native import DType, Winograd
from drystone.plan.implementations.winograd import Winograd as Implementation

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

FORMATS = ("channels_last", *(format.name for format in native.formats() if format.block % native.blocked().block == 0))
TILES = (2, 4)
BOUND = {2: 0.0, 4: 1e-6}  # of the relative L2 error on small integers
Sides = tuple[int, int, int]


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    format: str = "channels_last",
    tile: int = 4,
    before: Sides = (1, 1, 1),
    after: Sides = (1, 1, 1),
    held: torch.Tensor | None = None,
    threads: int = 2,
) -> torch.Tensor:
    """``held`` is added: it is what the output's memory holds before."""
    source, buffer = lay(x, format)
    sizes = (size + a + b - k + 1 for size, a, b, k in zip(x.shape[2:], before, after, weight.shape[2:], strict=True))
    target = dense((x.shape[0], weight.shape[0], *sizes), format)
    ops = [] if held is None else [("sum", 0.0, 0.0, None)]
    step = Winograd(source, list(weight.shape), bias is not None, target, list(before), list(after), tile, ops)
    packed = torch.full((step.packed_bytes // 4,), math.nan)
    step.pack(DType.f32, weight.contiguous().data_ptr(), packed.data_ptr())
    assert not packed.isnan().any(), "pack left a part of the weights unwritten"
    out = blank(target) if held is None else place(held, target)
    run(step, buffer, packed, *([] if bias is None else [bias]), out, threads=threads)
    return read(target, out)


def expected(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, before: Sides = (1, 1, 1), after: Sides = (1, 1, 1)
) -> torch.Tensor:
    pads = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return F.conv3d(F.pad(x.double(), pads), weight.double(), None if bias is None else bias.double())


def check(got: torch.Tensor, want: torch.Tensor, tile: int) -> None:
    assert got.shape == want.shape and torch.isfinite(got).all()
    assert float((got - want).norm()) <= BOUND[tile] * float(want.norm())


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 4), (2, 3, 9), (3, 8, 8), (7, 6, 13)])
def test_sizes(size: Sides, format: str, tile: int) -> None:
    x, weight, bias = integers(2, 32, *size), integers(48, 32, 3, 3, 3, seed=1), integers(48, seed=2)
    check(convolved(x, weight, bias, format=format, tile=tile), expected(x, weight, bias), tile)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("channels", "size"), [((16, 16), (9, 20, 24)), ((144, 80), (3, 9, 8)), ((512, 272), (2, 4, 4)), ((80, 16), (1, 7, 7))]
)
def test_every_way_to_cut_the_work(channels: tuple[int, int], size: Sides, threads: int, tile: int) -> None:
    x, weight = integers(1, channels[0], *size), integers(channels[1], channels[0], 3, 3, 3, seed=1)
    native.set_threads(threads)
    got = convolved(x, weight, tile=tile, threads=threads)
    check(got, expected(x, weight), tile)
    native.set_threads(3 - threads)
    assert torch.equal(got, convolved(x, weight, tile=tile, threads=threads)), "the result depends on how the work was cut"


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("before", "after"),
    [((0, 0, 0), (0, 0, 0)), ((1, 0, 1), (0, 1, 1)), ((0, 1, 0), (1, 1, 0)), ((0, 0, 0), (1, 0, 1)), ((2, 1, 0), (0, 2, 2))],
)
def test_padding(before: Sides, after: Sides, format: str, tile: int) -> None:
    x, weight = integers(2, 16, 4, 7, 6), integers(32, 16, 3, 3, 3, seed=1)
    got = convolved(x, weight, format=format, tile=tile, before=before, after=after)
    check(got, expected(x, weight, None, before, after), tile)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
def test_slices_alone(format: str, tile: int) -> None:
    x, weight, bias = integers(2, 32, 5, 9, 7), integers(16, 32, 1, 3, 3, seed=1), integers(16, seed=2)
    sides = (0, 1, 1)
    got = convolved(x, weight, bias, format=format, tile=tile, before=sides, after=sides)
    check(got, expected(x, weight, bias, sides, sides), tile)


@pytest.mark.parametrize("format", FORMATS)
def test_adds_where_the_output_lies(format: str) -> None:
    x, weight, held = integers(1, 16, 3, 6, 5), integers(16, 16, 3, 3, 3, seed=1), integers(1, 16, 3, 6, 5, seed=3)
    check(convolved(x, weight, format=format, held=held), expected(x, weight) + held.double(), 4)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (2, 3, 4), (3, 8, 8)])
def test_nonfinite_values_reach_their_windows_only(place: Sides, value: float, tile: int) -> None:
    x, weight = integers(1, 16, 4, 9, 9), integers(16, 16, 3, 3, 3, seed=1)
    x[0, 5][place] = value
    got, want = convolved(x, weight, tile=tile), expected(x, weight)
    assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf())
    finite = want.isfinite()
    check(got[finite], want[finite], tile)


def test_refusals() -> None:
    x, slices = integers(1, 16, 4, 8, 8), integers(16, 16, 1, 3, 3)
    with pytest.raises(ValueError, match="slices that do not see each other"):
        convolved(x, slices)
    with pytest.raises(ValueError, match="1 or 3, 3, 3"):
        convolved(x, integers(16, 16, 2, 3, 3))
    volume = dense((1, 16, 4, 8, 8), "channels_last")
    with pytest.raises(ValueError, match="each spatial axis"):
        Winograd(volume, [16, 16, 3, 3, 3], False, volume, [1, 1], [1, 1], 4, [])


def conv_node(kernel: Sides, padding: Sides) -> Node:
    x = Value((1, 16, 4, 16, 16), torch.float32)
    weight = constant(torch.zeros(16, 16, *kernel))
    return make_node(Conv((1, 1, 1), padding, padding, (1, 1, 1), groups=1, has_bias=False), [x, weight])


@pytest.mark.parametrize(
    ("kernel", "padding", "reason"),
    [
        ((3, 3, 3), (1, 1, 1), None),
        ((3, 3, 3), (0, 1, 0), None),
        ((1, 3, 3), (0, 1, 1), None),
        ((1, 3, 3), (1, 1, 1), "slices"),
        ((3, 1, 1), (1, 0, 0), "kernel"),
        ((3, 3, 1), (1, 1, 0), "kernel"),
    ],
)
def test_implementation_refuses(kernel: Sides, padding: Sides, reason: str | None) -> None:
    refusal = Implementation(tile=4).refuses(conv_node(kernel, padding))
    assert refusal is None if reason is None else refusal is not None and reason in refusal
