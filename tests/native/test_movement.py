"""The copy step against torch: every movement is exact."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from layout import FORMATS, blank, dense, lay, outcome, read, run, strided

from drystone import _native
from drystone._native import DType, Format, TensorDesc

BLOCKED = (Format.blocked16, Format.blocked8)


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Every element another number (as far as the dtype goes)."""
    count = torch.arange(torch.Size(shape).numel())
    return (count % 2 if dtype == torch.bool else count % 251 if dtype.itemsize < 4 else count).reshape(shape).to(dtype)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, NaN to NaN."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def copied(
    x: torch.Tensor,
    shape: tuple[int, ...] | torch.Size,
    axes: list[int],
    tables: list[list[int]],
    *,
    source: Format = Format.plain,
    target: Format = Format.plain,
    dtype: torch.dtype | None = None,
    value: float = 0.0,
    threads: int = 2,
) -> torch.Tensor:
    """``x`` laid in ``source``, copied to a dense ``target``; checks that the channels that pad a block became zero."""
    in_desc, in_buffer = lay(x, source)
    out_desc = dense(shape, target, dtype or x.dtype)
    return outcome(_native.copy(in_desc, out_desc, axes, tables, value), out_desc, in_buffer, threads=threads)


def identity(shape: torch.Size | tuple[int, ...]) -> tuple[list[int], list[list[int]]]:
    return list(range(len(shape))), [[] for _ in shape]


REORDER_SHAPES = [
    (1, 1, 1, 1),
    (1, 3, 5, 7),
    (2, 8, 4, 4),
    (2, 16, 7, 7),
    (1, 17, 9, 5),
    (3, 31, 6, 11),
    (1, 40, 31, 33),
    (2, 64, 14, 14),
    (2, 23, 19),
    (1, 20, 3, 5, 7),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", REORDER_SHAPES, ids=str)
def test_reorder(shape: tuple[int, ...], threads: int) -> None:
    for source, target in itertools.product(FORMATS, FORMATS):
        x = numbered(*shape)
        assert torch.equal(copied(x, shape, *identity(shape), source=source, target=target, threads=threads), x), (source, target)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.int16, torch.bfloat16, torch.float16, torch.int32, torch.int64, torch.float64]
)
def test_element_sizes(dtype: torch.dtype) -> None:
    for source, target in itertools.product(FORMATS, FORMATS):
        for shape in [(2, 37, 9, 13), (1, 16, 40, 40)]:
            x = numbered(*shape, dtype=dtype)
            assert torch.equal(copied(x, shape, *identity(shape), source=source, target=target), x), (source, target)


@pytest.mark.parametrize("shape", [(1, 5, 3, 3), (2, 37, 9, 13), (1, 32, 40, 40)], ids=str)
@pytest.mark.parametrize("to", [torch.float32, torch.bfloat16])
def test_conversion(shape: tuple[int, ...], to: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x.view(-1)[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 3.4e38, 1e-40])
    if to == torch.float32:
        x = x.bfloat16()
    for source, target in itertools.product(FORMATS, FORMATS):
        y = copied(x, shape, *identity(shape), source=source, target=target, dtype=to)
        assert same(y, x.to(to)), (source, target)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 17, 8, 33), (6, 1, 16, 16), (2, 3, 4, 5, 2, 3)], ids=str)
def test_permute(shape: tuple[int, ...]) -> None:
    x = numbered(*shape)
    for dims in itertools.islice(itertools.permutations(range(len(shape))), 0, None, 7 if len(shape) > 4 else 1):
        expected = x.permute(dims)
        assert torch.equal(copied(x, expected.shape, list(dims), [[] for _ in shape]), expected), dims


@pytest.mark.parametrize("source", FORMATS, ids=str)
@pytest.mark.parametrize("target", FORMATS, ids=str)
def test_permute_of_channels(source: Format, target: Format) -> None:
    x = numbered(2, 19, 10, 21)
    for dims in itertools.permutations(range(4)):
        expected = x.permute(dims)
        assert torch.equal(copied(x, expected.shape, list(dims), [[]] * 4, source=source, target=target), expected), dims


