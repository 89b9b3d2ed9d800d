"""elementwise, aggregate and index against torch, dtype by dtype and around the block sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from layout import blank, dense, lay, outcome, read, run, strided

from drystone import _native
from drystone._native import Format

PLAIN = Format.plain
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
FLOATS = [torch.float32, torch.bfloat16]
DTYPES = [*FLOATS, *INTEGERS, torch.bool]
LENGTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 1023, 1024, 1025, 2049]


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    x = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed))
    return (x.abs() if dtype == torch.uint8 else x % 2 if dtype == torch.bool else x).to(dtype)


def elementwise(kind: str, *inputs: torch.Tensor, dtype: torch.dtype, threads: int = 2) -> torch.Tensor:
    laid = [lay(x, PLAIN) for x in inputs]
    output = dense(torch.broadcast_shapes(*(x.shape for x in inputs)), PLAIN, dtype)
    step = _native.elementwise([desc for desc, _ in laid], output, kind)
    return outcome(step, output, *(buffer for _, buffer in laid), threads=threads)


ARITHMETIC: dict[str, Callable[..., torch.Tensor]] = {
    kind: getattr(torch, kind) for kind in ("add", "sub", "mul", "maximum", "minimum")
}
LOGIC: dict[str, Callable[..., torch.Tensor]] = {
    "bit_and": torch.bitwise_and,
    "bit_or": torch.bitwise_or,
    "bit_xor": torch.bitwise_xor,
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_arithmetic(dtype: torch.dtype, length: int) -> None:
    x, y = (numbers(3, length, dtype=dtype, seed=seed) for seed in (0, 1))
    for kind, function in (ARITHMETIC | LOGIC).items():
        assert torch.equal(elementwise(kind, x, y, dtype=dtype), function(x, y)), kind
    assert torch.equal(elementwise("invert", x, dtype=dtype), ~x)
    y = torch.where(y == 0, 2, y).to(dtype)
    assert torch.equal(elementwise("floor_div", x, y, dtype=dtype), x // y)
    assert torch.equal(elementwise("remainder", x, y, dtype=dtype), x % y)


def test_divisions_never_fault() -> None:
    for dtype in INTEGERS:
        limits = torch.iinfo(dtype)
        x = torch.tensor([limits.min, limits.max, limits.max, 7], dtype=dtype)
        y = torch.tensor([-1 if limits.min else 255, 0, limits.max, limits.max], dtype=dtype)
        expected = [limits.min, 0, 1, 0]
        assert elementwise("floor_div", x, y, dtype=dtype).tolist() == expected
        assert elementwise("remainder", x, y, dtype=dtype).tolist() == [0, limits.max, 0, 7]


def test_all_64_bits_count() -> None:
    x = torch.tensor([2**53 + 1, -(2**62) - 1, 2**63 - 1, -(2**63)])
    one = torch.tensor(1)
    assert torch.equal(elementwise("add", x, one, dtype=torch.int64), x + 1)  # the largest wraps around
    assert torch.equal(elementwise("mul", x, x, dtype=torch.int64), x * x)
    assert torch.equal(elementwise("eq", x, x - 1, dtype=torch.bool), torch.zeros(4, dtype=torch.bool))


@pytest.mark.parametrize("length", LENGTHS)
def test_logic(length: int) -> None:
    x, y = (numbers(2, length, dtype=torch.bool, seed=seed) for seed in (0, 1))
    for kind, function in LOGIC.items():
        assert torch.equal(elementwise(kind, x, y, dtype=torch.bool), function(x, y)), kind
    assert torch.equal(elementwise("invert", x, dtype=torch.bool), ~x)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_comparisons(dtype: torch.dtype, length: int) -> None:
    x, y = (numbers(2, length, dtype=dtype, seed=seed) for seed in (0, 1))
    if dtype.is_floating_point:
        x.view(-1)[::5], y.view(-1)[::3], x.view(-1)[::7] = torch.nan, torch.inf, torch.inf
    for kind in ("eq", "ne", "lt", "le", "gt", "ge"):
        assert torch.equal(elementwise(kind, x, y, dtype=torch.bool), getattr(torch, kind)(x, y)), kind


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_where(dtype: torch.dtype, length: int) -> None:
    condition = numbers(2, length, dtype=torch.bool)
    x, y = (numbers(2, length, dtype=dtype, seed=seed) for seed in (1, 2))
    if dtype.is_floating_point:
        x[:, ::2], y[:, ::3] = -torch.inf, torch.nan
    expected = torch.where(condition, x, y)
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(elementwise("where", condition, x, y, dtype=dtype).view(bits), expected.view(bits))


@pytest.mark.parametrize(("source", "target"), itertools.product(DTYPES, DTYPES), ids=str)
def test_conversions(source: torch.dtype, target: torch.dtype) -> None:
    for length in (1, 7, 16, 33, 1025):
        x = numbers(2, length, dtype=source)
        assert torch.equal(elementwise("convert", x, dtype=target), x.to(target))


def test_conversions_round_as_torch_does() -> None:
    x = torch.tensor([2**24 + 1, 2**40 - 1, -(2**62) + 1, 257, 511])
    for dtype in FLOATS:
        assert torch.equal(elementwise("convert", x, dtype=dtype), x.to(dtype))
    y = torch.tensor([0.9, -0.9, 1.5, -2.5, 1e-30, -0.0, torch.nan, torch.inf])
    assert torch.equal(elementwise("convert", y[:5], dtype=torch.int64), y[:5].to(torch.int64))
    assert torch.equal(elementwise("convert", y, dtype=torch.bool), y.to(torch.bool))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shapes",
    [((), ()), ((3, 1, 5), (4, 1)), ((2, 3, 4, 5), (1, 3, 1, 1)), ((1, 2, 1, 3, 1, 2, 1, 3), (2, 1, 2, 1, 3, 1, 2, 3)), ((130, 130), ())]
)  # fmt: skip
def test_operands_broadcast(shapes: tuple[tuple[int, ...], ...], threads: int) -> None:
    x, y = (numbers(*shape, dtype=torch.int64, seed=seed) for seed, shape in enumerate(shapes))
    assert torch.equal(elementwise("sub", x, y, dtype=torch.int64, threads=threads), x - y)
    assert torch.equal(elementwise("gt", x, y, dtype=torch.bool, threads=threads), x > y)
    condition = x > 0
    assert torch.equal(elementwise("where", condition, x, y, dtype=torch.int64, threads=threads), torch.where(condition, x, y))


def test_strided_operands_and_output() -> None:
    x = numbers(3, 40, dtype=torch.int32)
    desc, buffer = strided((3, 20), (40, 2), PLAIN, torch.int32), x.reshape(-1)
    output = strided((3, 20), (64, 3), PLAIN, torch.int32)
    result = blank(output)
    run(_native.elementwise([desc, desc], output, "add"), buffer, buffer, result)
    assert torch.equal(read(output, result), 2 * x[:, ::2])
    assert int((result != 77).sum()) == int((2 * x[:, ::2] != 77).sum())  # nothing between


@pytest.mark.parametrize(
    ("dtypes", "kind", "reason"),
    [
        ((torch.float32, torch.float32, torch.float32), "add", "takes no floats"),
        ((torch.bool, torch.bool, torch.bool), "add", "takes no bools"),
        ((torch.int64, torch.int32, torch.bool), "eq", "two dtypes"),
        ((torch.int64, torch.int64, torch.int64), "eq", "gives bool"),
        ((torch.int64, torch.int64, torch.int32), "mul", "operands' dtype"),
        ((torch.float64, torch.float64, torch.bool), "lt", "no kernel for f64"),
        ((torch.int64, torch.int64), "eq", "takes 2 operands"),
        ((torch.int64, torch.int64), "frobnicate", "unknown"),
    ],
)
def test_elementwise_refuses(dtypes: tuple[torch.dtype, ...], kind: str, reason: str) -> None:
    *inputs, output = (dense((2, 3), PLAIN, dtype) for dtype in dtypes)
    with pytest.raises(ValueError, match=reason):
        _native.elementwise(inputs, output, kind)


# -- aggregates


def aggregate(kind: str, x: torch.Tensor, dims: list[int], dtype: torch.dtype) -> torch.Tensor:
    desc, buffer = lay(x, PLAIN)
    shape = x.shape if kind == "cumsum" else [size for axis, size in enumerate(x.shape) if axis not in dims]
    output = dense(tuple(shape), PLAIN, dtype)
    return outcome(_native.aggregate(desc, output, kind, dims), output, buffer)


SHAPES = [(1,), (17,), (3, 9), (5, 1, 7), (2, 33, 5), (140, 130)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_running_sums(shape: tuple[int, ...]) -> None:
    for dim in range(len(shape)):
        for dtype in (torch.int64, torch.float32, torch.bfloat16):
            x = numbers(*shape, dtype=dtype)
            assert torch.equal(aggregate("cumsum", x, [dim], dtype), x.cumsum(dim))
        x = torch.randn(shape)
        torch.testing.assert_close(aggregate("cumsum", x, [dim], x.dtype).double(), x.double().cumsum(dim), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_extremes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = numbers(*shape, dtype=dtype)
    if dtype.is_floating_point and len(shape) > 1:
        x[..., 0] = torch.nan
        x[..., -1] = torch.inf
        x[-1] = -torch.inf
    for dim in range(len(shape)):
        for kind in ("amax", "amin"):
            expected = getattr(x, kind)(dim)
            assert torch.equal(aggregate(kind, x, [dim], dtype).nan_to_num(5), expected.nan_to_num(5)), (kind, dim)
        for kind in ("argmax", "argmin"):
            assert torch.equal(aggregate(kind, x, [dim], torch.int64), getattr(x, kind)(dim)), (kind, dim)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_and_truth(shape: tuple[int, ...]) -> None:
    x = numbers(*shape, dtype=torch.int64)
    for dim in range(len(shape)):
        assert torch.equal(aggregate("sum", x, [dim], torch.int64), x.sum(dim))
        for truth in (x > 2, x < 3, x == x, x != x):
            assert torch.equal(aggregate("any", truth, [dim], torch.bool), truth.any(dim))
            assert torch.equal(aggregate("all", truth, [dim], torch.bool), truth.all(dim))
    whole = list(range(len(shape)))
    assert torch.equal(aggregate("argmax", x, whole, torch.int64), x.argmax())
    assert torch.equal(aggregate("sum", x, whole, torch.int64), x.sum())


def test_aggregates_refuse() -> None:
    x, y = dense((2, 3, 4), PLAIN, torch.int64), dense((3,), PLAIN, torch.int64)
    with pytest.raises(ValueError, match="no neighbours"):
        _native.aggregate(x, y, "sum", [0, 2])
    with pytest.raises(ValueError, match="axes that there are not"):
        _native.aggregate(x, y, "sum", [3])
    with pytest.raises(ValueError, match="another size"):
        _native.aggregate(x, y, "sum", [0])


# -- entries by index


def indexed(x: torch.Tensor, indices: list[torch.Tensor], dim: int = 0, wraps: bool = True, name: str = "index") -> torch.Tensor:
    desc, buffer = lay(x, PLAIN)
    laid = [lay(index, PLAIN) for index in indices]
    grid = torch.broadcast_shapes(*(index.shape for index in indices))
    output = dense((*x.shape[:dim], *grid, *x.shape[dim + len(indices) :]), PLAIN, x.dtype)
    step = _native.index(desc, [index for index, _ in laid], output, dim, wraps, name)
    return outcome(step, output, buffer, *(index for _, index in laid))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 64, 65, 768])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_rows_of_a_table(dtype: torch.dtype, width: int) -> None:
    table = numbers(11, width, dtype=dtype)
    for shape, kind in (((), torch.int64), ((1,), torch.int32), ((3, 5), torch.int64), ((40, 17), torch.int32)):
        ids = torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(1)).to(kind)
        assert torch.equal(indexed(table, [ids], wraps=False, name="embedding"), table[ids.long()])


def test_along_any_axes() -> None:
    x = torch.arange(3 * 4 * 5 * 6).reshape(3, 4, 5, 6)
    i, j = torch.tensor([[0], [-1], [2]]), torch.tensor([1, -4, 3, 0])
    for dim in range(4):
        assert torch.equal(indexed(x, [i.clamp(max=1)], dim), x[(slice(None),) * dim + (i.clamp(max=1),)])
    assert torch.equal(indexed(x, [i, j]), x[i, j])
    assert torch.equal(indexed(x, [j.clamp(max=2), i], 1), x[:, j.clamp(max=2), i])
    assert torch.equal(indexed(x, [i, j, j], 1), x[:, i, j, j])


def gathered(x: torch.Tensor, index: torch.Tensor, dim: int, threads: int = 2) -> torch.Tensor:
    (desc, buffer), (by, indices) = lay(x, PLAIN), lay(index, PLAIN)
    output = dense(index.shape, PLAIN, x.dtype)
    return outcome(_native.gather(desc, by, output, dim), output, buffer, indices, threads=threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(1,), (17,), (3, 9), (2, 33, 5), (2, 3, 65, 70)], ids=str)
def test_gather(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = numbers(*shape, dtype=dtype)
    for dim, size in enumerate(shape):
        for grid in (shape, tuple(size + 2 if i == dim else max(1, n - 1) for i, n in enumerate(shape))):
            index = torch.randint(0, size, grid, generator=torch.Generator().manual_seed(dim))
            for threads in (1, 2):
                assert torch.equal(gathered(x, index, dim, threads), x.gather(dim, index))
            assert torch.equal(gathered(x, index.int(), dim), x.gather(dim, index))


def test_gather_refuses() -> None:
    x, more = dense((2, 3), PLAIN), dense((3, 3), PLAIN)
    with pytest.raises(ValueError, match="more places"):
        _native.gather(x, dense((3, 3), PLAIN, torch.int64), more, 1)
    with pytest.raises(ValueError, match="output's shape"):
        _native.gather(x, dense((2, 4), PLAIN, torch.int64), x, 1)
    with pytest.raises(ValueError, match="s64 or s32"):
        _native.gather(x, dense((2, 3), PLAIN, torch.int16), x, 1)


def copied(
    x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, dim: int, wraps: bool = False, threads: int = 2
) -> torch.Tensor:
    (desc, buffer), (by, indices), (rows, entries) = lay(x, PLAIN), lay(index, PLAIN), lay(source, PLAIN)
    output = dense(x.shape, PLAIN, x.dtype)
    return outcome(_native.index_copy(desc, by, rows, output, dim, wraps), output, buffer, indices, entries, threads=threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(1,), (17,), (3, 9), (2, 33, 5), (2, 3, 65, 70)], ids=str)
def test_index_copy(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = numbers(*shape, dtype=dtype)
    for dim, size in enumerate(shape):
        for count in (0, 1, size):
            index = torch.randperm(size, generator=torch.Generator().manual_seed(dim))[:count]
            source = numbers(*shape[:dim], count, *shape[dim + 1 :], dtype=dtype)
            want = x.index_copy(dim, index, source)
            for threads in (1, 2):
                assert torch.equal(copied(x, index, source, dim, threads=threads), want)
            assert torch.equal(copied(x, (index - size).int(), source, dim, wraps=True), want)


def test_index_copy_refuses() -> None:
    x, by, rows = dense((2, 3), PLAIN), dense((2,), PLAIN, torch.int64), dense((2, 2), PLAIN)
    with pytest.raises(ValueError, match="no such axis"):
        _native.index_copy(x, by, rows, x, 2, False)
    with pytest.raises(ValueError, match="source of index_copy has another shape"):
        _native.index_copy(x, by, x, x, 1, False)
    with pytest.raises(ValueError, match="does not convert"):
        _native.index_copy(x, by, dense((2, 2), PLAIN, torch.int64), x, 1, False)
    for bad in (3, -1, -4, 2**62):
        with pytest.raises(IndexError, match=f"index {bad} is out of bounds for dimension 1 with size 3"):
            copied(torch.zeros(2, 3), torch.tensor([0, bad]), torch.zeros(2, 2), 1, wraps=bad < -1)


@pytest.mark.parametrize("bad", [5, -1, -6, 2**31, 2**62, -(2**63)])
@pytest.mark.parametrize("place", [0, 7, 16])
def test_nothing_out_of_range_is_read(place: int, bad: int) -> None:
    ids = torch.zeros(17, dtype=torch.int64)
    ids[place] = bad
    table = torch.randn(5, 8)
    with pytest.raises(IndexError, match="out of range in self"):
        indexed(table, [ids], wraps=False, name="embedding")
    with pytest.raises(RuntimeError, match=f"index {bad} is out of bounds for dimension 0 with size 5"):
        gathered(table[:, 0].contiguous(), ids, 0)
    if bad != -1:
        with pytest.raises(IndexError, match=f"index {bad} is out of bounds for dimension 0 with size 5"):
            indexed(table, [ids])
