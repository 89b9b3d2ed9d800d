"""Other shapes and dtypes of the same numbers: what moves nothing, or is the value itself."""

from __future__ import annotations

from typing import Any

from drystone.graph.builders.registry import Built, Declined, Emitter, axis, builds
from drystone.graph.graph import Value
from drystone.graph.ops import Expand, Permute

VIEWS = (
    "view.default",
    "reshape",
    "_unsafe_view",
    "view_as",
    "reshape_as",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "flatten",
    "ravel",
)


@builds(*VIEWS, any_dtype=True)
def reshape(b: Emitter, x: Value, *arguments: Any, **named: Any) -> Built:
    return b.reshape(x, b.shape)


SAME = ("contiguous", "clone", "detach", "alias", "lift_fresh", "lift_fresh_copy", "positive", "resolve_conj", "resolve_neg")


@builds(*SAME, any_dtype=True)
def identity(b: Emitter, x: Value, *arguments: Any, **named: Any) -> Built:
    return x


@builds("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def dropout(b: Emitter, x: Value, p: float, train: bool) -> Built:
    if train and p > 0:
        raise Declined("a dropout that drops")
    return x


def expand_to(b: Emitter, x: Value, shape: tuple[int, ...]) -> Value:
    if x.shape == shape:
        return x
    x = b.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    return x if x.shape == shape else b.emit(Expand(shape), [x])


@builds("expand", "expand_as", "broadcast_to", any_dtype=True)
def expand(b: Emitter, x: Value, *arguments: Any, **named: Any) -> Built:
    return expand_to(b, x, b.shape)


@builds("copy")
def copy(b: Emitter, x: Value, source: Value, non_blocking: bool = False) -> Built:
    return expand_to(b, source, b.shape)


@builds("repeat", any_dtype=True)
def repeat(b: Emitter, x: Value, repeats: list[int]) -> Built:
    sizes = (1,) * (len(repeats) - len(x.shape)) + x.shape
    single = [entry for size in sizes for entry in (1, size)]
    double = [entry for count, size in zip(repeats, sizes, strict=True) for entry in (count, size)]
    return b.reshape(expand_to(b, b.reshape(x, single), tuple(double)), b.shape)


@builds("repeat_interleave.self_int", any_dtype=True)
def repeat_interleave(b: Emitter, x: Value, repeats: int, dim: int | None = None, **named: Any) -> Built:
    sizes = (x.numel,) if dim is None else x.shape
    at = axis(dim or 0, len(sizes)) + 1
    single = (*sizes[:at], 1, *sizes[at:])
    return b.reshape(expand_to(b, b.reshape(x, single), (*sizes[:at], repeats, *sizes[at:])), b.shape)


def permute_to(b: Emitter, x: Value, dims: list[int]) -> Value:
    rank = len(x.shape)
    order = tuple(axis(dim, rank) for dim in dims)
    if order == tuple(range(rank)):
        return x
    return b.emit(Permute(order), [x])


@builds("permute", any_dtype=True)
def permute(b: Emitter, x: Value, dims: list[int]) -> Built:
    return permute_to(b, x, dims)


@builds("transpose", "swapaxes", "swapdims", any_dtype=True)
def transpose(b: Emitter, x: Value, dim0: int, dim1: int) -> Built:
    order = list(range(len(x.shape)))
    if order:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return permute_to(b, x, order)


@builds("t", "mT", "adjoint", any_dtype=True)
def t(b: Emitter, x: Value) -> Built:
    order = list(range(len(x.shape)))
    return permute_to(b, x, [*order[:-2], *order[:-3:-1]])


@builds("numpy_T", any_dtype=True)
def numpy_T(b: Emitter, x: Value) -> Built:
    return permute_to(b, x, list(range(len(x.shape)))[::-1])


@builds("movedim", "moveaxis", any_dtype=True)
def movedim(b: Emitter, x: Value, source: int | list[int], destination: int | list[int]) -> Built:
    rank = len(x.shape)
    sources = [axis(d, rank) for d in ([source] if isinstance(source, int) else source)]
    targets = [axis(d, rank) for d in ([destination] if isinstance(destination, int) else destination)]
    placed = dict(zip(targets, sources, strict=True))
    rest = iter([d for d in range(rank) if d not in sources])
    return permute_to(b, x, [placed[d] if d in placed else next(rest) for d in range(rank)])


@builds("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(b: Emitter, x: Value, groups: int) -> Built:
    n, c, *rest = x.shape
    split = b.reshape(x, (n, groups, c // groups, *rest))
    return b.reshape(permute_to(b, split, [0, 2, 1, *range(3, 3 + len(rest))]), x.shape)


@builds("pixel_shuffle")
def pixel_shuffle(b: Emitter, x: Value, upscale_factor: int) -> Built:
    r = upscale_factor
    *lead, c, h, w = x.shape
    n = len(lead)
    split = b.reshape(x, (*lead, c // (r * r), r, r, h, w))
    return b.reshape(permute_to(b, split, [*range(n), n, n + 3, n + 1, n + 4, n + 2]), b.shape)


@builds("pixel_unshuffle")
def pixel_unshuffle(b: Emitter, x: Value, downscale_factor: int) -> Built:
    r = downscale_factor
    *lead, c, h, w = x.shape
    n = len(lead)
    split = b.reshape(x, (*lead, c, h // r, r, w // r, r))
    return b.reshape(permute_to(b, split, [*range(n), n, n + 2, n + 4, n + 1, n + 3]), b.shape)
