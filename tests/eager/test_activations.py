"""tanh, sigmoid, silu, gelu, softmax and layer norm under torch's names: torch's results, gradients and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F

import drystone
from drystone.eager import operators

pytestmark = pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))

ACTIVATIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "tanh": (torch.tanh, drystone.ops.tanh),
    "sigmoid": (torch.sigmoid, drystone.ops.sigmoid),
    "silu": (F.silu, drystone.ops.silu),
    "gelu": (F.gelu, drystone.ops.gelu),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), lambda x: drystone.ops.gelu(x, approximate="tanh")),
}
SPECIALS = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 88.5, -88.5, 104.0, -104.0, 1e30, -1e30]


@pytest.fixture
def enabled() -> Iterator[None]:
    with drystone.enabled():
        yield


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
@pytest.mark.parametrize("count", [1023, 1024, 1025, 1039, 4099, 70001])
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
        if count < 1024:  # torch's own
            torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
        else:
            close(got, expected, exact)


def test_gelu_of_infinity() -> None:
    assert drystone.ops.gelu(torch.full((2000,), math.inf)).eq(math.inf).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_strides_dtypes_and_sizes(name: str, enabled: None) -> None:
    function = ACTIVATIONS[name][0]
    for x in (
        torch.randn(4, 16, 9, 9).to(memory_format=torch.channels_last),
        torch.randn(64, 40).t(),
        torch.randn(64, 80)[:, ::2],
        torch.randn(1, 40).expand(64, 40),
        torch.randn(0, 4),
        torch.tensor(0.5),
        torch.randn(3000, dtype=torch.float64),
        torch.randn(3000).half(),
    ):
        with drystone.enabled(only=[]):
            expected = function(x)
        close(function(x), expected, function(x.double()))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients(name: str) -> None:
    function, by_name = ACTIVATIONS[name]
    for call in (function, by_name):
        x = torch.randn(50, 30, requires_grad=True)
        function(x).square().sum().backward()
        expected, x.grad = x.grad, None
        with drystone.enabled():
            call(x).square().sum().backward()
        torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-5)


def test_modes(enabled: None) -> None:
    x = torch.randn(50, 30)
    with torch.inference_mode():
        assert torch.tanh(x).is_inference()
    assert torch.tanh(x.requires_grad_()).grad_fn is not None
    assert torch.func.vmap(torch.tanh)(x).shape == x.shape
    with pytest.raises(RuntimeError, match="approximate"):
        F.gelu(x, approximate="tanhh")
    with pytest.raises(RuntimeError, match="approximate"):
        drystone.ops.gelu(x, approximate="tanhh")
    y = torch.randn(50, 30)
    assert torch.tanh(y, out=y) is y


@pytest.mark.parametrize(
    ("shape", "dim"), [((40, 130), 0), ((3, 17, 33, 5), 1), ((3, 17, 33, 5), -2), ((64, 1, 70), 1), ((5000,), 0)]
)
def test_softmax(shape: tuple[int, ...], dim: int) -> None:
    x = torch.randn(shape, requires_grad=True)
    expected = torch.softmax(x, dim)
    weights = torch.randn(shape)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    with drystone.enabled():
        for call in (torch.softmax, drystone.ops.softmax):
            got = call(x, dim)
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(torch.autograd.grad((got * weights).sum(), x)[0], gradient, rtol=1e-5, atol=1e-6)
        with pytest.raises(IndexError):
            torch.softmax(x, len(shape))
        assert torch.equal(torch.softmax(x.to(torch.bfloat16), dim), torch.softmax(x.to(torch.bfloat16), dim))


@pytest.mark.parametrize(("shape", "over"), [((64, 65), 1), ((7, 20, 33), 2), ((5, 4097), 1), ((2, 9000), 1), ((3, 4, 5), 3)])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(shape: tuple[int, ...], over: int, affine: bool) -> None:
    normalized = shape[-over:]
    x = (torch.randn(shape) + 3).requires_grad_()
    parameters = [torch.randn(normalized, requires_grad=True) for _ in range(2)] if affine else [None, None]
    operands = [x, *parameters] if affine else [x]
    weights = torch.randn(shape)

    def run(call: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        y = call(x, normalized, *parameters)
        return y, *torch.autograd.grad((y * weights).sum(), operands)

    expected = run(F.layer_norm)
    with drystone.enabled():
        for call in (F.layer_norm, drystone.ops.layer_norm):
            for got, wanted in zip(run(call), expected, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        statistics = torch.native_layer_norm(x, normalized, *parameters, 1e-5)[1:]
        with pytest.raises(RuntimeError):
            F.layer_norm(x, (shape[-1] + 1,))
    for got, wanted in zip(statistics, torch.native_layer_norm(x, normalized, *parameters, 1e-5)[1:], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
        assert got.shape == wanted.shape
