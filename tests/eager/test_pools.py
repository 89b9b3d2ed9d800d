"""max_pool3d and avg_pool3d under torch's names: torch's maxima, places, means, gradients and errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import drystone
from drystone.eager import operators
from drystone.tools.ops import volume_layers

pytestmark = pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))

LAST = torch.channels_last_3d
FORMATS = [torch.contiguous_format, LAST]
# Window, stride, padding, dilation, ceil_mode.
WINDOWS: list[tuple[Any, ...]] = [
    (2, 2, 0, 1, False),
    (3, 2, 1, 1, False),
    (3, 1, 1, 1, True),
    (3, 3, 0, 1, True),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1), 1, False),
    ((2, 1, 5), (3, 2, 4), (1, 0, 2), (2, 1, 1), True),
    ((2, 3, 2), 1, (1, 1, 1), (1, 2, 3), False),
    (2, None, 1, 4, False),  # all but the middle of it may lie in the padding
]


def both(call: Any, *arguments: Any) -> tuple[Any, Any]:
    """What a call gives with ``drystone.enable()``, and without."""
    with drystone.enabled():
        ours = call(*arguments)
    return ours, call(*arguments)


def same(ours: torch.Tensor, stock: torch.Tensor) -> None:
    assert ours.dtype == stock.dtype and ours.stride() == stock.stride()
    torch.testing.assert_close(ours, stock, rtol=0, atol=0, equal_nan=True)


def check_maxima(x: torch.Tensor, *window: Any) -> None:
    ours, stock = both(lambda: F.max_pool3d(x, *window, return_indices=True))
    for a, b in zip(ours, stock, strict=True):
        same(a, b)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_maxima(window: tuple[Any, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    for channels, width in itertools.product((1, 2, 3, 5, 9, 16, 18, 37, 66), (7, 16, 30, 33)):
        # Few values: ties everywhere.
        x = torch.randint(-3, 4, (2, channels, 7, 9, width)).to(dtype)
        check_maxima(x.contiguous(memory_format=memory_format), *window)
        if channels < 4:
            check_maxima(x[0], *window)


@pytest.mark.parametrize("width", [*range(6, 70), 300])
def test_every_remainder_of_a_row(width: int) -> None:
    x = torch.randn(1, 3, 5, 10, width)
    for window, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)):
        check_maxima(x, window, stride, padding)


@pytest.mark.parametrize("channels", range(1, 82))
def test_every_remainder_of_channels(channels: int) -> None:
    check_maxima(torch.randn(1, channels, 7, 13, 14).contiguous(memory_format=LAST), 3, 2, 1)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinity(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.randint(-2, 3, (2, 32, 6, 8, 34)).to(dtype)
    chance = torch.rand(x.shape)
    x[chance < 0.8] = -math.inf  # windows of nothing else among them
    x[chance < 0.1] = math.nan
    x[chance < 0.05] = math.inf
    for window in WINDOWS:
        check_maxima(x.contiguous(memory_format=memory_format), *window)


def test_the_place_of_nothing_but_infinity_is_the_first() -> None:
    # Of the last channels, which do not fill a vector, torch's own gives a place outside of the window in channels_last.
    x = torch.full((2, 21, 6, 6, 18), -math.inf)  # large enough to be ours
    with drystone.enabled():
        places = F.max_pool3d(x.contiguous(memory_format=LAST), 2, return_indices=True)[1]
    assert torch.equal(places, F.max_pool3d(x, 2, return_indices=True)[1])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    x = torch.randn(3, 33, 9, 17, 21)
    for memory_format in FORMATS:
        check_maxima(x.contiguous(memory_format=memory_format), 3, 2, 1)


def test_what_torch_serves() -> None:
    x = torch.randn(2, 16, 8, 12, 14)
    for other in (
        x.double(),
        x.half(),
        x[..., ::2],
        x.transpose(2, 4),
        x[:, :, :, :, :1].expand(x.shape),
        x[:, :, :2, :3, :4],
        torch.randn(4, 16, 8, 12, 11),  # rows of five windows
        x[:0],
        x.contiguous(memory_format=LAST)[:, ::2],
    ):
        same(*both(F.max_pool3d, other, 2))
        if other.dtype != torch.half:  # torch has no means of it
            same(*both(F.avg_pool3d, other, 2))


@pytest.mark.parametrize("call", [F.max_pool3d, F.avg_pool3d, drystone.ops.max_pool3d, drystone.ops.avg_pool3d])
def test_errors(call: Any) -> None:
    x = torch.randn(1, 16, 8, 8, 8)
    with drystone.enabled():
        for arguments in ((0,), (2, 0), (2, 1, 2), (2, 1, -1), ((2, 2),), (9,), (2, 1, (1, 1)), (2**31,)):
            with pytest.raises(RuntimeError):
                call(x, *arguments)
        for other in (x[0, 0], x.bool(), x[:, :0]):
            with pytest.raises(RuntimeError):
                call(other, 2)


def test_a_mean_of_windows_larger_than_what_they_are_of() -> None:
    """torch takes maxima of them, if padding makes up for it, but no means."""
    x = torch.randn(2, 16, 2, 16, 16)
    same(*both(F.max_pool3d, x, 3, 1, 1))
    with drystone.enabled(), pytest.raises(RuntimeError, match="smaller than kernel"):
        F.avg_pool3d(x, 3, 1, 1)


def test_one_channel_in_either_format() -> None:
    x = torch.empty(4, 1, 8, 16, 32, memory_format=LAST).normal_()
    for pool in (F.max_pool3d, F.avg_pool3d):
        ours, stock = both(pool, x, 2)
        assert ours.stride() == stock.stride()
        torch.testing.assert_close(ours, stock, rtol=1e-6, atol=1e-6)


def test_torch_has_no_means_of_bfloat16() -> None:
    with drystone.enabled(), pytest.raises(RuntimeError, match="not implemented"):
        F.avg_pool3d(torch.zeros(1, 16, 8, 8, 8, dtype=torch.bfloat16), 2)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("divisor", [None, 5, -3])
def test_means(memory_format: torch.memory_format, ceil_mode: bool, count_padding: bool, divisor: int | None) -> None:
    for channels, width in itertools.product((1, 3, 5, 18, 37), (7, 16, 33)):
        x = torch.randn(2, channels, 7, 9, width).contiguous(memory_format=memory_format)
        for window, stride, padding in ((2, 2, 0), (3, 2, 1), ((1, 3, 4), (2, 1, 3), (0, 1, 2))):
            arguments = (window, stride, padding, ceil_mode, count_padding, divisor)
            ours, stock = both(F.avg_pool3d, x, *arguments)
            exact = F.avg_pool3d(x.double(), *arguments)
            assert ours.stride() == stock.stride()
            torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients(memory_format: torch.memory_format) -> None:
    x = torch.randint(-3, 4, (2, 18, 7, 9, 33)).float().contiguous(memory_format=memory_format).requires_grad_()

    def gradient(call: Any, *arguments: Any) -> torch.Tensor:
        y = call(x, *arguments)
        given = torch.arange(y.numel(), dtype=torch.float32).view(y.shape)
        return torch.autograd.grad(y, x, given)[0]

    for call, by_name in ((F.max_pool3d, drystone.ops.max_pool3d), (F.avg_pool3d, drystone.ops.avg_pool3d)):
        for window in ((2,), (3, 2, 1)):
            ours, stock = both(gradient, call, *window)
            same(ours, stock)
            same(gradient(by_name, *window), stock)


def test_by_name() -> None:
    x = torch.randn(1, 16, 8, 8, 16)
    for ours, stock in zip(
        *(pool(x, 3, 2, 1, return_indices=True) for pool in (drystone.ops.max_pool3d, F.max_pool3d)), strict=True
    ):
        same(ours, stock)
    torch.testing.assert_close(drystone.ops.avg_pool3d(x, (1, 2, 2)), F.avg_pool3d(x, (1, 2, 2)))


def test_modes() -> None:
    x = torch.randn(2, 16, 8, 8, 8)
    with drystone.enabled():
        with torch.inference_mode():
            assert F.max_pool3d(x, 2).is_inference()
        assert torch.func.vmap(lambda y: F.max_pool3d(y, 2))(x).shape == (2, 16, 4, 4, 4)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.max_pool3d(x, 2).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cases_are_of_results_that_are_torchs(dtype: str) -> None:
    for case in (*volume_layers.max_pool_cases(dtype), *volume_layers.avg_pool_cases(dtype)):
        if case.sizes["size"] == "16x16x16":
            contest = case.make()
            calls, reasons = contest.prepare()
            assert set(calls) == {"drystone", "torch"} and not reasons