@pytest.mark.parametrize("source", FORMATS, ids=str)
@pytest.mark.parametrize("target", FORMATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_slice(source: Format, target: Format, axis: int) -> None:
    x = numbered(3, 40, 6, 35)
    size = x.shape[axis]
    for start, stop, step in [(1, size, 1), (0, size, 2), (size - 1, -1, -1), (1, size - 1, 3), (0, 1, 1)]:
        table = list(range(start, stop, step))
        axes, tables = identity(x.shape)
        tables[axis] = table
        expected = x.index_select(axis, torch.tensor(table))
        assert torch.equal(copied(x, expected.shape, axes, tables, source=source, target=target), expected), (start, stop, step)


def pad_table(size: int, before: int, after: int, mode: str) -> list[int]:
    """By torch's own padding of the indices."""
    indices = torch.arange(size, dtype=torch.float64)[None]
    padded = F.pad(indices, (before, after), mode=mode, **({"value": -1.0} if mode == "constant" else {}))
    return [int(i) for i in padded[0]]


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pad(mode: str, format: Format, dtype: torch.dtype) -> None:
    x = numbered(2, 21, 9, 14, dtype=dtype)
    for left, right, top, bottom in [(1, 1, 1, 1), (0, 3, 2, 0), (5, 4, 8, 8)]:
        options = {"value": 2.5} if mode == "constant" else {}
        expected = F.pad(x.float(), (left, right, top, bottom), mode=mode, **options).to(dtype)
        tables = [[], [], pad_table(9, top, bottom, mode), pad_table(14, left, right, mode)]
        y = copied(x, expected.shape, [0, 1, 2, 3], tables, source=format, target=format, value=2.5)
        assert torch.equal(y, expected), (left, right, top, bottom)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_pad_channels_and_crop(format: Format) -> None:
    x = numbered(2, 21, 9, 14)
    for before, after in [(3, 4), (16, 0), (-2, 9), (-1, -1)]:
        expected = F.pad(x, (-1, 2, 0, 0, before, after), value=-7.0)
        tables = [[], [c - before if 0 <= c - before < 21 else -1 for c in range(21 + before + after)], [], [*range(1, 14), -1, -1]]
        y = copied(x, expected.shape, [0, 1, 2, 3], tables, source=format, target=format, value=-7.0)
        assert torch.equal(y, expected), (before, after)


@pytest.mark.parametrize("source", FORMATS, ids=str)
@pytest.mark.parametrize("target", FORMATS, ids=str)
def test_random_tables(source: Format, target: Format) -> None:
    """Any index in any place, with holes."""
    generator = torch.Generator().manual_seed(3)
    x = numbered(3, 35, 12, 13) + 1
    for sizes in [(4, 33, 20, 40), (1, 48, 12, 5)]:
        tables = [torch.randint(-1, size, (count,), generator=generator) for size, count in zip(x.shape, sizes, strict=True)]
        expected = x[torch.meshgrid(*[t.clamp(min=0) for t in tables], indexing="ij")]
        for axis, table in enumerate(tables):
            expected = expected.transpose(axis, -1).where(table >= 0, -3.0).transpose(axis, -1)
        try:
            y = copied(x, sizes, [0, 1, 2, 3], [t.tolist() for t in tables], source=source, target=target, value=-3.0)
        except ValueError as error:
            assert "boxes" in str(error) and target in BLOCKED  # may be refused, not wrong
        else:
            assert torch.equal(y, expected), sizes


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.int64])
def test_gather_columns(dtype: torch.dtype) -> None:
    x = numbered(3, 7, 50, dtype=dtype)
    table = torch.randint(0, 50, (133,), generator=torch.Generator().manual_seed(5))
    assert torch.equal(copied(x, (3, 7, 133), [0, 1, 2], [[], [], table.tolist()]), x[:, :, table])
    assert torch.equal(copied(x, (133, 3, 7), [2, 0, 1], [table.tolist(), [], []]), x[:, :, table].permute(2, 0, 1))


@pytest.mark.parametrize("target", FORMATS, ids=str)
def test_expand(target: Format) -> None:
    x = numbered(1, 19, 1, 13)
    axes = [-1, 1, -1, 3]
    y = copied(x, (3, 19, 5, 13), axes, [[]] * 4, target=target)
    assert torch.equal(y, x.expand(3, 19, 5, 13))
    y = copied(numbered(2, 1, 1, 1), (2, 37, 6, 6), [0, -1, -1, -1], [[]] * 4, target=target)
    assert torch.equal(y, numbered(2, 1, 1, 1).expand(2, 37, 6, 6))
    # New axes in front, and one of size 1 dropped.
    assert torch.equal(copied(numbered(5, 1, 6), (4, 6, 5), [-1, 2, 0], [[]] * 3), numbered(5, 6).t().expand(4, 6, 5))


