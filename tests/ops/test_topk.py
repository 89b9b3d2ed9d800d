"""topk by name: against a stable sort, which of equal elements takes the lowest index first, as our kernel does and torch's does not."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import drystone.ops
from drystone.eager import operators
from drystone.eager.thresholds import table

pytestmark = pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
SHORTEST = table()["topk_count"].in_force  # shorter rows are torch's
INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
# (length, k) that take each way to a bound: blocks, the whole row, a sample, none.
WAYS = (
    (4000, 5),
    (60_000, 50),
    (300_000, 500),
    (1000, 100),
    (4096, 3000),
    (4097, 600),
    (60_000, 20_000),
    (300_000, 30_000),
    (9000, 8990),
)


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(INTEGERS[x.itemsize])


def agrees(x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, is_sorted: bool = True) -> None:
    order = torch.sort(x, dim=dim, descending=largest, stable=True).indices.narrow(dim, 0, k)
    values, indices = drystone.ops.topk(x, k, dim, largest, is_sorted)
    if x.shape[dim] < SHORTEST:
        order = indices if is_sorted else order
        assert torch.equal(values.sort(dim).values, x.gather(dim, order).sort(dim).values)
        return
    if not is_sorted:
        order, (indices, values) = order.sort(dim).values.contiguous(), in_places_order(indices, values, dim)
    assert torch.equal(indices, order)
    assert values.dtype == x.dtype and values.is_contiguous() and indices.is_contiguous()
    assert torch.equal(bits(values), bits(x).gather(dim, order))


def in_places_order(indices: torch.Tensor, values: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    indices, order = indices.sort(dim)
    return indices.contiguous(), bits(values).gather(dim, order).view(values.dtype)


def numbers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.randn(*shape).to(dtype)
    limits = torch.iinfo(dtype)
    return torch.randint(max(limits.min, -(1 << 62)), min(limits.max, 1 << 62), shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_remainder_of_vectors_and_blocks(dtype: torch.dtype) -> None:
    for length in (*range(1, 5), *range(30, 100), *range(125, 132), *range(255, 260), *range(1020, 1030), *range(4090, 4100)):
        x = numbers(2, length, dtype=dtype)
        for k in {1, 2, 7, length // 2, length - 1, length} & set(range(1, length + 1)):
            agrees(x, k, largest=length % 2 == 0)
            agrees(x, k, largest=length % 2 == 1, is_sorted=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("largest", [True, False])
def test_ways_to_a_bound(dtype: torch.dtype, largest: bool) -> None:
    for length, k in WAYS:
        for is_sorted in (True, False):
            agrees(numbers(length, dtype=dtype), k, largest=largest, is_sorted=is_sorted)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("rows", ["ascending", "descending", "equal", "few values", "saw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8], ids=str)
def test_rows_that_are_hard_to_bound(rows: str, dtype: torch.dtype, largest: bool) -> None:
    for length, k in WAYS:
        x = numbers(length, dtype=dtype)
        if rows == "ascending":
            x = x.sort().values
        elif rows == "descending":
            x = x.sort(descending=True).values
        elif rows == "equal":
            x = x[:1].expand(length).clone()
        elif rows == "few values":
            x = torch.randint(0, 3, (length,)).to(dtype)
        else:
            x = (torch.arange(length) % 64).to(dtype)
        for is_sorted in (True, False):
            agrees(x, k, largest=largest, is_sorted=is_sorted)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("share", [0.001, 0.5, 1.0])
def test_values_that_are_no_numbers(dtype: torch.dtype, largest: bool, share: float) -> None:
    kinds = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0]
    for length, k in WAYS:
        x = numbers(length, dtype=dtype)
        for kind in kinds:
            x[torch.rand(length) < share / len(kinds)] = kind
        if share == 1.0:
            x = x.isfinite().to(dtype) * float("nan")
        integers = bits(x)
        # NaN of either sign and of other payloads; both are kept.
        integers[x.isnan() & (torch.rand(length) < 0.3)] ^= torch.iinfo(integers.dtype).min + 1
        agrees(integers.view(dtype), k, largest=largest)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_ends_of_the_range(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    for (length, k), largest in itertools.product(WAYS, (True, False)):
        agrees(torch.tensor([limits.min, limits.max], dtype=dtype).repeat(length // 2), k, largest=largest)
        agrees(torch.full((length,), limits.max, dtype=dtype), k, largest=largest)
        agrees(torch.full((length,), limits.min, dtype=dtype), k, largest=largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_a_sample_that_misleads(dtype: torch.dtype) -> None:
    # The places that are looked at hold what is best, or worst, in the row: too few are let through at first, or all.
    length, k = 60_000, 6000
    fractions = (torch.arange(1024, dtype=torch.int64) * -0x61C8864680B583EB) >> 32 & 0xFFFFFFFF
    sampled = fractions * length >> 32
    x = numbers(length, dtype=torch.float32)
    for best in (True, False):
        x[sampled] += 20 if best else -20
        agrees((x * 100).to(dtype), k)
        agrees((x * 100).to(dtype), k, largest=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8], ids=str)
def test_any_axis_and_strides(dtype: torch.dtype) -> None:
    x = numbers(6, 130, 33, 10, dtype=dtype)
    for order in itertools.permutations(range(4)):
        y = x.permute(order)
        for dim in (order.index(1), order.index(2) - 4):
            agrees(y, y.shape[dim] // 2 + 1, dim, largest=dim % 2 == 0)
            agrees(y, 2, dim, is_sorted=False)
    agrees(x[::2, 1::3, :, 5:], 3, 1)
    agrees(x[:1].expand(5, 130, 33, 10), 20, 1)
    agrees(x[:, :1].expand(6, 300, 33, 10), 20, 1)
    agrees(x[0, :, 0, 0].as_strided((100, 20), (1, 1)), 9)
    agrees(x.reshape(2, 3, 65, 2, 33, 5, 2).transpose(0, 2), 2, 0)
    agrees(x.reshape(6, 1, 130, 1, 33, 1, 10, 1), 60, 2)
    agrees(torch.randperm(x.numel()).reshape(2, 3, 65, 2, 3, 11, 5, 2), 2, 2)  # more axes than the kernel steps over: torch's


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.int64], ids=str)
@pytest.mark.parametrize(("length", "rows"), [(32, 16), (100, 15), (95, 49), (1000, 33), (70_000, 3), (700_000, 2)])
def test_rows_side_by_side(length: int, rows: int, dtype: torch.dtype) -> None:
    x = numbers(length, rows, dtype=dtype)
    agrees(x, 20, 0)
    agrees(x, length // 10, 0)
    agrees(x.T.contiguous().T, 20, 0)


@pytest.mark.parametrize(
    ("rows", "length", "k"),
    [(1, 2_000_000, 100), (2, 1_000_000, 100), (2, 30_000, 9000), (1, 100_001, 30_000), (7, 60_000, 50), (301, 1000, 300)],
)
def test_as_many_threads_as_there_may_be(rows: int, length: int, k: int) -> None:
    x = torch.randint(0, 100_000, (rows, length)).float()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        agrees(x, k)


def test_nothing_wanted_or_nothing_there() -> None:
    for shape, k in (((3, 5), 0), ((0, 5), 2), ((3, 0), 0), ((2, 5, 0), 3)):
        x = torch.randn(shape)
        dim = 1 if len(shape) == 3 else -1
        expected = torch.topk(x, k, dim)
        for ours, torchs in zip(drystone.ops.topk(x, k, dim), expected, strict=True):
            assert ours.shape == torchs.shape and ours.dtype == torchs.dtype
    values, indices = drystone.ops.topk(torch.tensor(3.0), 1)
    assert values.item() == 3 and indices.item() == 0 and values.shape == ()


@pytest.mark.parametrize(
    ("shape", "k", "dim", "error", "message"),
    [
        ((3, 5), 6, -1, RuntimeError, "k out of range"),
        ((3, 5), -1, -1, RuntimeError, "k out of range"),
        ((3, 5), 1, 2, IndexError, "Dimension out of range"),
        ((3, 5), 1, -3, IndexError, "Dimension out of range"),
        ((), 2, 0, RuntimeError, "k out of range"),
    ],
)
def test_errors_are_torchs(shape: tuple[int, ...], k: int, dim: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        drystone.ops.topk(torch.randn(shape), k, dim)


def test_other_dtypes_are_torchs() -> None:
    with pytest.raises(RuntimeError, match="does not support bool"):
        drystone.ops.topk(torch.ones(3, dtype=torch.bool), 1)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 80), min_size=1, max_size=3),
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    largest=st.booleans(),
    values=st.integers(1, 100),
)
def test_any_shape(shape: list[int], data: st.DataObject, dtype: torch.dtype, largest: bool, values: int) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    k = data.draw(st.integers(1, shape[dim]))
    agrees(torch.randint(0, values, shape).to(dtype), k, dim, largest)
