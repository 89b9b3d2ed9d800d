"""Direct convolutions in groups of whole vectors of channels: at each number of vectors, each width of a tile, each step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from convolving import Sides, check, convolved, within
from layout import dense, integers, lay, outcome, strided

from agreement import assert_same_specials
from drystone import native
from drystone.native import Direct

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

FORMATS = "channels_last", native.blocked().name
LANES = native.blocked().block


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("inputs", "outputs"), [*((1, many) for many in range(1, 9)), (2, 1), (3, 3), (5, 4)])
@pytest.mark.parametrize("groups", [1, 3])
def test_groups(groups: int, inputs: int, outputs: int, format: str) -> None:
    """In vectors."""
    weight, bias = integers(groups * outputs * LANES, inputs * LANES, 3, 3, seed=1), integers(groups * outputs * LANES, seed=2)
    for stride in (1, 2):
        x = integers(2, groups * inputs * LANES, 5, 9)
        check(*convolved(x, weight, bias, format=format, before=(1, 1), stride=stride, kind=Direct))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("vectors", [1, 2, 3])
@pytest.mark.parametrize("width", [*range(1, 20), 56])
def test_widths(width: int, vectors: int, format: str) -> None:
    weight = integers(vectors * LANES, LANES, 5, seed=1)
    check(*convolved(integers(1, LANES, width), weight, format=format, before=(2,), kind=Direct))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("axes", [1, 2])
def test_steps(axes: int, kernel: int, stride: int, dilation: int, format: str) -> None:
    side = dilation * (kernel - 1) + 1
    for size, before, after in ((side, 0, 0), (side + 4, 1, 0), (max(side - 4, 1), 1, side), (1, side, side + 1)):
        if size + before + after < side:
            continue
        x, weight = integers(1, 2 * LANES, *((size,) * axes)), integers(2 * LANES, LANES, *((kernel,) * axes), seed=1)
        sides = {"before": (before,) * axes, "after": (after,) * axes}
        check(*convolved(x, weight, format=format, stride=stride, dilation=dilation, kind=Direct, **sides))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("size", "kernel"), [((4, 6), (1, 5)), ((6, 4), (5, 1)), ((90, 90), (3, 3)), ((3, 700), (3, 9)), ((200, 3), (31, 2))]
)
def test_bands_of_rows_and_uneven_kernels(size: Sides, kernel: Sides, format: str) -> None:
    x, weight = integers(1, 2 * LANES, *size), integers(4 * LANES, 2 * LANES, *kernel, seed=1)
    before, after = (kernel[0] // 2, kernel[1] - 1), (kernel[0] // 2, 0)
    for threads in (1, 2):
        check(*convolved(x, weight, format=format, before=before, after=after, threads=threads, kind=Direct))


@pytest.mark.parametrize("format", FORMATS)
def test_bounds(format: str) -> None:
    x, weight, bias = integers(2, LANES, 5, 9), integers(3 * LANES, LANES, 3, 3, seed=1), integers(3 * LANES, seed=2)
    got, want = convolved(x, weight, bias, format=format, before=(1, 1), ops=[("relu", 0.0, 0.0, None)], kind=Direct)
    check(got, want.relu())
    got, want = convolved(x, weight, bias, format=format, before=(1, 1), ops=[("clamp", -20.0, 30.0, None)], kind=Direct)
    check(got, want.clamp(-20, 30))


@pytest.mark.parametrize("format", FORMATS)
def test_no_batch_and_no_columns_inside(format: str) -> None:
    weight = integers(LANES, LANES, 3, 3, seed=1)
    check(*convolved(integers(0, LANES, 5, 9), weight, format=format, kind=Direct))
    check(*convolved(integers(1, LANES, 1, 1), weight, format=format, before=(2, 2), stride=2, kind=Direct))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("where", ["x", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_specials(value: float, where: str, format: str) -> None:
    """They reach the outputs of their group whose taps meet them: the padding is no zero that an infinite weight makes NaN."""
    x, weight, bias = integers(1, 2 * LANES, 6, 40), integers(2 * LANES, LANES, 3, 5, seed=1), integers(2 * LANES, seed=2)
    (x if where == "x" else weight)[0, 1, 2, 3] = value
    got, _ = convolved(x, weight, bias, format=format, before=(1, 2), stride=2, kind=Direct)
    assert_same_specials(got, within(x, weight, bias, before=(1, 2), stride=2))


@pytest.mark.parametrize("format", FORMATS)
def test_views(format: str) -> None:
    """Every other row, and of channels_last the second and third vector of four."""
    whole, weight = integers(1, 4 * LANES, 12, 21), integers(LANES, 2 * LANES, 3, 3, seed=1)
    desc, buffer = lay(whole, format)
    steps = (desc.strides[0], desc.strides[1], 2 * desc.strides[2], desc.strides[3])
    first = LANES * desc.strides[1] if format == "channels_last" else desc.strides[1]
    x, target = strided((1, 2 * LANES, 6, 21), steps, format), dense((1, LANES, 6, 21), format)
    step = Direct(x, list(weight.shape), False, target, [1, 1], [1, 1], [1, 1], [1, 1], [])
    packed = torch.empty(step.packed_bytes // 4)
    step.pack(native.DType.f32, weight.data_ptr(), packed.data_ptr())
    got = outcome(step, target, buffer.flatten()[first:], packed)
    assert torch.equal(got, F.conv2d(whole[:, LANES : 3 * LANES, ::2], weight, padding=1))


def test_weights_in_bfloat16() -> None:
    weight = integers(LANES, LANES, 3, 3, seed=1).bfloat16()
    check(*convolved(integers(1, LANES, 5, 9), weight, format=FORMATS[0], kind=Direct))


def test_refusals() -> None:
    x = dense((1, 2 * LANES, 8, 8), "channels_last")

    def refuse(match: str, **changes: Any) -> None:
        given: dict[str, Any] = {
            "x": x, "weights": [2 * LANES, LANES, 3, 3], "has_bias": False, "output": x, "stride": [1, 1], "padding_l": [1, 1],
            "padding_r": [1, 1], "dilation": [1, 1], "post_ops": [],
        }  # fmt: skip
        with pytest.raises(ValueError, match=match):
            Direct(**{**given, **changes})

    refuse("size that follows", padding_r=[1, 2])
    refuse("weights", weights=[LANES, LANES, 3, 3])
    refuse("whole vectors", weights=[2 * LANES, LANES // 2, 3, 3])
    refuse("channels_last", x=dense((1, 2 * LANES, 8, 8), "plain"), output=dense((1, 2 * LANES, 8, 8), "plain"))
    refuse("each spatial axis", stride=[1])
    refuse("positive", dilation=[0, 1])
    refuse("keeps batch and format", output=dense((2, 2 * LANES, 8, 8), "channels_last"))
    refuse("float32", x=dense((1, 2 * LANES, 8, 8), "channels_last", torch.bfloat16))
    refuse("one post-op", post_ops=[("relu", 0.0, 0.0, None)] * 2)
    refuse("no post-op silu", post_ops=[("silu", 0.0, 0.0, None)])
    refuse("no post-op clamp", post_ops=[("clamp", 1.0, -1.0, None)])
    cube = dense((1, 2 * LANES, 8, 8, 8), "channels_last")
    refuse("one or two spatial axes", x=cube, output=cube)
