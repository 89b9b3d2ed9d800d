"""clone under torch's name, into another memory format: torch's elements, strides and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch

import drystone

PLAIN, LAST = torch.contiguous_format, torch.channels_last_3d
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int16, torch.float64, torch.int8, torch.bool]


def check(x: torch.Tensor, memory_format: torch.memory_format) -> None:
    expected = x.clone(memory_format=memory_format)
    with drystone.enabled():
        copies = x.clone(memory_format=memory_format), drystone.ops.clone(x, memory_format=memory_format)
    for copy in copies:
        assert copy.stride() == expected.stride() and copy.dtype == expected.dtype
        assert copy is not x and (copy.data_ptr() != x.data_ptr() or x.numel() == 0)
        assert torch.equal(copy, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_ways(dtype: torch.dtype) -> None:
    for channels, pixels in itertools.product((1, 2, 7, 8, 9, 16, 17, 31, 33, 64, 100), (5, 16, 33)):
        x = torch.randint(-99, 99, (2, channels, 3, 7, pixels)).to(dtype)
        check(x, LAST)
        check(x.contiguous(memory_format=LAST), PLAIN)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    x = torch.randn(3, 65, 9, 30, 31)
    check(x, LAST)
    check(x.contiguous(memory_format=LAST), PLAIN)


def test_other_strides_and_formats() -> None:
    x = torch.randn(2, 16, 4, 8, 10)
    for other in (x[..., ::2], x.transpose(1, 4), x[:, :1].expand(x.shape), x[:0], x.to(memory_format=LAST)[:, ::2], x[0], x[0, 0]):
        for memory_format in (PLAIN, torch.preserve_format, *([LAST] if other.ndim == 5 else [])):
            check(other, memory_format)
    with drystone.enabled():
        assert x.contiguous() is x
        with pytest.raises(RuntimeError, match="rank 5"):
            x[0].clone(memory_format=LAST)


def test_what_a_tensor_hides() -> None:
    """A sign that is still to be applied, zeros that have no memory, and imaginary parts."""
    x = torch.randn(2, 16, 4, 8, 10)
    for other in (
        torch._neg_view(x),
        torch._efficientzerotensor(x.shape),
        torch.complex(x, x).conj(),
        torch.complex(x, x).conj().imag,
    ):
        check(other, LAST)
