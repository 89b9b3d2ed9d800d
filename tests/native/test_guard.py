"""guard in each format, with the bad element at every place, and what it does to the steps after it."""

from __future__ import annotations

import pytest
import torch
from layout import FORMATS, dense, lay, strided

from drystone import native
from drystone.native import TensorDesc

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

NAN, INF = float("nan"), float("inf")
LIMIT = 1e8


def notices(desc: TensorDesc, buffer: torch.Tensor, threads: int = 2) -> bool:
    """Whether a step after the guard runs exact: oneDNN's relu of a NaN bias is a number, and NaN if it does."""
    program = native.Program()
    program.add(native.guard(desc, LIMIT), [0])
    one = dense((1, 8), "plain")
    product = native.Linear(False, one, 8, True, one, [("clamp", 0.0, 6.0, None)])
    program.add(product, [1, 2, 3, 4])
    x, bias, output = torch.zeros(8), torch.full((8,), NAN), torch.zeros(one.bytes // 4)
    weights = torch.zeros(product.packed_bytes, dtype=torch.uint8)
    scratchpad = torch.empty(max(program.scratchpad_bytes, 1), dtype=torch.uint8)
    addresses = [tensor.data_ptr() for tensor in (buffer, x, weights, bias, output)]
    frame = native.Frame(program, addresses, [], scratchpad.data_ptr(), threads)
    frame.call([], 2)
    noticed = bool(output.isnan().all())
    assert noticed or not output.isnan().any()
    return noticed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 2, 15, 31, 63, 64, 65, 129])
def test_a_bad_element_anywhere(length: int, dtype: torch.dtype) -> None:
    x = torch.tensor([9.9e7, -9.9e7, torch.finfo(dtype).tiny / 4, -0.0]).repeat(50)[:length].to(dtype)
    desc = dense((length,), "plain", dtype)
    assert not notices(desc, x)
    for place in range(length):
        for bad in (NAN, -NAN, INF, -INF, 1.1e8, -1.1e8):
            spoilt = x.clone()
            spoilt[place] = bad
            assert notices(desc, spoilt)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_tensors_in_each_format(format: native.Format, threads: int) -> None:
    x = torch.rand(2, 32, 37, 61)
    desc, buffer = lay(x, format)
    assert not notices(desc, buffer, threads)
    for place in (0, buffer.numel() // 2, buffer.numel() - 1):
        spoilt = buffer.clone()
        spoilt[place] = NAN
        assert notices(desc, spoilt, threads)


def test_what_lies_between_is_not_looked_at() -> None:
    """A part of a cat: channels 16 to 32 of 48."""
    buffer = torch.rand(2, 5, 7, 48)
    part = strided((2, 16, 5, 7), (5 * 7 * 48, 1, 7 * 48, 48), "channels_last")
    buffer[..., :16] = buffer[..., 32:] = NAN
    inside = buffer.flatten()[16:]
    assert not notices(part, inside)
    buffer[1, 4, 6, 31] = INF
    assert notices(part, inside)


def test_a_call_begins_unsuspected() -> None:
    program = native.Program()
    program.add(native.guard(dense((4,), "plain"), LIMIT), [0])
    one = dense((1, 8), "plain")
    product = native.Linear(False, one, 8, True, one, [("relu", 0.0, 0.0, None)])
    program.add(product, [1, 2, 3, 4])
    watched, x, bias, output = torch.ones(4), torch.zeros(8), torch.full((8,), NAN), torch.zeros(8)
    weights = torch.zeros(product.packed_bytes, dtype=torch.uint8)
    scratchpad = torch.empty(max(program.scratchpad_bytes, 1), dtype=torch.uint8)
    frame = native.Frame(program, [t.data_ptr() for t in (watched, x, weights, bias, output)], [], scratchpad.data_ptr(), 1)
    seen = []
    for value in (1.0, NAN, 1.0, INF, 1.0):
        watched.fill_(value)
        frame.call([], 2)
        seen.append(bool(output.isnan().all()))
    assert seen == [False, True, False, True, False]


def test_other_dtypes_and_padding_are_refused() -> None:
    with pytest.raises(ValueError, match="f32 and bf16"):
        native.guard(dense((3,), "plain", torch.float64), LIMIT)
    with pytest.raises(ValueError, match="padded"):
        native.guard(dense((1, 10, 2, 2), "blocked8"), LIMIT)
