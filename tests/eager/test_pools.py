"""max_pool3d and avg_pool3d under torch's names: torch's maxima, places, means, gradients and errors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import drystone

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


def test_rows_shorter_than_a_window() -> None:
    for width in range(6, 9):
        check_maxima(torch.randn(1, 3, 5, 40, width), (1, 1, 15), 1, (0, 0, 7))


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


def test_one_channel_in_either_format() -> None:
    x = torch.empty(4, 1, 8, 16, 32, memory_format=LAST).normal_()
    for pool in (F.max_pool3d, F.avg_pool3d):
        ours, stock = both(pool, x, 2)
        assert ours.stride() == stock.stride()
        torch.testing.assert_close(ours, stock, rtol=1e-6, atol=1e-6)


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


def test_modes() -> None:
    x = torch.randn(2, 16, 8, 8, 8)
    with drystone.enabled():
        with torch.inference_mode():
            assert F.max_pool3d(x, 2).is_inference()
        assert torch.func.vmap(lambda y: F.max_pool3d(y, 2))(x).shape == (2, 16, 4, 4, 4)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.max_pool3d(x, 2).dtype == torch.float32
