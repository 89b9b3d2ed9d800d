"""Parts of tensors, several tensors in one, and padding."""

from __future__ import annotations

from collections.abc import Sequence

from drystone.graph.builders.registry import Built, Declined, Emitter, as_list, axis, builds
from drystone.graph.builders.shape import transpose
from drystone.graph.graph import Value
from drystone.graph.ops import Cat, Pad, Slice, Take


def part(b: Emitter, x: Value, dim: int, start: int, length: int, step: int = 1) -> Value:
    """``length`` entries of ``x`` along ``dim`` from ``start``, each ``step``-th; ``x`` where that is all of it."""
    if length == x.shape[dim] and step == 1:
        return x
    return b.emit(Slice(dim, start, length, step), [x])


@builds("slice.Tensor", any_dtype=True)
def slice_(b: Emitter, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Built:
    dim = axis(dim, len(x.shape))
    size = x.shape[dim]
    first, last = 0 if start is None else _within(start, size), size if end is None else _within(end, size)
    return part(b, x, dim, first, max(0, -(-(last - first) // step)), step)


def _within(index: int, size: int) -> int:
    """An index that counts from the end if it is negative, and is taken for the nearest that there is."""
    return max(0, min(index + size if index < 0 else index, size))


@builds("narrow", any_dtype=True)
def narrow(b: Emitter, x: Value, dim: int, start: int, length: int) -> Built:
    dim = axis(dim, len(x.shape))
    return part(b, x, dim, axis(start, x.shape[dim]), length)


@builds("select", any_dtype=True)
def select(b: Emitter, x: Value, dim: int, index: int) -> Built:
    dim = axis(dim, len(x.shape))
    return b.reshape(part(b, x, dim, axis(index, x.shape[dim]), 1), b.shape)


@builds("unbind", any_dtype=True)
def unbind(b: Emitter, x: Value, dim: int = 0) -> Built:
    dim = axis(dim, len(x.shape))
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    return [b.reshape(part(b, x, dim, i, 1), shape) if b.reads(i) else None for i in range(x.shape[dim])]


def _split(b: Emitter, x: Value, sizes: Sequence[int], dim: int) -> Built:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = enumerate(zip(starts, sizes, strict=True))
    return [part(b, x, dim, start, size) if b.reads(i) else None for i, (start, size) in parts]


@builds("split_with_sizes", "split.sizes", any_dtype=True)
def split_with_sizes(b: Emitter, x: Value, split_sizes: list[int], dim: int = 0) -> Built:
    return _split(b, x, split_sizes, axis(dim, len(x.shape)))


@builds("split.Tensor", any_dtype=True)
def split(b: Emitter, x: Value, split_size: int, dim: int = 0) -> Built:
    dim = axis(dim, len(x.shape))
    size = x.shape[dim]
    return _split(b, x, [min(split_size, size - start) for start in range(0, size, split_size)], dim)


@builds("chunk", any_dtype=True)
def chunk(b: Emitter, x: Value, chunks: int, dim: int = 0) -> Built:
    return split(b, x, -(-x.shape[axis(dim, len(x.shape))] // chunks), dim)


@builds("cat", "concat", "concatenate", any_dtype=True)
def cat(b: Emitter, tensors: list[Value], dim: int = 0) -> Built:
    # torch lets empty vectors through, whatever the shape of the others.
    full = [value for value in tensors if value.numel]
    if any(value.dtype != b.dtype for value in full):
        raise Declined("operands of different dtypes")
    return full[0] if len(full) == 1 else b.emit(Cat(axis(dim, len(full[0].shape))), full)


@builds("stack", any_dtype=True)
def stack(b: Emitter, tensors: list[Value], dim: int = 0) -> Built:
    dim = axis(dim, len(b.shape))
    single = (*b.shape[:dim], 1, *b.shape[dim + 1 :])
    return cat(b, [b.reshape(value, single) for value in tensors], dim)


@builds("roll", any_dtype=True)
def roll(b: Emitter, x: Value, shifts: int | Sequence[int], dims: int | Sequence[int] = ()) -> Built:
    if isinstance(dims, Sequence) and not dims:
        return b.reshape(_roll(b, b.reshape(x, (x.numel,)), as_list(shifts, 1), (0,)), b.shape)
    dims = as_list(dims, 1)
    return _roll(b, x, as_list(shifts, len(dims)), dims)


def _take(b: Emitter, x: Value, indices: dict[int, Sequence[int]]) -> Value:
    """The entries at ``indices`` along these axes; ``x`` where there are none."""
    dims = tuple(sorted(indices))
    return b.emit(Take(dims, tuple(tuple(indices[dim]) for dim in dims)), [x]) if dims else x


def _roll(b: Emitter, x: Value, shifts: Sequence[int], dims: Sequence[int]) -> Value:
    rolled: dict[int, Sequence[int]] = {}
    for shift, dim in zip(shifts, dims, strict=True):
        dim = axis(dim, len(x.shape))
        before = rolled.get(dim, range(x.shape[dim]))
        cut = -shift % x.shape[dim]
        rolled[dim] = [*before[cut:], *before[:cut]]
    return _take(b, x, {dim: order for dim, order in rolled.items() if order[0]})


@builds("flip", any_dtype=True)
def flip(b: Emitter, x: Value, dims: int | Sequence[int]) -> Built:
    flipped = [axis(dim, len(x.shape)) for dim in as_list(dims, 1)]
    return _take(b, x, {dim: range(x.shape[dim])[::-1] for dim in flipped if x.shape[dim] > 1})


@builds("flipud", any_dtype=True)
def flipud(b: Emitter, x: Value) -> Built:
    return flip(b, x, 0)


@builds("fliplr", any_dtype=True)
def fliplr(b: Emitter, x: Value) -> Built:
    return flip(b, x, 1)


@builds("rot90", any_dtype=True)
def rot90(b: Emitter, x: Value, k: int = 1, dims: Sequence[int] = (0, 1)) -> Built:
    """Counterclockwise in the plane of ``dims``, ``k`` times."""
    first, second = dims
    if k % 2:
        turned = transpose(b, x, first, second)
        assert isinstance(turned, Value)
        x = turned
    return flip(b, x, ((), (first,), (first, second), (second,))[k % 4])


def _pad(b: Emitter, x: Value, padding: Sequence[int], mode: str, value: float) -> Value:
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    # torch lists (before, after) from the last axis on.
    for i in range(len(padding) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = padding[2 * i], padding[2 * i + 1]
    if not any(before) and not any(after):
        return x
    return b.emit(Pad(tuple(before), tuple(after), mode, float(value)), [x])


@builds("pad", any_dtype=True)
def pad(b: Emitter, x: Value, pad: list[int], mode: str = "constant", value: float | None = None) -> Built:
    if mode not in ("constant", "reflect", "replicate"):
        raise Declined(f"a {mode} padding")
    if mode != "constant" and min(pad) < 0:
        raise Declined(f"a {mode} padding that crops")
    return _pad(b, x, pad, mode, value or 0.0)


@builds("constant_pad_nd", any_dtype=True)
def constant_pad(b: Emitter, x: Value, pad: list[int], value: float = 0.0) -> Built:
    return _pad(b, x, pad, "constant", value)


def _pad_builder(name: str, mode: str) -> None:
    @builds(*(f"{name}_pad{axes}d" for axes in (1, 2, 3)))
    def pad_like(b: Emitter, x: Value, padding: list[int]) -> Built:
        return pad(b, x, padding, mode)


_pad_builder("reflection", "reflect")
_pad_builder("replication", "replicate")
