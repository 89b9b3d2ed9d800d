"""Winograd's convolution of codes against float64: every code the nearest, whatever the sizes, the padding and the ends of the codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from codes import AFFINES, S8, U8, Affine, codes, float32
from layout import blank, dense, outcome, place, run

from drystone import native
from drystone.graph.codes import coded
from drystone.graph.graph import Node, Value, constant, make_node
from drystone.graph.ops import Conv
from drystone.graph.quantisation import Quantisation
from drystone.native import DType, PostOp, Winograd
from drystone.plan.implementations import options

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

TILES = (2, 4)
LAST = "channels_last"


def packed(step: Winograd, weight: torch.Tensor) -> torch.Tensor:
    memory = torch.full((step.packed_bytes,), 0x7F, dtype=torch.uint8)
    whole = weight.contiguous()
    step.pack(DType.s8, whole.data_ptr(), memory.data_ptr())
    return memory


def sums_of(x: torch.Tensor, zero_point: int, weight: torch.Tensor, before: list[int], after: list[int]) -> torch.Tensor:
    pads = [before[1], after[1], before[0], after[0]]
    return F.conv2d(F.pad(x.double() - zero_point, pads), weight.double())


def hold(
    x: torch.Tensor,
    weight: torch.Tensor,
    affine: Affine,
    *,
    tile: int,
    before: tuple[int, int] = (1, 1),
    after: tuple[int, int] = (1, 1),
    threads: int = 2,
    cancels: bool = False,
) -> torch.Tensor:
    """The sums, in float32, are those of float64 but for the rounding of the last transform, in the L2 norm. Returns them.
    ``cancels``: relative to the sums of magnitudes, of which those of products may be a small rest."""
    sums = sums_of(x, affine.zero_point, weight, list(before), list(after))
    source, target = affine.desc(x.shape, LAST), dense(sums.shape, LAST)
    step = Winograd(source, list(weight.shape), False, target, list(before), list(after), tile, [], [1.0] * weight.shape[0])
    got = outcome(step, target, place(x, source), packed(step, weight), threads=threads)
    want = sums * affine.scale
    size = sums_of((x.double() - affine.zero_point).abs(), 0, weight.double().abs(), list(before), list(after)) if cancels else sums
    assert (got - want).norm() <= 1e-6 * affine.scale * size.norm()
    return got


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("affine", AFFINES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 14, 28])
def test_sizes(size: int, affine: Affine, tile: int) -> None:
    weight = codes(16, 32, 3, 3, dtype=S8, seed=1)
    for height, width in {(size, size), (size, 5), (3, size)}:
        hold(codes(2, 32, height, width, dtype=affine.dtype), weight, affine, tile=tile)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("out_channels", [16, 48, 96])
@pytest.mark.parametrize("in_channels", [16, 64, 80, 144, 272])
def test_channels(in_channels: int, out_channels: int, tile: int) -> None:
    x, weight = codes(2, in_channels, 14, 11, dtype=U8), codes(out_channels, in_channels, 3, 3, dtype=S8, seed=1)
    hold(x, weight, AFFINES[1], tile=tile)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("channels", "size", "batch"), [(16, 56, 1), (64, 56, 3), (512, 7, 1), (512, 14, 1), (320, 28, 2)])
def test_every_way_to_cut_the_work(channels: int, size: int, batch: int, threads: int, tile: int) -> None:
    x, weight = codes(batch, channels, size, size, dtype=U8), codes(48, channels, 3, 3, dtype=S8, seed=1)
    try:
        native.set_threads(threads)
        got = hold(x, weight, AFFINES[1], tile=tile, threads=threads)
        native.set_threads(3 - threads)
        assert torch.equal(got, hold(x, weight, AFFINES[1], tile=tile, threads=threads)), (
            "the result depends on how the work was cut"
        )
    finally:
        native.set_threads(2)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("after", [(0, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("before", [(0, 0), (0, 1), (1, 0), (2, 1)])
def test_padding_is_the_zero_point(before: tuple[int, int], after: tuple[int, int], tile: int) -> None:
    weight = codes(32, 16, 3, 3, dtype=S8, seed=1)
    for affine in AFFINES[1:4]:
        for height, width in ((3, 3), (6, 9), (10, 4)):
            hold(codes(2, 16, height, width, dtype=affine.dtype), weight, affine, tile=tile, before=before, after=after)


@pytest.mark.parametrize("affine", [Affine(U8, 1.0, 0), Affine(U8, 1.0, 255), Affine(S8, 1.0, -128), Affine(S8, 1.0, 127)], ids=str)
@pytest.mark.parametrize("tile", TILES)
def test_no_sum_overflows(tile: int, affine: Affine) -> None:
    """The largest transformed inputs, of either sign, times the largest transformed weights, over as many channels as are summed."""
    lowest = -128 if affine.dtype == S8 else 0
    signs = torch.tensor([[1, 1, 1], [1, -1, 1], [-1, -1, -1]])
    for rows in signs:
        for columns in signs:
            weight = (rows[:, None] * columns * 127.5 - 0.5).to(S8).expand(16, 128, 3, 3)
            for period in range(1, 5):
                pattern = (torch.arange(12) // period % 2).bool()
                x = (lowest + 255 * (pattern[:, None] ^ pattern)).to(affine.dtype).expand(1, 128, 12, 12)
                hold(x, weight, affine, tile=tile, cancels=True)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("target", [Affine(S8, float32(0.7), 5), Affine(U8, float32(0.9), 0), None], ids=str)
@pytest.mark.parametrize("other", [Affine(U8, 0.25, 3), Affine(S8, 0.125, -128), torch.float32], ids=str)
def test_epilogue(other: Affine | torch.dtype, target: Affine | None, in_place: bool, tile: int) -> None:
    """A bias, a residual, relu, the next scale, into channels of a wider output."""
    if in_place and isinstance(other, Affine) != (target is not None):
        pytest.skip("other memory")
    x_affine = Affine(U8, float32(0.03), 100)
    x, weight, bias = codes(2, 16, 7, 6, dtype=U8), codes(48, 16, 3, 3, dtype=S8, seed=1), torch.linspace(-40, 40, 48)
    scales = torch.linspace(1e-3, 2e-2, 48)
    sums = sums_of(x, 100, weight, [1, 1], [1, 1])
    real = sums * x_affine.scale * scales.double()[:, None, None] + bias.double()[:, None, None]
    if isinstance(other, Affine):
        other = Affine(target.dtype, other.scale, 3) if in_place and target is not None else other
        residual = codes(*real.shape, dtype=other.dtype, seed=5)
        real = real + other.reals(residual)
    else:
        residual = torch.randn(real.shape) * 20
        real = real + residual.double()
    strides = (7 * 6 * 64, 1, 6 * 64, 64)
    wide = [
        kind.strided(tuple(real.shape), strides, LAST)
        if isinstance(kind, Affine)
        else native.TensorDesc(DType.f32, native.FORMATS[LAST], list(real.shape), list(strides))
        for kind in (other, target)
    ]
    memory = torch.full((2 * 7 * 6, 64), 77, dtype=torch.float32 if target is None else target.dtype)
    operand = memory if in_place else torch.zeros(2 * 7 * 6, 64, dtype=residual.dtype)
    operand[:, :48] = residual.permute(0, 2, 3, 1).reshape(-1, 48)
    added: PostOp = ("add", 0.0, 0.0, wide[0])
    if in_place:
        added = ("sum", other.scale, float(other.zero_point), None) if isinstance(other, Affine) else ("sum", 0.0, 0.0, None)
    source = x_affine.desc(x.shape, LAST)
    step = Winograd(
        source, list(weight.shape), True, wide[1], [1, 1], [1, 1], tile, [added, ("relu", 0.0, 0.0, None)], scales.tolist()
    )
    run(step, place(x, source), packed(step, weight), bias, memory, *([] if in_place else [operand]))
    got = memory[:, :48].reshape(2, 7, 6, 48).permute(0, 3, 1, 2)
    if target is None:
        torch.testing.assert_close(got.double(), torch.relu(real), rtol=1e-5, atol=1e-4)
    else:
        target.assert_codes(got, torch.relu(real))
    assert (memory[:, 48:] == 77).all()


def test_what_is_no_number_becomes_code_0() -> None:
    x, weight, bias = codes(1, 16, 4, 4, dtype=U8), codes(16, 16, 3, 3, dtype=S8), torch.zeros(16)
    bias[3] = float("nan")
    source, target = AFFINES[1].desc(x.shape, LAST), AFFINES[1].desc(x.shape, LAST)
    step = Winograd(source, [16, 16, 3, 3], True, target, [1, 1], [1, 1], 4, [], [1.0] * 16)
    out = blank(target)
    run(step, place(x, source), packed(step, weight), bias, out)
    assert (out.reshape(16, 16)[:, 3] == 0).all()


def test_refusals() -> None:
    x, y = AFFINES[0].desc((1, 16, 4, 4), LAST), dense((1, 16, 4, 4), LAST)
    volume = AFFINES[0].desc((1, 16, 4, 4, 4), LAST)
    for source, output, kernel, scales, reason in (
        (AFFINES[0].desc((1, 16, 4, 4)), y, (3, 3), 16, "vectors of channels"),
        (volume, dense((1, 16, 4, 4, 4), LAST), (3, 3, 3), 16, "images in channels_last"),
        (x, y, (3, 3), 0, "a scale of the weights"),
        (y, y, (3, 3), 16, "a scale of the weights"),
        (y, x, (3, 3), 0, "float32"),
    ):
        pad = [1] * len(kernel)
        with pytest.raises(ValueError, match=reason):
            Winograd(source, [16, 16, *kernel], False, output, pad, pad, 4, [], [1.0] * scales)
    step = Winograd(x, [16, 16, 3, 3], False, y, [1, 1], [1, 1], 4, [], [1.0] * 16)
    with pytest.raises(ValueError, match="s8"):
        step.pack(DType.f32, 0, 0)


def node_of_codes(*size: int) -> Node:
    axes = len(size)
    x = Value((1, 16, *size), torch.uint8, quantisation=Quantisation((0.1,), 3))
    weight = coded(constant(torch.zeros(16, 16, *(3,) * axes)), Quantisation((0.1,)), torch.int8, -128, 127)
    one = (1,) * axes
    node = make_node(Conv(one, one, one, one, groups=1, has_bias=False), [x, weight])
    node.output.dtype, node.output.quantisation = torch.uint8, Quantisation((0.2,), 0)
    return node


@pytest.mark.parametrize(("size", "own"), [((16, 16), True), ((4, 16, 16), False)])
def test_images_are_convolved_as_codes_and_volumes_in_floats(size: tuple[int, ...], own: bool) -> None:
    names = {implementation.name for implementation, _ in options(node_of_codes(*size))[0]}
    assert ("winograd4" in names, "winograd4_float32" in names) == (own, not own)
