"""``convolution_backward`` under torch's own name, against float64 and against torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import drystone
from agreement import relative_error
from drystone.eager import operators

pytestmark = pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))

NAMES = ("conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
SIZES = {1: (900,), 2: (33, 30), 3: (9, 16, 18)}
ALL = [True, True, True]


@pytest.fixture
def ours() -> Iterator[None]:
    with drystone.enabled(only=["convolution"], reuse_pages=False):
        yield


@dataclass
class Call:
    """The arguments of ``convolution_backward``, operands first."""

    gradient: Tensor
    x: Tensor
    weight: Tensor
    bias_sizes: list[int] | None
    geometry: list[Any]

    @classmethod
    def of(cls, name: str, c: int, o: int, k: int, batch: int = 1, **options: Any) -> Call:
        generator = torch.Generator().manual_seed(0)
        transposed, axes = "transpose" in name, int(name[-2])
        x = torch.randn(batch, c, *SIZES[axes], generator=generator)
        channels = (c, o // options.get("groups", 1)) if transposed else (o, c // options.get("groups", 1))
        weight = torch.randn(*channels, *(k,) * axes, generator=generator)

        def each(option: str, default: int) -> list[int]:
            value = options.get(option, default)
            return [value] * axes if isinstance(value, int) else list(value)

        geometry = [each("stride", 1), each("padding", 0), each("dilation", 1), transposed, each("output_padding", 0)]
        geometry.append(options.get("groups", 1))
        result = getattr(F, name)(x, weight, **options)
        return cls(torch.randn(result.shape, generator=generator), x, weight, [o], geometry)

    def __call__(self, mask: list[bool], dtype: torch.dtype = torch.float32) -> tuple[Tensor | None, ...]:
        operands = (self.gradient.to(dtype), self.x.to(dtype), self.weight.to(dtype))
        results: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(*operands, self.bias_sizes, *self.geometry, mask)
        return results

    def check(self) -> None:
        for got, want, like in zip(self(ALL), self(ALL, torch.float64), (self.x, self.weight, None), strict=True):
            assert got is not None and want is not None
            assert got.shape == want.shape and got.dtype == torch.float32
            assert like is None or got.stride() == like.stride() or not like.is_contiguous()
            assert relative_error(got, want) < 2e-6


@pytest.mark.parametrize(("c", "o", "k"), [(16, 32, 3), (17, 33, 3), (32, 24, 2), (64, 7, 4), (1, 32, 3), (3, 16, 5)])
@pytest.mark.parametrize("name", NAMES)
def test_channels(ours: None, name: str, c: int, o: int, k: int) -> None:
    Call.of(name, c, o, k, stride=2 if "transpose" in name else 1).check()


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 2},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2, 2), "padding": (0, 1, 2)},
        {"stride": (3, 1, 2)},
        {"dilation": 2, "padding": 2},
    ],
)
@pytest.mark.parametrize("c", [2, 32])
def test_conv3d(ours: None, c: int, options: dict[str, Any]) -> None:
    Call.of("conv3d", c, 48, 3, batch=2, **options).check()


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("name", ["conv3d", "conv_transpose2d", "conv_transpose3d"])
def test_kernels_of_three_with_stride_one(ours: None, name: str, padding: int) -> None:
    """Both a convolution and its gradient are Winograd's then, with weights turned round for one of them."""
    Call.of(name, 16, 48, 3, batch=2, padding=padding).check()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("c", "o"), [(16, 48), (48, 16)])
@pytest.mark.parametrize("k", [(3, 3, 3), (1, 3, 3)])
@pytest.mark.parametrize("padding", [(1, 1, 1), (0, 0, 1), (1, 0, 0)])
@pytest.mark.parametrize(("batch", "size"), [(1, (5, 16, 18)), (2, (11, 13, 15)), (1, (3, 70, 49))])
def test_weights_by_winograds_method(
    ours: None, batch: int, size: tuple[int, ...], padding: tuple[int, ...], k: tuple[int, ...], c: int, o: int, threads: int
) -> None:
    """Every remainder of tiles, of blocks of them, and of slices."""
    if k[0] == 1:
        padding = (0, *padding[1:])
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(batch, c, *size, generator=generator), torch.randn(o, c, *k, generator=generator)
    result = F.conv3d(x, weight, padding=padding)
    gradient = torch.randn(result.shape, generator=generator)
    call = Call(gradient, x, weight, [o], [[1] * 3, list(padding), [1] * 3, False, [0] * 3, 1])
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        call.check()
        call.weight = weight.contiguous(memory_format=torch.channels_last_3d)
        call.x = x.contiguous(memory_format=torch.channels_last_3d)
        call.check()
    finally:
        torch.set_num_threads(kept)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("where", ["x", "gradient"])
