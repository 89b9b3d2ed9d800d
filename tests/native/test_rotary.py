"""The rotary embedding kernel against torch in float64."""

from __future__ import annotations

import pytest
import torch
from layout import blank, dense, lay, outcome, read, run, strided

from drystone import _native
from drystone._native import Format

PLAIN = Format.plain


def reference(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    first, second = x.double().chunk(2, -1)
    return x.double() * cosines.double() + torch.cat([-second, first], -1) * sines.double()


def assert_close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 2**-9}
    torch.testing.assert_close(actual.double(), expected, **tolerance)


@pytest.mark.parametrize("size", [2, 4, 6, 14, 16, 18, 30, 32, 34, 62, 64, 66, 128, 510, 512, 514, 1100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_length(dtype: torch.dtype, size: int) -> None:
    x, cosines, sines = (torch.randn(shape).to(dtype) for shape in ((2, 3, 5, size), (5, size), (1, 1, 5, size)))
    for factors in (dtype, torch.float32):
        laid = [lay(value, PLAIN) for value in (x, cosines.to(factors), sines.to(factors))]
        output = dense(x.shape, PLAIN, dtype)
        result = outcome(_native.rotary(*(desc for desc, _ in laid), output), output, *(buffer for _, buffer in laid))
        assert_close(result, reference(x, cosines, sines), dtype)


@pytest.mark.parametrize("threads", [1, 2])
def test_strided_rows(threads: int) -> None:
    x, cosines, sines = torch.randn(2, 70, 3, 64), torch.randn(2, 1, 70, 64), torch.randn(70, 64)
    desc = strided((2, 3, 70, 64), (70 * 3 * 64, 64, 3 * 64, 1), PLAIN)
    output = strided((2, 3, 70, 64), (3 * 70 * 80, 70 * 80, 80, 1), PLAIN)
    (c, c_buffer), (s, s_buffer) = lay(cosines, PLAIN), lay(sines, PLAIN)
    result = blank(output)
    run(_native.rotary(desc, c, s, output), x.reshape(-1), c_buffer, s_buffer, result, threads=threads)
    assert_close(read(output, result), reference(x.transpose(1, 2), cosines, sines), torch.float32)
    assert int(result.isnan().sum()) == result.numel() - x.numel()  # nothing between the rows


def test_special_values() -> None:
    x = torch.tensor([[1.0, torch.nan, torch.inf, 2.0], [3.0, 1.0, -torch.inf, 0.0]])
    cosines, sines = torch.ones(4), torch.ones(4)
    laid = [lay(value, PLAIN) for value in (x, cosines, sines)]
    output = dense((2, 4), PLAIN)
    result = outcome(_native.rotary(*(desc for desc, _ in laid), output), output, *(buffer for _, buffer in laid))
    torch.testing.assert_close(result.double(), reference(x, cosines, sines), equal_nan=True)


def test_refusals() -> None:
    x, factors = dense((2, 3, 8), PLAIN), dense((3, 8), PLAIN)
    with pytest.raises(ValueError, match="halves"):
        _native.rotary(dense((2, 7), PLAIN), dense((7,), PLAIN), dense((7,), PLAIN), dense((2, 7), PLAIN))
    with pytest.raises(ValueError, match="another last axis"):
        _native.rotary(x, dense((3, 1), PLAIN), factors, x)
    with pytest.raises(ValueError, match="broadcast"):
        _native.rotary(x, dense((2, 8), PLAIN), factors, x)
    with pytest.raises(ValueError, match="elements apart"):
        _native.rotary(strided((2, 3, 8), (48, 16, 2), PLAIN), factors, factors, x)
    with pytest.raises(ValueError, match="s64"):
        _native.rotary(dense((2, 3, 8), PLAIN, torch.int64), factors, factors, x)
