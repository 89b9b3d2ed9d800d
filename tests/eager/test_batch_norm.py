"""batch norm and instance norm under torch's names: values, statistics, gradients and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import drystone
from agreement import relative_error
from drystone.eager import operators
from drystone.tools.ops import volume_layers

pytestmark = pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))

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


BATCH: tuple[Callable[..., torch.Tensor], ...] = (
    lambda x, *p: F.batch_norm(x, None, None, *p, training=True),
    lambda x, *p: drystone.ops.batch_norm(x, None, None, *p, training=True),
)
INSTANCE: tuple[Callable[..., torch.Tensor], ...] = (
    lambda x, *p: F.instance_norm(x, None, None, *p),
    lambda x, *p: drystone.ops.instance_norm(x, *p),
)


@pytest.mark.parametrize("calls", [BATCH, INSTANCE], ids=["batch", "instance"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_gradients(calls: Any, affine: bool, memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 16, 5, 9, 11).contiguous(memory_format=memory_format).requires_grad_()
    operands = [x, *(torch.randn(16, requires_grad=True) for _ in range(2))] if affine else [x]
    given = torch.randn(x.shape)

    def run(call: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        y = call(*operands)
        return y, *torch.autograd.grad(y, operands, given)

    stock = run(calls[0])
    with drystone.enabled():
        ours = run(calls[0])
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine.stride() == theirs.stride()
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(run(calls[1]), stock, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


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


def test_what_torch_serves() -> None:
    x = torch.randn(4, 16, 6, 8, 10)
    for other in (
        x.double(),
        x.to(torch.bfloat16),
        x.contiguous(memory_format=torch.channels_last_3d),
        x[..., ::2],
        x[:, :, :1, :1, :1].contiguous(),
        torch.randn(300, 16),
    ):
        stock = normalised(other, True)
        with drystone.enabled():
            for mine, theirs in zip(normalised(other, True), stock, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
                assert mine.stride() == theirs.stride()
    wide, narrow = (torch.ones(16, dtype=dtype) for dtype in (torch.float64, torch.bfloat16))
    for weight in (wide, narrow, torch.ones(32)[::2], torch.ones(15), torch.ones(1, 16)):
        outcomes = []
        for only in ([], None):
            with drystone.enabled(only=only):
                try:
                    outcomes.append(F.batch_norm(x, None, None, weight, training=True))
                except RuntimeError as error:
                    outcomes.append(str(error))
        assert type(outcomes[0]) is type(outcomes[1])


def test_errors() -> None:
    x = torch.randn(1, 16, 1, 1, 1)
    with drystone.enabled():
        for call, error in (
            (lambda: F.batch_norm(x, None, None, training=True), ValueError),
            (lambda: F.instance_norm(x), ValueError),
            (lambda: F.batch_norm(x, torch.zeros(3), torch.ones(3), training=True), (RuntimeError, ValueError)),
            (lambda: F.batch_norm(x, None, None), RuntimeError),
        ):
            with pytest.raises(error):
                call()


@pytest.mark.parametrize("call", [F.batch_norm, F.instance_norm])
@pytest.mark.parametrize("shape", [(2, 16, 32, 32), (2, 16, 4, 16, 16)])
@pytest.mark.parametrize("given", [0, 1])
def test_one_statistic_alone(call: Any, shape: tuple[int, ...], given: int) -> None:
    statistics = [None, None]
    statistics[given] = torch.ones(16)
    messages = []
    for only in ([], None):
        with drystone.enabled(only=only), pytest.raises((RuntimeError, ValueError)) as raised:
            call(torch.randn(shape), *statistics, **{"training" if call is F.batch_norm else "use_input_stats": True})
        messages.append((raised.type, str(raised.value)))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("cases", [volume_layers.batch_norm_cases, volume_layers.instance_norm_cases])
def test_cases_run(cases: Any) -> None:
    for case in cases("float32"):
        if case.sizes["size"] == "16x16x16":
            contest = case.make()
            calls, reasons = contest.prepare()
            assert set(calls) == {"drystone", "torch"} and not reasons
            assert relative_error(calls["drystone"](0), contest.exact()) < 1e-6
