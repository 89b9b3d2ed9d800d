"""Operators under torch's names and by name: values, strides and gradients are torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import drystone
from agreement import relative_error
from drystone import ops

LAST = torch.channels_last_3d
WHICH = torch.randint(0, 50, (40, 10), generator=torch.Generator().manual_seed(1))
BAGS = torch.arange(0, 400, 10)


@dataclass
class Pair:
    """torch's function and ours, of operands of these shapes that all need gradients. ``exact``: to the last bit, of integers."""

    torchs: Callable[..., torch.Tensor]
    ours: Callable[..., torch.Tensor]
    shapes: Sequence[tuple[int, ...]]
    exact: bool = False
    last: bool = False  # the first operand in channels_last
    options: dict[str, Any] = field(default_factory=dict)

    def operands(self) -> list[torch.Tensor]:
        made = [torch.randint(-3, 4, shape).float() if self.exact else torch.randn(shape) for shape in self.shapes]
        made[0] = made[0].contiguous(memory_format=LAST) if self.last else made[0]
        return [x.requires_grad_() for x in made]


def bags(mode: str, **options: Any) -> Iterator[tuple[str, Pair]]:
    """Bags of one length, and the same by their offsets."""
    for how, indices, offsets in (("", WHICH, None), (" by offsets", WHICH.flatten(), BAGS)):

        def call(function: Any, indices: Any = indices, offsets: Any = offsets) -> Callable[..., torch.Tensor]:
            return lambda table, scale=None: function(
                indices,
                table,
                offsets,
                mode=mode,
                per_sample_weights=None if scale is None else scale.view(indices.shape),
                **options,
            )

        shapes = [(50, 64)] if mode != "sum" else [(50, 64), (40, 10)]
        yield f"embedding_bag{how}, {mode} {options}", Pair(call(F.embedding_bag), call(ops.embedding_bag), shapes)


def pairs() -> Iterator[tuple[str, Pair]]:
    for name in ("tanh", "sigmoid", "silu", "gelu"):
        yield name, Pair(getattr(torch if hasattr(torch, name) else F, name), getattr(ops, name), [(50, 30)])
    yield "gelu, tanh", Pair(*(lambda x, f=f: f(x, approximate="tanh") for f in (F.gelu, ops.gelu)), [(50, 30)])
    for shape, dim in (((40, 130), 0), ((3, 17, 33, 5), 1), ((3, 17, 33, 5), -2), ((64, 1, 70), 1), ((5000,), 0)):
        yield f"softmax {shape} {dim}", Pair(*(lambda x, f=f, dim=dim: f(x, dim) for f in (torch.softmax, ops.softmax)), [shape])
    for shape, over in (((64, 65), 1), ((7, 20, 33), 2), ((5, 4097), 1), ((2, 9000), 1), ((3, 4, 5), 3)):
        layer = [lambda x, *p, f=f, over=over: f(x, x.shape[-over:], *p) for f in (F.layer_norm, ops.layer_norm)]
        for more in ([], [shape[-over:]] * 2):
            yield f"layer_norm {shape} {over} {len(more)}", Pair(*layer, [shape, *more])
    batch = [lambda x, *p, f=f: f(x, None, None, *p, training=True) for f in (F.batch_norm, ops.batch_norm)]
    instance = [lambda x, *p: F.instance_norm(x, None, None, *p), lambda x, *p: ops.instance_norm(x, *p)]
    for name, functions in (("batch_norm", batch), ("instance_norm", instance)):
        for last in (False, True):
            for more in ([], [(16,)] * 2):
                yield f"{name} {last} {len(more)}", Pair(*functions, [(2, 16, 5, 9, 11), *more], last=last)
    for name in ("max_pool3d", "avg_pool3d"):
        for window in ((2,), (3, 2, 1)):
            pools = [lambda x, m=m, name=name, window=window: getattr(m, name)(x, *window) for m in (F, ops)]
            for last in (False, True):
                yield f"{name} {window} {last}", Pair(*pools, [(2, 18, 7, 9, 33)], exact=True, last=last)
    for axes, size in ((1, (900,)), (2, (33, 30)), (3, (9, 10, 12))):
        convolutions = [lambda *p, m=m, axes=axes: getattr(m, f"conv_transpose{axes}d")(*p, stride=2) for m in (F, ops)]
        yield f"conv_transpose{axes}d", Pair(*convolutions, [(1, 16, *size), (16, 16, *(3,) * axes), (16,)])
    yield (
        "conv3d",
        Pair(*(lambda *p, m=m: m.conv3d(*p, stride=2) for m in (F, ops)), [(1, 16, 9, 10, 12), (16, 16, 3, 3, 3), (16,)]),
    )
    yield (
        "clone",
        Pair(*(lambda x, f=f: f(x, memory_format=LAST) for f in (torch.clone, ops.clone)), [(2, 16, 4, 8, 10)], exact=True),
    )
    yield "mm", Pair(torch.mm, ops.mm, [(3, 128), (128, 1040)])
    yield (
        "cat",
        Pair(*(lambda *x, f=f: f(x, -2) for f in (torch.cat, ops.cat)), [(60, size, 7) for size in (70, 1, 50)], exact=True),
    )
    yield "cat, empty", Pair(*(lambda *x, f=f: f(x, 1) for f in (torch.cat, ops.cat)), [(0,), (60, 70)], exact=True)
    for dim in (0, 1, 2, -1):
        yield (
            f"stack {dim}",
            Pair(*(lambda *x, f=f, dim=dim: f(x, dim) for f in (torch.stack, ops.stack)), [(60, 70)] * 4, exact=True),
        )
        which = torch.randint(0, 29, (57,), generator=torch.Generator().manual_seed(dim + 1))
        rows = [lambda x, f=f, dim=dim, which=which: f(x, dim, which) for f in (torch.index_select, ops.index_select)]
        yield f"index_select {dim}", Pair(*rows, [(31, 40, 29)], exact=True)
    for padding in (None, 3):
        looked_up = [lambda x, f=f, padding=padding: f(WHICH, x, padding_idx=padding) for f in (F.embedding, ops.embedding)]
        yield f"embedding {padding}", Pair(*looked_up, [(300, 64)], exact=True)
    for mode in ("sum", "mean", "max"):
        for padding in (None, 3, -4):
            yield from bags(mode, padding_idx=padding)


