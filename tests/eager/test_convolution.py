"""``convolution`` under torch's own name, against float64 and against torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import drystone
from agreement import relative_error
from drystone import ops
from drystone.eager import operators

pytestmark = pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))

TORCH: dict[str, Callable[..., Tensor]] = {
    "conv3d": F.conv3d,
    "conv_transpose1d": F.conv_transpose1d,
    "conv_transpose2d": F.conv_transpose2d,
    "conv_transpose3d": F.conv_transpose3d,
}
SIZES = {"conv3d": (9, 10, 12), "conv_transpose1d": (900,), "conv_transpose2d": (33, 30), "conv_transpose3d": (9, 10, 12)}


@pytest.fixture
def ours() -> Iterator[None]:
    with drystone.enabled(only=["convolution"], reuse_pages=False):
        yield


def operands(name: str, c: int, o: int, k: int, batch: int = 1, groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    axes = len(SIZES[name])
    channels = (c, o // groups) if "transpose" in name else (o, c // groups)
    x = torch.randn(batch, c, *SIZES[name], generator=generator)
    weight = torch.randn(*channels, *(k,) * axes, generator=generator) / (c * k**axes) ** 0.5
    return x, weight, torch.randn(o, generator=generator)


def check(name: str, x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> None:
    want = TORCH[name](x.double(), weight.double(), None if bias is None else bias.double(), **options)
    got = TORCH[name](x, weight, bias, **options)
    assert got.shape == want.shape and got.dtype == torch.float32
    assert relative_error(got, want) < 2e-6


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("c", "o", "k"), [(16, 32, 3), (17, 33, 3), (32, 24, 2), (64, 7, 4)])
@pytest.mark.parametrize("name", TORCH)
def test_channels(ours: None, name: str, c: int, o: int, k: int, with_bias: bool) -> None:
    x, weight, bias = operands(name, c, o, k)
    check(name, x, weight, bias if with_bias else None, stride=2 if "transpose" in name else 1)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2, 2), "padding": (0, 1, 2)},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
    ],
)
@pytest.mark.parametrize("c", [2, 32])
def test_conv3d(ours: None, c: int, options: dict[str, Any]) -> None:
    x, weight, bias = operands("conv3d", c, 48, 3, batch=2, groups=options.get("groups", 1))
    check("conv3d", x, weight, bias, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (1, 2, 3), "padding": (1, 0, 1), "output_padding": (0, 1, 2)},
        {"stride": 1, "dilation": 2, "output_padding": 1},
        {"stride": 4},
        {"stride": 2, "groups": 2},
    ],
)
def test_conv_transpose3d(ours: None, options: dict[str, Any]) -> None:
    x, weight, bias = operands("conv_transpose3d", 32, 24, 3, batch=2, groups=options.get("groups", 1))
    check("conv_transpose3d", x, weight, bias, **options)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("window", [(1, 1, 2), (2, 2, 2), (3, 2, 1), (1, 3, 4), (2, 1, 3)])
@pytest.mark.parametrize(("batch", "c", "o", "size"), [(2, 24, 5, (7, 9, 21)), (1, 33, 17, (6, 16, 16)), (3, 130, 32, (1, 3, 15))])
def test_windows_side_by_side(
    ours: None, batch: int, c: int, o: int, size: tuple[int, ...], window: tuple[int, ...], threads: int
) -> None:
    """Every remainder of positions and of rows; windows of any width."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for axes in (1, 2, 3):
            many = 40 if axes == 1 else 1
            x = torch.randn(batch * many, c, *size[3 - axes :], generator=generator)
            weight = torch.randn(c, o, *window[3 - axes :], generator=generator)
            check(f"conv_transpose{axes}d", x, weight, torch.randn(o, generator=generator), stride=window[3 - axes :])
            check(f"conv_transpose{axes}d", x, weight, None, stride=window[3 - axes :])
        # Windows with a rest that fills none.
        wide = torch.randn(batch, o, *(n * k + k - 1 for n, k in zip(size, window, strict=True)), generator=generator)
        check("conv3d", wide, weight, torch.randn(c, generator=generator), stride=window)
        check("conv3d", wide, weight, None, stride=window)
    finally:
        torch.set_num_threads(kept)


