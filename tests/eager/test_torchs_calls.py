"""Calls that torch refuses, and calls that its own kernels serve: errors and results are those without ``drystone.enable()``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operator_calls import agree

LAST = torch.channels_last_3d
Calls = Iterator[tuple[str, Callable[[], Any]]]


def ones(*shape: int, **options: Any) -> torch.Tensor:
    return torch.ones(shape, **options)


def replaced(x: torch.Tensor, places: tuple[int, ...], value: int) -> torch.Tensor:
    x = x.clone()
    x[list(places)] = value
    return x


def refused() -> Calls:
    x, volume, matrix = torch.randn(300, 200), torch.randn(1, 16, 8, 8, 8), torch.randn(128, 1040)
    yield "gelu: approximate", lambda: F.gelu(x, approximate="tanhh")
    yield "softmax: the axis", lambda: torch.softmax(x, 2)
    yield "layer_norm: the shape", lambda: F.layer_norm(x, (201,))
    pixel = volume[:, :, :1, :1, :1]
    yield "batch_norm: one number a channel", lambda: F.batch_norm(pixel, None, None, training=True)
    yield "instance_norm: one number a channel", lambda: F.instance_norm(pixel)
    yield "batch_norm: statistics of another size", lambda: F.batch_norm(volume, ones(3), ones(3), training=True)
    yield "batch_norm: no statistics", lambda: F.batch_norm(volume, None, None)
    yield "batch_norm: a weight of another size", lambda: F.batch_norm(volume, None, None, ones(15), training=True)
    for y in (torch.randn(2, 16, 32, 32), torch.randn(2, 16, 4, 16, 16)):
        for given in ((None, ones(16)), (ones(16), None)):
            what = f"of {y.ndim} axes: one statistic, {given[0] is None}"
            yield f"batch_norm {what}", lambda y=y, given=given: F.batch_norm(y, *given, training=True)
            yield f"instance_norm {what}", lambda y=y, given=given: F.instance_norm(y, *given, use_input_stats=True)
    for tensors, dim in (
        ([], 0),
        ([x, x[:, 1:]], 0),
        ([x, x[..., None]], 0),
        ([x] * 2, 2),
        ([x] * 2, -3),
        ([torch.tensor(1.0)] * 100, 0),
    ):
        yield f"cat {[list(t.shape) for t in tensors[:2]]} {dim}", lambda t=tensors, dim=dim: torch.cat(t, dim)
    memory = torch.randn(200, 200)
    for out in (memory[:150], torch.zeros(1).expand(150, 200)):
        yield f"cat: into {out.stride()}", lambda out=out: torch.cat([memory[:75], memory[75:150]], 0, out=out)
    yield "index_select: into itself", lambda: torch.index_select(memory, 0, torch.arange(100), out=memory[:100])
    for k, dim in ((6, -1), (-1, -1), (1, 2), (1, -3)):
        yield f"topk {k} {dim}", lambda k=k, dim=dim: torch.topk(torch.randn(3, 5), k, dim)
    four = torch.randn(4, 128)
    for name, a, b in (("a row less", four, matrix[1:]), ("two dtypes", four, matrix.double()), ("one axis", four[0], matrix), ("a vector", four, matrix[0])):  # fmt: skip
        yield f"mm: {name}", lambda a=a, b=b: torch.mm(a, b)
    for pool in (F.max_pool3d, F.avg_pool3d):
        for arguments in ((0,), (2, 0), (2, 1, 2), (2, 1, -1), ((2, 2),), (9,), (2, 1, (1, 1)), (2**31,)):
            yield f"{pool.__name__} {arguments}", lambda pool=pool, a=arguments: pool(volume, *a)
        for y in (volume[0, 0], volume.bool(), volume[:, :0]):
            yield f"{pool.__name__} of {y.dtype} {list(y.shape)}", lambda pool=pool, y=y: pool(y, 2)
    yield "avg_pool3d: windows larger than what they are of", lambda: F.avg_pool3d(torch.randn(2, 16, 2, 16, 16), 3, 1, 1)
    yield "avg_pool3d: bfloat16", lambda: F.avg_pool3d(volume.bfloat16(), 2)
    x3, weight = torch.randn(1, 32, 9, 10, 12), torch.randn(24, 32, 3, 3, 3)
    yield "conv3d: channels", lambda: F.conv3d(x3[:, :16], weight)
    yield "conv3d: a kernel larger than its input", lambda: F.conv3d(x3[:, :, :2], weight)
    yield "conv3d: a bias of another size", lambda: F.conv3d(x3, weight, torch.randn(7))
    gradient, each = torch.randn(1, 24, 7, 8, 10), ([1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1, [True] * 3)
    for what, operands in (("size", (gradient[..., 1:], x3)), ("channels", (gradient[:, 1:], x3)), ("x", (gradient, x3[:, 1:]))):
        yield f"convolution_backward: {what}", lambda o=operands: torch.ops.aten.convolution_backward(*o, weight, [24], *each)
    which, table = torch.randint(0, 50, (400,)), torch.randn(50, 64)
    for mode in ("sum", "mean", "max"):
        for bad in (50, -1, 1 << 40):
            broken = replaced(which, (333,), bad)
            yield (
                f"embedding_bag: {mode} of {bad}",
                lambda b=broken, mode=mode: F.embedding_bag(b, table, torch.arange(0, 400, 10), mode=mode),
            )


def normalised(x: torch.Tensor, statistics: list[torch.Tensor]) -> list[torch.Tensor]:
    """All results, and the running statistics as they are left."""
    own = [y.clone() for y in statistics]
    return [*torch.native_batch_norm(x, *own, True, 0.3, 1e-5), *own]


def served_by_torch() -> Calls:
    x = torch.randn(4, 16, 6, 8, 10)
    for name, y in (
        ("float64", x.double()),
        ("bfloat16", x.bfloat16()),
        ("channels_last", x.contiguous(memory_format=LAST)),
        ("every other", x[..., ::2]),
        ("pixels", x[:, :, :1, :1, :1].contiguous()),
        ("a matrix", torch.randn(300, 16)),
    ):
        statistics = [torch.rand(16).to(y.dtype) + 0.5 for _ in range(4)]
        yield f"batch_norm: {name}", lambda y=y, s=statistics: normalised(y, s)
    for weight in (ones(32)[::2], ones(1, 16), ones(16, dtype=torch.float64), ones(16, dtype=torch.bfloat16)):
        yield (
            f"batch_norm: a weight of {weight.dtype} {list(weight.shape)}",
            lambda w=weight: F.batch_norm(x, None, None, w, training=True),
        )
    x = torch.randn(2, 16, 8, 12, 14)
    for pool in (F.max_pool3d, F.avg_pool3d):
        for name, y in (
            ("float64", x.double()),
            ("float16", x.half()),
            ("every other", x[..., ::2]),
            ("transposed", x.transpose(2, 4)),
            ("expanded", x[:, :, :, :, :1].expand(x.shape)),
            ("small", x[:, :, :2, :3, :4]),
            ("rows of five windows", torch.randn(4, 16, 8, 12, 11)),
            ("no batch", x[:0]),
            ("channels_last, every other", x.contiguous(memory_format=LAST)[:, ::2]),
        ):
            yield f"{pool.__name__}: {name}", lambda pool=pool, y=y: pool(y, 2)
    yield "max_pool3d: windows larger than what they are of", lambda: F.max_pool3d(torch.randn(2, 16, 2, 16, 16), 3, 1, 1)
    a, b = torch.randn(4, 128), torch.randn(1040, 128).t()
    for name, left, right in (
        ("many rows", torch.randn(65, 128), b),
        ("float64", a.double(), b.double()),
        ("no rows", a[:0], b),
        ("no depth", a[:, :0], b[:0]),
        ("no columns", a, b[:, :0]),
        ("columns of x side by side", a.t().contiguous().t(), b),
        ("every third column", a, b.repeat_interleave(2, 1)[:, ::2].contiguous()[:, ::3]),
        ("one column", a, b[:, :1].expand(128, 1040)),
        ("one row", a[:1].expand(4, 128), b),
    ):
        yield f"mm: {name}", lambda left=left, right=right: left.mm(right)
    each = ([1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1, [True] * 3)
    for dtype in (torch.float64, torch.bfloat16):
        x3, weight = torch.randn(1, 32, 9, 10, 12).to(dtype), torch.randn(24, 32, 3, 3, 3).to(dtype)
        gradient = torch.randn(1, 24, 7, 8, 10).to(dtype)
        yield f"conv3d: {dtype}", lambda x=x3, w=weight: F.conv3d(x, w)
        yield (
            f"convolution_backward: {dtype}",
            lambda g=gradient, x=x3, w=weight: torch.ops.aten.convolution_backward(g, x, w, [24], *each),
        )
    yield "conv2d", lambda: F.conv2d(torch.randn(2, 8, 20, 20), torch.randn(8, 8, 3, 3))


REFUSED, SERVED = dict(refused()), dict(served_by_torch())


@pytest.mark.parametrize("name", REFUSED)
def test_errors(name: str) -> None:
    assert agree(REFUSED[name]).error is not None


@pytest.mark.parametrize("name", SERVED)
def test_what_torch_serves(name: str) -> None:
    def call() -> Any:
        torch.manual_seed(0)
        return SERVED[name]()

    agree(call, exactly=True)