PAIRS = dict(pairs())


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients(name: str) -> None:
    pair = PAIRS[name]
    operands = pair.operands()

    def run(function: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        y = function(*operands)
        given = torch.arange(y.numel(), dtype=torch.float32) if pair.exact else torch.arange(y.numel()).sin()
        return [y.detach(), *torch.autograd.grad(y, operands, given.view(y.shape))]

    expected = run(pair.torchs)
    results = [run(pair.ours)]
    with drystone.enabled():
        results += [run(pair.torchs), run(pair.ours)]
    for result in results:
        for got, want in zip(result, expected, strict=True):
            assert got.shape == want.shape and got.stride() == want.stride()
            assert torch.equal(got, want) if pair.exact else relative_error(got, want) < 1e-5


@pytest.mark.parametrize("name", ["cat", "stack 0", "index_select 1", "embedding 3", "clone", "topk"])
def test_gradients_of_second_order(name: str) -> None:
    topk = Pair(*(lambda x, f=f: f(x, 2, 1, False).values for f in (torch.topk, ops.topk)), [(4, 9, 3)])
    pair = PAIRS.get(name, topk)
    small = [
        tuple(min(size, 29 if "select" in name else 50 if "embedding" in name else 3) for size in shape) for shape in pair.shapes
    ]
    operands = [torch.randn(shape[:5], dtype=torch.float64, requires_grad=True) for shape in small]
    with drystone.enabled():
        for function in (pair.torchs, pair.ours):
            assert torch.autograd.gradcheck(function, operands, fast_mode=True)
            assert torch.autograd.gradgradcheck(function, operands, fast_mode=True)


def test_what_is_refused_by_name() -> None:
    x = torch.randn(50, 64)
    with pytest.raises(RuntimeError, match="approximate"):
        ops.gelu(x, approximate="tanhh")
    with pytest.raises(RuntimeError, match="one shape"):
        ops.stack([x, x[:, :5]], 0)
    with pytest.raises(ValueError, match="offsets go with"):
        ops.embedding_bag(WHICH, x, BAGS)
    for pool in (ops.max_pool3d, ops.avg_pool3d):
        for arguments in ((0,), (2, 0), (2, 1, 2), (2, 1, -1), ((2, 2),), (9,), (2, 1, (1, 1)), (2**31,)):
            with pytest.raises(RuntimeError):
                pool(torch.randn(1, 16, 8, 8, 8), *arguments)
