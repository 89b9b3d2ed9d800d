"""topk, cat, index_select and embedding_bag of any shapes, strides, dtypes and options, large enough for our kernels."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import drystone
from agreement import relative_error

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
ANY = [*FLOATS, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
seeds = st.integers(0, 1 << 16)


def numbers(seed: int, shape: list[int], dtype: torch.dtype, most: int = 100) -> torch.Tensor:
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[x.itemsize])


@st.composite
def shapes(draw: st.DrawFn, elements: int, rank: int = 5) -> list[int]:
    """Some axes, of about so many elements together; any of them may be the long one."""
    shape = draw(st.lists(st.integers(1, 9), max_size=draw(st.integers(0, rank - 1))))
    long = max(1, draw(st.integers(elements // 4, elements)) // math.prod(shape))
    shape.insert(draw(st.integers(0, len(shape))), long)
    return shape


@st.composite
def laid_out(draw: st.DrawFn, x: torch.Tensor) -> torch.Tensor:
    """The same numbers in another order of the axes, in steps, between others, or the first of an axis again and again."""
    order = draw(st.permutations(range(x.ndim)))
    x = x.permute(order).contiguous().permute([order.index(axis) for axis in range(x.ndim)])
    axis = draw(st.integers(0, x.ndim - 1))
    way = draw(st.sampled_from(["dense", "in steps", "between", "expanded"]))
    if way == "in steps":
        return x.repeat_interleave(2, axis).unflatten(axis, (-1, 2)).select(axis + 1, 1)
    if way == "between":
        return torch.cat([x, x], axis).narrow(axis, x.shape[axis], x.shape[axis])
    return x.narrow(axis, 0, 1).expand_as(x) if way == "expanded" else x


@settings(max_examples=200)
@given(
    st.data(), shapes(6000), st.sampled_from(ANY), seeds, st.integers(1, 1 << 20), st.booleans(), st.booleans(), st.integers(1, 3)
)
def test_topk(
    data: st.DataObject, shape: list[int], dtype: torch.dtype, seed: int, most: int, largest: bool, is_sorted: bool, threads: int
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    x = numbers(seed, shape, dtype, min(most, torch.iinfo(dtype).max) if not dtype.is_floating_point else most)
    if dtype.is_floating_point and data.draw(st.booleans()):
        kinds = numbers(seed + 1, shape, torch.int64, data.draw(st.sampled_from([4, 8, 1000])))
        for i, value in enumerate((math.nan, math.inf, -math.inf, -0.0)):
            x = torch.where(kinds == i, value, x)
    x = data.draw(laid_out(x))
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    k = data.draw(st.one_of(st.integers(0, min(20, x.shape[dim])), st.integers(0, x.shape[dim])))
    values, indices = drystone.ops.topk(x, k, dim, largest, is_sorted)
    assert indices.numel() == 0 or (indices.min() >= 0 and indices.max() < x.shape[dim])
    torch.testing.assert_close(values, x.gather(dim, indices), rtol=0, atol=0, equal_nan=True)
    chosen = indices.sort(dim).values
    assert not (chosen.diff(dim=dim) == 0).any()
    wanted = x.sort(dim=dim, descending=largest).values.narrow(dim, 0, k)
    found = values if is_sorted else values.sort(dim=dim, descending=largest).values
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=120)
@given(st.data(), shapes(3000), st.lists(st.sampled_from(ANY), min_size=1, max_size=3), seeds, st.integers(1, 3))
def test_cat(data: st.DataObject, shape: list[int], dtypes: list[torch.dtype], seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    tensors = []
    for i in range(data.draw(st.sampled_from([1, 2, 3, 5, 70]))):
        own = list(shape)
        own[dim] = max(0, own[dim] + data.draw(st.integers(-2, 2))) if i < 5 else 1
        x = numbers(seed + i, own, dtypes[i % len(dtypes)])
        tensors.append(data.draw(laid_out(x)) if x.numel() else x)
    with drystone.enabled(only=[]):
        expected = torch.cat(tensors, dim)
    out = data.draw(laid_out(torch.zeros_like(expected))).clone() if expected.numel() else torch.zeros_like(expected)
    with drystone.enabled(only=["cat"]):
        result = torch.cat(tensors, dim)
        torch.cat(tensors, dim, out=out)
    assert result.dtype == expected.dtype and result.stride() == expected.stride()
    assert torch.equal(bits(result), bits(expected)) and torch.equal(bits(out), bits(expected))


@settings(max_examples=120)
@given(st.data(), shapes(8000), st.sampled_from(ANY), seeds, st.sampled_from([torch.int64, torch.int32]), st.integers(1, 3))
def test_index_select(
    data: st.DataObject, shape: list[int], dtype: torch.dtype, seed: int, index_dtype: torch.dtype, threads: int
) -> None:
    torch.set_num_threads(threads)
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = data.draw(laid_out(numbers(seed, shape, dtype)))
    which = data.draw(laid_out(numbers(seed + 1, [data.draw(st.integers(1, 900))], index_dtype, shape[dim])))
    which = which[:: data.draw(st.integers(1, 3))]
    expected = bits(x).index_select(dim, which)
    with drystone.enabled(only=["index_select"]):
        assert torch.equal(bits(torch.index_select(x, dim, which)), expected)
        assert torch.equal(bits(torch.index_select(x, dim, which, out=torch.empty(0, dtype=dtype))), expected)


@settings(max_examples=120)
@given(
    data=st.data(),
    rows=st.integers(1, 60),
    width=st.one_of(st.integers(1, 140), st.sampled_from([15, 16, 17, 127, 128, 129])),
    lengths=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=40).filter(any),
    mode=st.sampled_from(["sum", "mean", "max"]),
    dtype=st.sampled_from(FLOATS),
    index=st.sampled_from([torch.int64, torch.int32]),
    include_last=st.booleans(),
    weighted=st.booleans(),
    threads=st.integers(1, 3),
    seed=seeds,
)
def test_embedding_bag(
    data: st.DataObject,
    rows: int,
    width: int,
    lengths: list[int],
    mode: str,
    dtype: torch.dtype,
    index: torch.dtype,
    include_last: bool,
    weighted: bool,
    threads: int,
    seed: int,
) -> None:
    """Against sums in float64: of small integers they are exact but for the division by the length, and the last rounding."""
    torch.set_num_threads(threads)
    table = data.draw(laid_out(numbers(seed, [rows, width], dtype, 5)))
    which = numbers(seed + 1, [sum(lengths)], index, rows)
    padding = data.draw(st.one_of(st.none(), st.integers(0, rows - 1)))
    ends = torch.tensor(lengths).cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends if include_last else ends[:-1]]).to(index)
    scale = numbers(seed + 2, [sum(lengths)], dtype, 3) if weighted and mode == "sum" else None
    with drystone.enabled(only=["embedding_bag"]):
        got = torch.nn.functional.embedding_bag(
            which, table, offsets, mode=mode, per_sample_weights=scale, include_last_offset=include_last, padding_idx=padding
        )
    want = torch.zeros(len(lengths), width, dtype=torch.float64)
    for bag, places in enumerate(torch.arange(sum(lengths)).split(lengths)):
        kept = places[which[places] != (-1 if padding is None else padding)]
        if len(kept):
            picked = table[which[kept].long()].double()
            picked = picked * scale[kept][:, None].double() if scale is not None else picked
            want[bag] = picked.amax(0) if mode == "max" else picked.sum(0) / (len(kept) if mode == "mean" else 1)
    # torch's own kernels, which run small calls, round to two bytes after each row.
    assert relative_error(got, want) <= (1e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps)
