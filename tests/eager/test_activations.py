"""tanh, sigmoid, silu, gelu, softmax and layer norm under torch's names: torch's results, gradients and errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import drystone

ACTIVATIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "tanh": (torch.tanh, drystone.ops.tanh),
    "sigmoid": (torch.sigmoid, drystone.ops.sigmoid),
    "silu": (F.silu, drystone.ops.silu),
    "gelu": (F.gelu, drystone.ops.gelu),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), lambda x: drystone.ops.gelu(x, approximate="tanh")),
}
SPECIALS = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 88.5, -88.5, 104.0, -104.0, 1e30, -1e30]


def close(got: torch.Tensor, expected: torch.Tensor, exact: torch.Tensor) -> None:
    """Within a few roundings of the exact result; NaN and infinity where torch has them."""
    assert got.dtype == expected.dtype and got.stride() == expected.stride()
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got[got.isinf()], expected[expected.isinf()])
    finite = got.isfinite() & exact.isfinite()
    tolerance = 4 * torch.finfo(got.dtype).eps
    torch.testing.assert_close(got[finite].double(), exact[finite], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [13, 16, 31, 100, 1039, 4099, 70001])
def test_values(name: str, dtype: torch.dtype, count: int) -> None:
    function, by_name = ACTIVATIONS[name]
    x = (torch.randn(count) * 4).to(dtype)
    x[: len(SPECIALS)] = torch.tensor(SPECIALS)
    if name == "gelu":
        x[x.isinf()] = 0.0  # torch's float32 gives NaN for infinity
    expected, exact = function(x), function(x.double())
    with drystone.enabled():
        results = function(x), by_name(x)
    for got in results:
        close(got, expected, exact)


def test_gelu_of_infinity() -> None:
    assert drystone.ops.gelu(torch.full((2000,), math.inf)).eq(math.inf).all()


def test_modes() -> None:
    drystone.enable()
    x = torch.randn(50, 30)
    with torch.inference_mode():
        assert torch.tanh(x).is_inference()
    assert torch.tanh(x.requires_grad_()).grad_fn is not None
    assert torch.func.vmap(torch.tanh)(x).shape == x.shape
    y = torch.randn(50, 30)
    assert torch.tanh(y, out=y) is y


def test_softmax_along_one_axis_after_the_other() -> None:
    """Steps that were made for one axis, shape or rank serve no other."""
    x = torch.randn(12, 16, 28) * 4
    drystone.enable(only=["softmax"])
    for _ in range(2):
        for view in (x, x.view(16, 12, 28), x.view(4, 3, 16, 28), x.view(192, 28)):
            for dim in range(view.ndim):
                torch.testing.assert_close(
                    torch.softmax(view, dim).double(), torch.softmax(view.double(), dim), rtol=1e-5, atol=1e-7
                )


@pytest.mark.parametrize(("shape", "over"), [((64, 65), 1), ((7, 20, 33), 2), ((5, 4097), 1), ((2, 9000), 1), ((3, 4, 5), 3)])
def test_statistics_of_layer_norm(shape: tuple[int, ...], over: int) -> None:
    x = torch.randn(shape) + 3
    calls = [torch.native_layer_norm(x, shape[-over:], None, None, 1e-5)]
    with drystone.enabled():
        calls.append(torch.native_layer_norm(x, shape[-over:], None, None, 1e-5))
    for want, got in zip(*calls, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        assert got.shape == want.shape