@pytest.mark.parametrize(("c", "o", "size"), [(256, 128, (5, 7, 9)), (16, 64, (20, 20, 24)), (300, 64, (2, 3, 4))])
def test_windows_side_by_side_beyond_the_caches(ours: None, c: int, o: int, size: tuple[int, ...]) -> None:
    x, weight = torch.randn(1, c, *size), torch.randn(c, o, 2, 2, 2)
    check("conv_transpose3d", x, weight, torch.randn(o), stride=2)
    check("conv3d", torch.randn(1, o, *(2 * n for n in size)), weight, torch.randn(c), stride=2)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [(9, 16, 18), (5, 5, 7)])
@pytest.mark.parametrize(("k", "padding"), [((3, 3, 3), 1), ((3, 3, 3), (0, 1, 0)), ((1, 3, 3), (0, 1, 1)), ((3, 3, 3), 2)])
def test_kernels_of_three_with_stride_one(
    ours: None, k: tuple[int, ...], padding: int | tuple[int, ...], size: tuple[int, ...], last: bool
) -> None:
    """Winograd's, transposed or not, where there are tiles enough."""
    generator = torch.Generator().manual_seed(0)
    x, bias = torch.randn(3, 32, *size, generator=generator), torch.randn(48, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    for name in ("conv3d", "conv_transpose3d"):
        channels = (32, 48) if "transpose" in name else (48, 32)
        weight = torch.randn(*channels, *k, generator=generator)
        check(name, x, weight, bias, padding=padding)
        check(name, x, weight.contiguous(memory_format=torch.channels_last_3d), bias, padding=padding)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_reaches_the_outputs_that_torchs_reaches(ours: None, value: float) -> None:
    x, weight, _ = operands("conv3d", 16, 32, 3, batch=2)
    for place in ((0, 3, 0, 0, 0), (1, 7, 4, 5, 6), (1, 15, 8, 9, 11)):
        x[place] = value
    for name in ("conv3d", "conv_transpose3d"):
        turned = weight.transpose(0, 1).contiguous() if "transpose" in name else weight
        want, got = (TORCH[name](x.to(dtype), turned.to(dtype), padding=1) for dtype in (torch.float64, torch.float32))
        assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf())
        finite = want.isfinite()
        assert relative_error(got[finite], want[finite]) < 2e-6


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3e38])
def test_weights_that_are_not_finite_or_nearly_so(value: float) -> None:
    """Winograd's method would spread them over all outputs of a channel."""
    x, weight = torch.full((1, 16, 4, 32, 32), 1e-6), torch.ones(16, 16, 3, 3, 3)
    weight[0, 0, 1, 1, 1] = value
    for name in ("conv3d", "conv_transpose3d"):
        want = TORCH[name](x, weight, padding=1)
        with drystone.enabled(only=["convolution"]):
            torch.testing.assert_close(TORCH[name](x, weight, padding=1), want, equal_nan=True)
            given = x.clone().requires_grad_()
            (got,) = torch.autograd.grad(TORCH[name](given, weight, padding=1).sum(), given)
        given = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(TORCH[name](given, weight, padding=1).sum(), given)
        torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize(("axes", "c", "o", "k", "stride"), [(2, 128, 64, 8, 4), (3, 64, 64, 4, 2), (2, 512, 256, 4, 2)])
def test_large_weights_take_one_bias(ours: None, axes: int, c: int, o: int, k: int, stride: int) -> None:
    x, weight = torch.randn(1, c, *(8,) * axes), torch.randn(c, o, *(k,) * axes)
    check(f"conv_transpose{axes}d", x, weight, 100 * torch.randn(o), stride=stride, padding=1)
    check(f"conv_transpose{axes}d", x, weight, None, stride=stride, padding=1)