def test_pixel_shuffle_and_its_inverse() -> None:
    """Reshape, permute, reshape: the permutation in six axes."""
    for r in (2, 3, 4):
        x = numbered(2, 5 * r * r, 9, 17)
        split = x.reshape(2, 5, r, r, 9, 17)
        shape = (2, 5, 9, r, 17, r)
        y = copied(split, shape, [0, 1, 4, 2, 5, 3], [[]] * 6)
        assert torch.equal(y.reshape(2, 5, 9 * r, 17 * r), F.pixel_shuffle(x, r))
        back = copied(y, split.shape, [0, 1, 3, 5, 2, 4], [[]] * 6)
        assert torch.equal(back, split)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_cat_into_a_strided_output(format: Format, threads: int) -> None:
    """Slices of the channels of one tensor, each written from a dense one; what lies between stays."""
    parts = [numbered(2, channels, 13, 9) + 1000 * i for i, channels in enumerate((16, 32, 48))]
    whole = torch.cat(parts, 1)
    desc = dense(whole.shape, format)
    buffer = blank(desc)
    block, offset = format.block, 0
    for part in parts:
        part_desc, part_buffer = lay(part, format)
        view = TensorDesc(DType.f32, format, list(part.shape), desc.strides)
        first = offset // block * desc.strides[1] if block > 1 else offset * desc.strides[1]
        run(_native.copy(part_desc, view, *identity(part.shape), 0.0), part_buffer, buffer[first:], threads=threads)
        offset += part.shape[1]
    assert torch.equal(read(desc, buffer), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.int8])
@pytest.mark.parametrize("size", [(1, 5), (3, 4), (17, 33), (64, 70)], ids=str)
def test_turns(size: tuple[int, int], dtype: torch.dtype) -> None:
    """A transposition that reads backwards along either axis, or along both."""
    x = numbered(2, *size, dtype=dtype)
    for backwards in ((), (1,), (2,), (1, 2)):
        tables = [[], *(list(range(n))[::-1] if axis in backwards else [] for axis, n in ((1, size[1]), (2, size[0])))]
        assert torch.equal(copied(x, (2, size[1], size[0]), [0, 2, 1], tables), x.mT.flip(backwards))


def test_strided_views_on_both_sides() -> None:
    x = numbered(2, 6, 20, 40)
    in_desc = strided((2, 6, 10, 13), (x.stride(0), x.stride(1), 2 * 40, 3), Format.plain)
    out_desc = strided((2, 6, 10, 13), (4000, 500, 1, 17), Format.plain)
    out = torch.full((8000,), -1.0)
    run(_native.copy(in_desc, out_desc, *identity((2, 6, 10, 13)), 0.0), x.reshape(-1), out)
    expected = torch.full((8000,), -1.0)
    expected.as_strided((2, 6, 10, 13), (4000, 500, 1, 17)).copy_(x[:, :, ::2, :39:3])
    assert torch.equal(out, expected)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_no_elements(shape: tuple[int, ...]) -> None:
    for source, target in itertools.product(FORMATS, FORMATS):
        assert copied(numbered(*shape), shape, *identity(shape), source=source, target=target).shape == shape


def test_scalar_and_ranks() -> None:
    assert torch.equal(copied(torch.tensor(3.0), (), [], []), torch.tensor(3.0))
    assert torch.equal(copied(numbered(1), (5,), [-1], [[]]), torch.zeros(5))
    x = numbered(2, 3, 2, 2, 3, 2, 2)
    assert torch.equal(copied(x, x.shape[::-1], [6, 5, 4, 3, 2, 1, 0], [[]] * 7), x.permute(6, 5, 4, 3, 2, 1, 0))


def test_fill_values() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8):
        y = copied(numbered(4, dtype=dtype), (6,), [0], [[-1, 0, 1, 2, 3, -1]], value=-3.0)
        assert torch.equal(y, F.pad(numbered(4, dtype=dtype), (1, 1), value=-3.0)), dtype
    y = copied(numbered(4), (6,), [0], [[-1, 0, 1, 2, 3, -1]], value=float("-inf"))
    assert torch.equal(y, F.pad(numbered(4), (1, 1), value=float("-inf")))


@pytest.mark.parametrize(
    ("message", "shape", "axes", "tables"),
    [
        ("outside", (4, 6), [0, 1], [[], [0, 1, 2, 3, 4, 6]]),
        ("outside", (4, 6), [0, 1], [[], [0, 1, 2, 3, 4, -2]]),
        ("does not fit", (4, 6), [0, 1], [[], [0, 1]]),
        ("twice", (4, 4), [0, 0], [[], []]),
        ("unread", (4, 6), [0, -1], [[], []]),
        ("does not have", (4, 6), [0, 2], [[], []]),
        ("grows", (4, 7), [0, 1], [[], []]),
        ("for each axis", (4, 6), [0], [[]]),
    ],
)
def test_refusals(message: str, shape: tuple[int, ...], axes: list[int], tables: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=message):
        _native.copy(dense((4, 6), Format.plain), dense(shape, Format.plain), axes, tables, 0.0)


def test_refuses_conversions_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="convert"):
        _native.copy(dense((4,), Format.plain), dense((4,), Format.plain, torch.int32), [0], [[]], 0.0)
