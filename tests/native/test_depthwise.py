"""Depthwise and grouped convolutions against float64: over one to three axes, in each format, at each remainder of vectors and tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from convolving import Sides, check, convolved, reference, within
from layout import dense, instruction, integers, lay, normal, outcome, strided

from agreement import assert_same_specials
from drystone import native
from drystone.native import Depthwise, PostOp, TensorDesc

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

FORMATS = ("plain", "channels_last", native.blocked().name)
ACROSS = FORMATS[1:]  # where vectors go across channels


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("channels", [*range(1, 19), 24, 31, 32, 33])
def test_channels(channels: int, format: str) -> None:
    weight, bias = integers(channels, 1, 3, 3, seed=1), integers(channels, seed=2)
    check(*convolved(integers(2, channels, 5, 6), weight, bias, format=format, before=(1, 1)))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("width", [*range(1, 35), 47, 48, 49, 300])
def test_widths(width: int, format: str) -> None:
    weight, bias = integers(20, 1, 5, seed=1), integers(20, seed=2)
    check(*convolved(integers(1, 20, width), weight, bias, format=format, before=(2,)))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_steps(axes: int, kernel: int, stride: int, dilation: int, format: str) -> None:
    side = dilation * (kernel - 1) + 1
    for size, before, after in ((side, 0, 0), (side + 4, 1, 0), (max(side - 4, 1), 1, side), (1, side, side + 1)):
        if size + before + after < side or (axes == 3 and kernel == 7 and stride == 1):
            continue
        x, weight = integers(1, 18, *((size,) * axes)), integers(18, 1, *((kernel,) * axes), seed=1)
        sides = {"before": (before,) * axes, "after": (after,) * axes}
        check(*convolved(x, weight, format=format, stride=stride, dilation=dilation, **sides))


@pytest.mark.parametrize("format", FORMATS)
def test_uneven_kernels_and_sides(format: str) -> None:
    for kernel, before, after in (
        ((1, 31), (0, 28), (0, 3)),
        ((5, 2), (0, 1), (4, 0)),
        ((3, 1, 4), (2, 0, 0), (1, 1, 3)),
        ((9, 9), (8, 0), (8, 16)),
    ):
        size = (4, 6, 7)[3 - len(kernel) :]
        x, weight = integers(2, 17, *size), integers(17, 1, *kernel, seed=1)
        check(*convolved(x, weight, format=format, before=before, after=after))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("channels", "outputs"), [(3, 6), (16, 32), (5, 35), (17, 34)])
def test_several_outputs_a_channel(channels: int, outputs: int, format: str) -> None:
    weight, bias = integers(outputs, 1, 3, 3, seed=1), integers(outputs, seed=2)
    check(*convolved(integers(2, channels, 7, 9), weight, bias, format=format, before=(1, 1), stride=2))


# Within a vector, of a vector, of more, and of numbers that fit none.
@pytest.mark.parametrize("format", ACROSS)
@pytest.mark.parametrize(
    ("groups", "inputs", "outputs"),
    [(1, 3, 20), (2, 2, 2), (9, 2, 2), (32, 2, 2), (5, 3, 3), (8, 4, 4), (9, 4, 4), (6, 8, 8), (3, 16, 16), (2, 17, 17), (4, 12, 12),
     (6, 4, 2), (6, 2, 4), (3, 5, 13), (2, 8, 32), (7, 4, 16)],
)  # fmt: skip
def test_groups(groups: int, inputs: int, outputs: int, format: str) -> None:
    weight, bias = integers(groups * outputs, inputs, 3, 3, seed=1), integers(groups * outputs, seed=2)
    for stride in (1, 2):
        check(*convolved(integers(2, groups * inputs, 5, 9), weight, bias, format=format, before=(1, 1), stride=stride))


@pytest.mark.parametrize("format", ACROSS)
@pytest.mark.parametrize("width", [*range(1, 35), 120])
def test_widths_of_groups(width: int, format: str) -> None:
    weight, ops = integers(24, 4, 5, seed=1), [("relu", 0.0, 0.0, None), ("mul", 0.0, 0.0, dense((1, 1, 1), "plain"))]
    got, want = convolved(integers(1, 24, width), weight, format=format, before=(2,), ops=ops, operands=[torch.tensor([3.0])])
    check(got, want.relu() * 3)


@pytest.mark.parametrize("format", ACROSS)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_steps_of_groups(axes: int, kernel: int, stride: int, dilation: int, format: str) -> None:
    side = dilation * (kernel - 1) + 1
    for size, before, after in ((side, 0, 0), (side + 4, 1, 0), (1, side, side + 1)):
        if axes == 3 and kernel > 4:
            continue
        x, weight = integers(1, 20, *((size,) * axes)), integers(20, 4, *((kernel,) * axes), seed=1)
        sides = {"before": (before,) * axes, "after": (after,) * axes}
        check(*convolved(x, weight, format=format, stride=stride, dilation=dilation, **sides))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_way_to_cut_the_work(threads: int, format: str) -> None:
    """Few vectors (rows are shared out), wide rows (columns are), many rows of a kernel (more than the cache is planned for)."""
    for channels, size, kernel in (
        (16, (90, 20), (3, 3)),
        (16, (2500,), (31,)),
        (8, (40, 300), (21, 5)),
        (24, (3, 9, 120), (3, 5, 3)),
    ):
        x, weight = integers(1, channels, *size), integers(channels, 1, *kernel, seed=1)
        native.set_threads(threads)
        check(*convolved(x, weight, format=format, before=tuple(k // 2 for k in kernel), threads=threads))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("channels", [16, 21])
def test_bfloat16(channels: int, format: str) -> None:
    x, weight = normal(1, channels, 9, 20, dtype=torch.bfloat16), normal(channels, 1, 3, 3, dtype=torch.bfloat16, seed=1)
    for stride in (1, 2):
        got, want = convolved(x, weight, normal(channels, seed=2), format=format, before=(1, 1), stride=stride)
        torch.testing.assert_close(got, want.bfloat16(), rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("format", ACROSS)
@pytest.mark.parametrize("group", [2, 4, 16])
def test_bfloat16_in_groups(group: int, format: str) -> None:
    x, weight = normal(1, 48, 9, 20, dtype=torch.bfloat16), normal(48, group, 3, 3, dtype=torch.bfloat16, seed=1)
    for stride in (1, 2):
        got, want = convolved(x, weight, normal(48, seed=2), format=format, before=(1, 1), stride=stride)
        torch.testing.assert_close(got, want.bfloat16(), rtol=2**-7, atol=1e-5)


def operand(
    shape: tuple[int, ...], format: str, dtype: torch.dtype = torch.float32
) -> tuple[TensorDesc, torch.Tensor, torch.Tensor]:
    values = integers(*shape, seed=5).to(dtype)
    return (*lay(values, format), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("channels", [16, 21])
def test_epilogue(channels: int, format: str, dtype: torch.dtype) -> None:
    x, weight, bias = integers(2, channels, 5, 19), integers(channels, 1, 3, 3, seed=1), integers(channels, seed=2)
    whole = (2, channels, 5, 19)
    for shape, laid in (
        (whole, format),
        ((1, channels, 1, 1), "plain"),
        ((2, channels, 1, 1), format),
        ((1, 1, 1, 1), "plain"),
        ((2, 1, 5, 19), format),
    ):
        desc, buffer, values = operand(shape, laid, dtype)
        ops: list[PostOp] = [("add", 0.0, 0.0, desc), ("clamp", -20.0, 30.0, None), ("mul", 0.0, 0.0, desc)]
        got, want = convolved(x, weight, bias, format=format, before=(1, 1), ops=ops, operands=[buffer, buffer])
        assert torch.equal(got.double(), (want + values.double()).clamp(-20, 30) * values.double())
    held = integers(*whole, seed=7)
    got, want = convolved(
        x, weight, format=format, before=(1, 1), ops=[("sum", 0.0, 0.0, None), ("relu", 0.0, 0.0, None)], held=held
    )
    assert torch.equal(got.double(), (want + held).relu())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["silu", "hardswish", "sigmoid", "exp"])
def test_activations_leave_the_padding_of_blocks_alone(kind: str, format: str) -> None:
    for width in (20, 300):
        x, weight = normal(1, 37, width), normal(37, 1, 5, seed=1)
        got, want = convolved(x, weight, format=format, before=(2,), ops=[(kind, 0.0, 0.0, None)])
        torch.testing.assert_close(got.double(), instruction(kind)(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("where", ["x", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_specials(value: float, where: str, format: str) -> None:
    """They reach the outputs whose taps meet them: the padding is no zero that an infinite weight makes NaN."""
    x, weight, bias = integers(1, 18, 6, 40), integers(18, 1, 3, 5, seed=1), integers(18, seed=2)
    (x if where == "x" else weight)[0, 0, 2, 3] = value
    got, _ = convolved(x, weight, bias, format=format, before=(1, 2), stride=2)
    assert_same_specials(got, within(x, weight, bias, before=(1, 2), stride=2))


@pytest.mark.parametrize("format", ACROSS)
@pytest.mark.parametrize("where", ["x", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_specials_in_groups(value: float, where: str, format: str) -> None:
    """They reach the outputs of their group whose taps meet them."""
    x, weight = integers(1, 20, 6, 40), integers(20, 4, 3, 5, seed=1)
    (x if where == "x" else weight)[0, 1, 2, 3] = value
    got, _ = convolved(x, weight, format=format, before=(1, 2), stride=2)
    assert_same_specials(got, within(x, weight, before=(1, 2), stride=2))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "kernel"), [(1024, (31,)), (1024, (3,)), (512, (3, 3)), (256, (3, 5))])
def test_columns_a_power_of_two_apart(channels: int, kernel: Sides, stride: int) -> None:
    """They share cache sets: the tile is narrower, or rows are copied."""
    x, weight = integers(1, channels, *(3,) * (len(kernel) - 1), 43), integers(channels, 1, *kernel, seed=1)
    before = tuple(k // 2 for k in kernel)
    check(*convolved(x, weight, format="channels_last", before=before, stride=stride))


@pytest.mark.parametrize("format", ["plain", "channels_last"])
def test_views(format: str) -> None:
    """Channels 8 to 28 of 40, and every other row."""
    whole, weight = integers(1, 40, 12, 21), integers(20, 1, 3, 3, seed=1)
    desc, buffer = lay(whole, format)
    steps = [desc.strides[0], desc.strides[1], 2 * desc.strides[2], desc.strides[3]]
    x, target = strided((1, 20, 6, 21), tuple(steps), format), dense((1, 20, 6, 21), format)
    step = Depthwise(x, [20, 1, 3, 3], False, target, [1, 1], [1, 1], [1, 1], [1, 1], [])
    packed = torch.empty(step.packed_bytes // 4)
    step.pack(native.DType.f32, weight.data_ptr(), packed.data_ptr())
    got = outcome(step, target, buffer[8 * desc.strides[1] :], packed)
    assert torch.equal(got, reference(whole[:, 8:28, ::2], weight, None, (1, 1), (1, 1)))


def test_refusals() -> None:
    x = dense((1, 16, 8, 8), "channels_last")

    def refuse(match: str, **changes: Any) -> None:
        given: dict[str, Any] = {
            "x": x, "weights": [16, 1, 3, 3], "has_bias": False, "output": x, "stride": [1, 1], "padding_l": [1, 1],
            "padding_r": [1, 1], "dilation": [1, 1], "post_ops": [],
        }  # fmt: skip
        with pytest.raises(ValueError, match=match):
            Depthwise(**{**given, **changes})

    refuse("size that follows", padding_r=[1, 2])
    refuse("weights", weights=[8, 1, 3, 3])
    refuse("whole groups", weights=[16, 3, 3, 3])
    refuse("channels_last or blocked", x=dense((1, 16, 8, 8), "plain"), output=dense((1, 16, 8, 8), "plain"), weights=[16, 2, 3, 3])
    refuse("each spatial axis", stride=[1])
    refuse("whole groups", weights=[24, 1, 3, 3], output=dense((1, 24, 8, 8), "channels_last"))
    refuse("positive", dilation=[0, 1])
    refuse("keeps the batch, format and dtype", output=dense((1, 16, 8, 8), "plain"))
    refuse("eight post-ops", post_ops=[("relu", 0.0, 0.0, None)] * 9)
    refuse("does not broadcast", post_ops=[("add", 0.0, 0.0, dense((1, 16, 8, 7), "channels_last"))])
    refuse("unknown pointwise", post_ops=[("nothing", 0.0, 0.0, None)])
    long = {"padding_l": [0, 0], "padding_r": [0, 0], "weights": [16, 1, 1, 1], "stride": [1, 1 << 25]}
    wide, narrow = dense((1, 16, 1, (1 << 25) + 1), "plain"), dense((1, 16, 1, 2), "plain")
    refuse("too much memory", x=wide, output=narrow, **long)
