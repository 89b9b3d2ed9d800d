"""batch norm and instance norm under torch's names: values, statistics, gradients and errors."""

from __future__ import annotations

import math

import pytest
import torch

import drystone
from agreement import relative_error

SHAPES = [
    (2, 8, 4, 8, 8),
    (1, 32, 16, 16, 17),  # a row that does not fit the buffer of a short one
    (3, 5, 7, 11, 13),
    (1, 3, 33, 63, 65),
    (7, 40, 1, 16, 1),
    (2, 16, 9, 30),
    (2, 6, 5001),
    (64, 3, 40, 5),
]
EPS = 1e-5


def normalised(x: torch.Tensor, affine: bool) -> tuple[torch.Tensor, ...]:
    """All results of the operator, and the running statistics as it leaves them."""
    generator = torch.Generator().manual_seed(0)
    weight, bias, mean, var = (torch.rand(x.shape[1], generator=generator).to(x.dtype) + 0.5 for _ in range(4))
    parameters = (weight, bias) if affine else (None, None)
    return *torch.native_batch_norm(x, *parameters, mean, var, True, 0.3, EPS), mean, var


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_no_worse_than_torch(shape: tuple[int, ...], affine: bool, offset: float) -> None:
    x = torch.randn(shape) * 3 + offset
    stock, exact = normalised(x, affine), normalised(x.double(), affine)
    with drystone.enabled():
        ours = normalised(x, affine)
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine.shape == theirs.shape and mine.stride() == theirs.stride() and mine.dtype == theirs.dtype
    for at in (0, 2, 4):  # values, deviations, running variance
        # All are rounded to float32, so by chance either may be the nearer one.
        assert relative_error(ours[at], exact[at]) <= max(1e-7, relative_error(stock[at], exact[at]))
    for at in (1, 3):  # of means, what counts is the part of the deviation; running ones are rounded twice
        assert ((ours[at] - exact[at]).abs() <= 2.0**-23 * (exact[at].abs() + 1 / exact[2])).all()


@pytest.mark.parametrize("pixels", [*range(16, 66), 4095, 4096, 4097, 8192, 9000])
def test_every_remainder(pixels: int) -> None:
    x = torch.randn(2, 300 if pixels < 66 else 3, pixels) + 2
    with drystone.enabled():
        ours = normalised(x, True)
    for mine, wanted in zip(ours, normalised(x.double(), True), strict=True):
        assert relative_error(mine, wanted) < 1e-7


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    x = torch.randn(2, 7, 9, 33, 17)
    with drystone.enabled():
        first, second = normalised(x, True), normalised(x, True)
    assert all(map(torch.equal, first, second))
    assert relative_error(first[0], normalised(x.double(), True)[0]) < 1e-7


def test_constant_channels() -> None:
    x = torch.full((2, 16, 4, 8, 8), 1234.567)
    with drystone.enabled():
        y, means, deviations = torch.native_batch_norm(x, None, None, None, None, True, 0.1, EPS)
    assert y.eq(0).all() and means.eq(x[0, 0, 0, 0, 0]).all()
    torch.testing.assert_close(deviations, torch.full((16,), 1 / math.sqrt(EPS)))


def test_nan_and_infinity_stay_in_their_channel() -> None:
    x = torch.randn(2, 16, 8, 20, 20)
    x[0, 3, 1, 1, 1], x[1, 5, 0, 0, 0] = math.nan, math.inf
    stock = normalised(x, True)
    with drystone.enabled():
        ours = normalised(x, True)
    for mine, theirs in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e18, 1e36])
def test_squares_that_outgrow_float32(size: float) -> None:
    x = size * torch.randn(4, 16, 8, 20, 20, generator=torch.Generator().manual_seed(0))
    with drystone.enabled():
        y, means, _, running_mean, running_var = normalised(x, False)
    exact = normalised(x.double(), False)
    assert relative_error(y, exact[0]) < 1e-6
    torch.testing.assert_close(means.double(), exact[1], rtol=1e-5, atol=1e-6 * size)
    torch.testing.assert_close(running_mean.double(), exact[3], rtol=1e-5, atol=1e-6 * size)
    assert torch.equal(running_var.isinf(), exact[4].float().isinf())


def test_a_layer_trains_as_without() -> None:
    """Running statistics included, and the number of batches; then in inference."""
    batches = torch.randn(5, 2, 16, 4, 9, 9) * 2 + 1
    for make in (lambda: torch.nn.BatchNorm3d(16), lambda: torch.nn.InstanceNorm3d(16, affine=True, track_running_stats=True)):
        stock, ours = make(), make()
        for x in batches:
            stock(x)
            with drystone.enabled():
                ours(x)
        torch.testing.assert_close(ours.state_dict(), stock.state_dict())
        stock.eval(), ours.eval()
        with drystone.enabled():
            got = ours(batches[0])
        torch.testing.assert_close(got, stock(batches[0]))
