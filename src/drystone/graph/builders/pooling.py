"""Pooling as tables of windows: what stride, padding, dilation, ceil_mode and adaptive sizes come to, one entry an output."""

from __future__ import annotations

from collections.abc import Iterable

from drystone.graph.builders.registry import Built, Declined, Emitter, as_list, builds
from drystone.graph.graph import Value
from drystone.graph.ops import Pool, Reduce
from drystone.graph.tape import computed

Windows = tuple[tuple[int, int, int], ...]


def _spatial(b: Emitter, x: Value, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if len(x.shape) != axes + 2:
        raise Declined("a pool of an input without a batch dimension")
    return x.shape[2:], b.shape[2:]


def _windows(size: int, count: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> Windows:
    """The input indices under each of ``count`` outputs, without those in the padding."""
    windows = []
    for index in range(count):
        start = index * stride - padding
        stop = min(start + dilation * (kernel - 1) + 1, size)
        start += dilation * max(0, -(start // dilation))  # the first that is not negative
        if start >= stop:
            raise Declined("a pool with a window that lies in the padding")
        windows.append((start, stop, dilation))
    return tuple(windows)


def _max_pool(
    b: Emitter,
    x: Value,
    axes: int,
    kernel_size: Iterable[int],
    stride: Iterable[int],
    padding: int | Iterable[int],
    dilation: int | Iterable[int],
) -> Value:
    sizes, counts = _spatial(b, x, axes)
    kernel = as_list(kernel_size, axes)
    steps = as_list(stride, axes) or kernel
    lists = zip(sizes, counts, kernel, steps, as_list(padding, axes), as_list(dilation, axes), strict=True)
    return b.emit(Pool("max", tuple(computed(_windows, *axis) for axis in lists)), [x])


def _max_pool_builder(axes: int, indices: bool) -> None:
    name = f"max_pool{axes}d"

    @builds(*([f"{name}_with_indices"] if indices else [name]))
    def max_pool(
        b: Emitter,
        x: Value,
        kernel_size: Iterable[int],
        stride: Iterable[int] = (),
        padding: int | Iterable[int] = 0,
        dilation: int | Iterable[int] = 1,
        ceil_mode: bool = False,  # shows in the output's shape
    ) -> Built:
        if indices and b.reads(1):
            raise Declined("a max pool whose indices are read")
        pooled = _max_pool(b, x, axes, kernel_size, stride, padding, dilation)
        return [pooled, None] if indices else pooled


def _avg_pool_builder(axes: int) -> None:
    @builds(f"avg_pool{axes}d")
    def avg_pool(
        b: Emitter,
        x: Value,
        kernel_size: Iterable[int],
        stride: Iterable[int] = (),
        padding: int | Iterable[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Built:
        if divisor_override is not None and divisor_override < 0:
            raise Declined("a pool that divides by a negative number")
        sizes, counts = _spatial(b, x, axes)
        kernel = as_list(kernel_size, axes)
        steps = as_list(stride, axes) or kernel
        windows, divisors = [], []
        for size, count, k, step, pad in zip(sizes, counts, kernel, steps, as_list(padding, axes), strict=True):
            windows.append(computed(_windows, size, count, k, step, pad))
            if count_include_pad:
                divisors.append(computed(_padded_lengths, size, count, k, step, pad))
            else:
                divisors.append(computed(_lengths, windows[-1]))
        return b.emit(Pool("avg", tuple(windows), tuple(divisors), divisor_override), [x])


def _padded_lengths(size: int, count: int, kernel: int, stride: int, padding: int) -> tuple[int, ...]:
    """A window may reach beyond the padding under ceil_mode: that part is never counted."""
    starts = [index * stride - padding for index in range(count)]
    return tuple(min(start + kernel, size + padding) - start for start in starts)


def _lengths(windows: Windows) -> tuple[int, ...]:
    return tuple(stop - start for start, stop, _ in windows)


def _adaptive_windows(size: int, count: int) -> Windows:
    return tuple((i * size // count, -(-(i + 1) * size // count), 1) for i in range(count))


def _adaptive_builder(kind: str, axes: int) -> None:
    @builds(*([f"adaptive_{kind}_pool{axes}d"] + ([f"_adaptive_avg_pool{axes}d"] if kind == "avg" and axes > 1 else [])))
    def adaptive_pool(b: Emitter, x: Value, output_size: Iterable[int]) -> Built:
        sizes, counts = _spatial(b, x, axes)
        if kind == "max" and b.reads(1):
            raise Declined("a max pool whose indices are read")
        if kind == "avg" and all(count == 1 for count in counts):
            return b.emit(Reduce("mean", tuple(range(2, 2 + axes)), keepdim=True), [x])
        windows = tuple(computed(_adaptive_windows, size, count) for size, count in zip(sizes, counts, strict=True))
        divisors = tuple(computed(_lengths, axis) for axis in windows) if kind == "avg" else None
        pooled = b.emit(Pool(kind, windows, divisors), [x])
        return pooled if kind == "avg" else [pooled, None]


for _axes in (1, 2, 3):
    _max_pool_builder(_axes, indices=False)
    _max_pool_builder(_axes, indices=True)
    _avg_pool_builder(_axes)
    _adaptive_builder("avg", _axes)
    _adaptive_builder("max", _axes)
