"""Programs of codes against torch's run of the same quantised graph: no rounding differs but at ties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import drystone
from drystone import native
from quantised_models import BLOCK, Quantised, block, q, rounded

Tensor = torch.Tensor
KERNEL = (16, 16, 3, 3)
# So many codes may be the next one, where the number lies between two: sums are rounded in another order.
TIES = 1e-3

needs_kernels = pytest.mark.skipif(native.isa() == "none", reason="torch computes everything")


def hold(model: Quantised, *inputs: Tensor, step: float = 0.0, **options: Any) -> drystone.optimize:  # type: ignore[valid-type]
    """``step``: between two codes of the result; 0 where it is floats."""
    fast = drystone.optimize(model, inputs, tuning="estimate", **options)
    expected, found = model(*inputs), fast(*inputs)
    if not step:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        return fast
    steps = ((found - expected) / step).abs()
    assert steps.max() <= 1.001
    assert int((steps > 0.5).sum()) <= max(1, TIES * steps.numel())
    return fast


def as_observed(scale: float) -> float:
    """Observers compute scales in float32."""
    return float(torch.tensor(scale))


def implementations(fast: Any) -> list[str]:
    return [step.implementation for step in fast.explain().steps]


@needs_kernels
def test_a_block_has_nothing_on_aten(tmp_path: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 9)
    fast = hold(Quantised(block, *BLOCK), x)
    assert not fast.explain().segments
    drystone.save(fast, tmp_path / "m.drystone")
    assert torch.equal(drystone.load(tmp_path / "m.drystone")(x), fast(x))


@needs_kernels
@pytest.mark.parametrize("format", ["plain", "channels_last"])
@pytest.mark.parametrize("implementation", ["codes", "floats"])
def test_each_way_gives_the_same(format: str, implementation: str) -> None:
    """By measuring either may win."""
    torch.manual_seed(0)
    model = Quantised(block, *BLOCK)
    x = torch.randn(2, 16, 9, 9)
    expected = model(x)
    fast = drystone.optimize(model, x, tuning=0.3, formats=format if implementation == "codes" else None)
    torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-3)


def test_torch_compile() -> None:
    model = Quantised(block, *BLOCK)
    x = torch.randn(2, 16, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="drystone")(x), model(x), rtol=1e-5, atol=1e-3)


OPERATORS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "conv": (lambda x, w: F.conv2d(x, w, stride=2, padding=1), [KERNEL]),
    "conv, depthwise": (lambda x, w: F.relu(F.conv2d(x, w, padding=1, groups=16)), [(16, 1, 3, 3)]),
    "conv, groups": (lambda x, w: F.conv2d(x, w, groups=2), [(16, 8, 3, 3)]),
    "conv, transposed": (lambda x, w: F.conv_transpose2d(x, w, stride=2), [(16, 16, 2, 2)]),
    "conv, one axis": (lambda x, w: F.conv1d(x.flatten(2), w), [(16, 16, 3)]),
    "linear": (lambda x, w: F.gelu(F.linear(x.permute(0, 2, 3, 1), w)), [(24, 16)]),
    "a residual": (lambda x, w: F.conv2d(x, w, padding=1) + x, [KERNEL]),
    "add": (lambda x: x + x.flip(3), []),
    "silu": (lambda x: F.silu(x), []),
    "layer norm": (lambda x: F.layer_norm(x, (7, 6)), []),
    "gate": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), []),
    "max pool": (lambda x: F.max_pool2d(x, 3, 2, 1), []),
    "mean pool": (lambda x: F.avg_pool2d(x, 3, 2, 1), []),
    "mean": (lambda x: x.mean((2, 3)), []),
    "cat": (lambda x: torch.cat([x, F.relu(x)], 1), []),
    "upsample": (lambda x: F.interpolate(x, scale_factor=2.0), []),
    "upsample, linear": (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), []),
    "views": (lambda x: x.permute(0, 2, 3, 1)[:, 1:].flatten(1), []),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1)), []),
}


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from([torch.uint8, torch.int8]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([1e-3, 0.03, 7.0]),
    st.integers(0, 99),
)  # fmt: skip
def test_operators(name: str, dtype: torch.dtype, here: float, there: float, scale: float, seed: int) -> None:
    """``here`` and ``there``: where between the ends the zero points lie."""
    function, shapes = OPERATORS[name]
    limits = torch.iinfo(dtype)
    scale = as_observed(scale)
    first, second = (round(limits.min + 255 * share) for share in (here, there))
    torch.manual_seed(seed)
    x = torch.randn(2, 16, 7, 6) * 100 * scale
    plain = function(rounded(x, scale, first, dtype), *(w() for w in Quantised(function, *shapes).weights))
    step = as_observed(float(plain.abs().max()) / 100 + 1e-6)
    model = Quantised(lambda x, *w: rounded(function(rounded(x, scale, first, dtype), *w), step, second, dtype), *shapes)
    hold(model, x, step=step)


def rounded_by_its_range(x: Tensor, low: int, high: int, dtype: torch.dtype, symmetric: bool) -> Tensor:
    choose = q.choose_qparams_symmetric.tensor if symmetric else q.choose_qparams.tensor
    scale, zero_point = choose(x, low, high, 2**-12, dtype)
    codes = q.quantize_per_tensor.tensor(x, scale, zero_point, low, high, dtype)
    return q.dequantize_per_tensor.tensor(codes, scale, zero_point, low, high, dtype)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "symmetric"),
    [(0, 255, torch.uint8, False), (-128, 127, torch.int8, False), (-127, 127, torch.int8, True)],
)
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e4])
def test_a_scale_that_each_call_finds(low: int, high: int, dtype: torch.dtype, symmetric: bool, size: float) -> None:
    torch.manual_seed(0)
    model = Quantised(lambda x, w: F.gelu(F.linear(rounded_by_its_range(x, low, high, dtype, symmetric), w)), (24, 16))
    fast = hold(model, size * torch.randn(3, 5, 16))
    if native.isa() != "none":
        assert [step.op for step in fast.explain().steps] == ["dynamic_linear"]  # type: ignore[attr-defined]
    x = torch.zeros(3, 5, 16)
    assert torch.equal(fast(x), model(x))  # type: ignore[operator]


def test_dequantised_inputs_of_the_caller() -> None:
    """Codes that come from outside."""
    model = Quantised(lambda x, w: F.linear(q.dequantize_per_tensor(x, 0.1, 3, 0, 255, torch.uint8), w), (8, 16))
    hold(model, torch.randint(0, 256, (4, 16), dtype=torch.uint8))


def test_not_a_number_becomes_code_0_as_with_torch() -> None:
    model = Quantised(lambda x, w: F.linear(rounded(x, 0.03, 131), w), (8, 16))
    x = torch.randn(4, 16)
    x[0, 0], x[1, 1], x[2, 2] = float("nan"), float("inf"), -float("inf")
    hold(model, x)