def variants() -> Iterator[tuple[str, Tensor]]:
    x, _, _ = operands("conv3d", 32, 24, 3, batch=2)
    yield "channels_last", x.contiguous(memory_format=torch.channels_last_3d)
    yield "transposed", x.transpose(2, 4).contiguous().transpose(2, 4)
    yield "slice", torch.cat((x, x), 1)[:, 16:48]
    yield "every second", x.repeat_interleave(2, 3)[:, :, :, ::2]
    yield "expanded", x[:, :1].expand_as(x)
    yield "flipped axes of one", x[:, :, :3, :1]


@pytest.mark.parametrize(("_", "x"), variants(), ids=lambda value: value if isinstance(value, str) else "")
def test_strides(ours: None, _: str, x: Tensor) -> None:
    _, weight, bias = operands("conv3d", 32, 24, 3)
    for kernel in (weight, weight.transpose(2, 4), weight.contiguous(memory_format=torch.channels_last_3d)):
        check("conv3d", x, kernel, bias, padding=1)


def test_a_result_lies_as_its_input_does(ours: None) -> None:
    x, weight, bias = operands("conv3d", 32, 24, 3)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    assert F.conv3d(last, weight, bias).is_contiguous(memory_format=torch.channels_last_3d)
    assert F.conv3d(x, weight, bias).is_contiguous()
    assert F.conv3d(x.transpose(2, 4), weight, bias).is_contiguous()


def test_other_calls_are_torchs(ours: None) -> None:
    x, weight, bias = operands("conv3d", 32, 24, 3)
    for dtype in (torch.float64, torch.bfloat16):
        assert torch.equal(
            F.conv3d(x.to(dtype), weight.to(dtype)), without(lambda dtype=dtype: F.conv3d(x.to(dtype), weight.to(dtype)))
        )
    image, kernel = torch.randn(2, 8, 20, 20), torch.randn(8, 8, 3, 3)
    assert torch.equal(F.conv2d(image, kernel), without(lambda: F.conv2d(image, kernel)))
    assert F.conv3d(x[:0], weight, bias).shape == (0, 24, 7, 8, 10)
    assert F.conv3d(x[0], weight, bias).shape == (24, 7, 8, 10)


def without(call: Callable[[], Tensor]) -> Tensor:
    drystone.disable()
    try:
        return call()
    finally:
        drystone.enable(only=["convolution"], reuse_pages=False)


def test_errors_are_torchs(ours: None) -> None:
    x, weight, _ = operands("conv3d", 32, 24, 3)
    with pytest.raises(RuntimeError, match="to have 32 channels, but got 16"):
        F.conv3d(x[:, :16], weight)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        F.conv3d(x[:, :, :2], weight)
    with pytest.raises(RuntimeError, match="expected bias to be 1-dimensional with 24 elements"):
        F.conv3d(x, weight, torch.randn(7))


@pytest.mark.parametrize("name", TORCH)
def test_gradients(ours: None, name: str) -> None:
    x, weight, bias = operands(name, 16, 16, 3)

    def gradients(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        function(*leaves, stride=2).square().sum().backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    drystone.disable()
    want = gradients(TORCH[name])
    by_name = gradients(getattr(ops, name))
    drystone.enable(only=["convolution"], reuse_pages=False)
    for got in (gradients(TORCH[name]), by_name):
        for a, b in zip(got, want, strict=True):
            assert relative_error(a, b) < 1e-5


def test_thread_counts_and_many_shapes(ours: None) -> None:
    """Primitives are kept for so many shapes, and for each thread count."""
    _, weight, bias = operands("conv3d", 16, 16, 3)
    threads = torch.get_num_threads()
    try:
        for size in range(5, 80):
            torch.set_num_threads(1 + size % 2)
            check("conv3d", torch.randn(1, 16, 9, 9, size), weight, bias)
    finally:
        torch.set_num_threads(threads)