def test_what_is_not_finite_reaches_the_gradients_that_torchs_reaches(ours: None, where: str, value: float) -> None:
    call = Call.of("conv3d", 32, 16, 3, padding=1)
    # Away from the border: some kernels of torch's multiply padding, others do not.
    getattr(call, where)[0, 5, 3, 4, 5] = value
    for got, want in zip(call(ALL), call(ALL, torch.float64), strict=True):
        assert got is not None and want is not None
        assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf())
        finite = want.isfinite()
        assert relative_error(got[finite], want[finite]) < 2e-6


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (1, 2, 3), "padding": (1, 0, 1), "output_padding": (0, 1, 2)},
        {"stride": 3},
        {"stride": 4},
    ],
)
def test_conv_transpose3d(ours: None, options: dict[str, Any]) -> None:
    Call.of("conv_transpose3d", 32, 24, 3, batch=2, **options).check()


@pytest.mark.parametrize(
    "mask", [[True, False, False], [False, True, False], [False, False, True], [False, True, True], [False] * 3]
)
@pytest.mark.parametrize("served", [True, False])
def test_only_what_is_asked_for_is_computed(ours: None, served: bool, mask: list[bool]) -> None:
    call = Call.of("conv3d", 32, 32, 3, groups=1 if served else 2)
    every = call(ALL)
    for result, whole, wanted in zip(call(mask), every, mask, strict=True):
        assert result is None or wanted or not served  # torch's may be generous
        if wanted:
            assert result is not None and whole is not None and torch.equal(result, whole)


def test_strides(ours: None) -> None:
    last = torch.channels_last_3d
    for name in ("conv3d", "conv_transpose3d"):
        call = Call.of(name, 32, 32, 3, batch=2)
        plain, gradient = call.x, call.gradient
        turned = plain.transpose(2, 4).contiguous().transpose(2, 4)
        for x in (plain, plain.contiguous(memory_format=last), torch.cat((plain, plain), 1)[:, 32:], turned):
            for given in (gradient, gradient.contiguous(memory_format=last), gradient[:1, :, :1, :1, :1].expand_as(gradient)):
                call.x, call.gradient = x, given
                call.check()
    call.x = plain.contiguous(memory_format=last)
    call.weight = call.weight.contiguous(memory_format=last)
    call.check()
    results = call(ALL)
    assert all(r is not None and r.is_contiguous(memory_format=last) for r in results[:2])


def test_through_autograd(ours: None) -> None:
    """A sum's gradient is an expanded scalar; a bias and an x that need no gradient are not given one."""
    call = Call.of("conv3d", 16, 16, 3)
    weight = call.weight.requires_grad_()
    F.conv3d(call.x, weight, torch.zeros(16)).sum().backward()
    got = weight.grad
    want = torch.autograd.grad(F.conv3d(call.x.double(), weight.double()).sum(), weight)[0]
    assert got is not None and relative_error(got, want) < 2e-6


def test_second_derivatives_are_torchs(ours: None) -> None:
    call = Call.of("conv3d", 16, 16, 3)
    x, weight = call.x.requires_grad_(), call.weight.requires_grad_()

    def second(dtype: torch.dtype) -> tuple[Tensor, ...]:
        y = F.conv3d(x.to(dtype), weight.to(dtype)).square().sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, weight))

    for got, want in zip(second(torch.float32), second(torch.float64), strict=True):
        assert relative_error(got, want) < 5e-6


def test_other_calls_are_torchs(ours: None) -> None:
    call = Call.of("conv3d", 32, 24, 3)
    for dtype in (torch.float64, torch.bfloat16):
        got = call(ALL, dtype)
        drystone.disable()
        want = call(ALL, dtype)
        drystone.enable(only=["convolution"], reuse_pages=False)
        for a, b in zip(got, want, strict=True):
            assert a is not None and b is not None and torch.equal(a, b)


def test_errors_are_torchs(ours: None) -> None:
    def message(call: Call) -> str:
        with pytest.raises(RuntimeError) as caught:
            call(ALL)
        return str(caught.value)

    for change in (
        {"gradient": torch.randn(1, 24, 7, 14, 15)},
        {"x": torch.randn(1, 16, 9, 16, 18)},
        {"gradient": torch.randn(1, 7, 7, 14, 16)},
    ):
        call = Call.of("conv3d", 32, 24, 3)
        vars(call).update(change)
        here = message(call)
        drystone.disable()
        assert message(call) == here
        drystone.enable(only=["convolution"], reuse_pages=False)
