"""Operators of random shapes and options, in a random format, against eager: equal where small integers make sums exact."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import ACTIVATIONS, Net, fill
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import drystone
from agreement import FLOAT32_LIMIT, FLOAT32_TIMES_EAGER, Reference, relative_error
from drystone import native

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")

# The same examples at each run: raise max_examples and drop derandomize to search further.
search = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)

formats = st.sampled_from([None, "plain", "channels_last", native.blocked().name])
# Around the sizes of blocks, and between.
channels = st.one_of(st.sampled_from([1, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 64]), st.integers(1, 40))
batches = st.integers(1, 3)
sizes = st.integers(1, 13)


@pytest.fixture(autouse=True)
def _estimates_alone(no_tuning_cache: None) -> None:
    pass


def check(module: nn.Module, *shapes: tuple[int, ...], formats: str | None, exact: bool = True, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = module.eval().requires_grad_(False)
    fill(module, generator, exact)
    inputs = tuple(
        torch.randint(-3, 4, shape, generator=generator).float() if exact else torch.randn(shape, generator=generator)
        for shape in shapes
    )
    expected = Reference(module, inputs)
    if not exact:  # where all digits cancel, no error says anything
        assume(
            all(
                relative_error(y, z) < FLOAT32_LIMIT / FLOAT32_TIMES_EAGER
                for y, z in zip(expected.float32, expected.float64, strict=True)
            )
        )
    fast = drystone.optimize(module, inputs, tuning="estimate", formats=formats, strict=True)
    (expected.check_exact if exact else expected.check_float32)(fast(*inputs))


@st.composite
def convolutions(draw: st.DrawFn, axes: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution whose output has elements, with padding of its own kind before each side, and the shape of its input."""
    kind = draw(st.sampled_from(["dense", "depthwise", "grouped"]))
    if kind == "dense":
        groups, c, o = 1, draw(channels), draw(channels)
    elif kind == "depthwise":
        groups = c = draw(channels)
        o = c * draw(st.integers(1, 2))
    else:
        groups = draw(st.integers(2, 5))
        c, o = groups * draw(st.integers(1, 16)), groups * draw(st.integers(1, 16))
    kernel, stride, dilation, size = ([draw(st.integers(1, most)) for _ in range(axes)] for most in (4, 3, 2, 12))
    pads = [draw(st.integers(0, 3)) for _ in range(2 * axes)]
    for axis in range(axes):
        before, after = pads[2 * (axes - 1 - axis) :][:2]  # F.pad lists the last axis first
        assume(size[axis] + before + after > dilation[axis] * (kernel[axis] - 1))
    cls: Any = nn.Conv1d if axes == 1 else nn.Conv2d
    conv = cls(c, o, tuple(kernel), tuple(stride), 0, tuple(dilation), groups, bias=draw(st.booleans()))
    activation = draw(st.sampled_from([None, "relu", "relu6"]))
    return nn.Sequential(
        nn.ZeroPad2d(pads) if axes == 2 else nn.ZeroPad1d(pads), conv, *([ACTIVATIONS[activation]()] if activation else [])
    ), (
        draw(batches),
        c,
        *size,
    )


@search
@given(convolutions(2), formats)
def test_conv2d(case: tuple[nn.Module, tuple[int, ...]], formats: str | None) -> None:
    check(case[0], case[1], formats=formats)


@search
@given(convolutions(1), formats)
def test_conv1d(case: tuple[nn.Module, tuple[int, ...]], formats: str | None) -> None:
    check(case[0], case[1], formats=formats)


@search
@given(
    st.lists(st.integers(1, 5), min_size=0, max_size=3),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    st.sampled_from([None, *ACTIVATIONS]),
)
def test_linear(rows: list[int], k: int, n: int, bias: bool, activation: str | None) -> None:
    # PReLU's channels are dimension 1.
    activation = None if activation == "prelu" else activation
    module = nn.Sequential(nn.Linear(k, n, bias), *([ACTIVATIONS[activation]()] if activation else []))
    check(module, (*(rows or [1]), k), formats=None, exact=activation in (None, "relu", "relu6"))


@st.composite
def broadcasts(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Two or three shapes that broadcast to one of rank 0 to 5."""
    whole = draw(st.lists(st.one_of(st.integers(1, 5), st.sampled_from([8, 16, 17])), max_size=5))
    assume(math.prod(whole) <= 20_000)
    shapes = []
    for _ in range(draw(st.integers(2, 3))):
        kept = [size if draw(st.booleans()) else 1 for size in whole]
        shapes.append(tuple(kept[draw(st.integers(0, len(kept))) :]))
    return shapes


@search
@given(broadcasts(), st.lists(st.sampled_from(["add", "sub", "mul", "maximum", "minimum"]), min_size=2, max_size=2), formats)
def test_broadcasting(shapes: list[tuple[int, ...]], names: list[str], formats: str | None) -> None:
    def function(self: Any, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for name, other in zip(names, others, strict=False):
            x = getattr(torch, name)(x, other)
        return x

    check(Net(function), *shapes, formats=formats)


@search
@given(st.data(), batches, channels, sizes, sizes, formats)
def test_pools(data: st.DataObject, n: int, c: int, h: int, w: int, formats: str | None) -> None:
    kind = data.draw(st.sampled_from(["max", "avg", "adaptive_max", "adaptive_avg"]))
    if kind.startswith("adaptive"):
        size = (data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8)))
        module: nn.Module = nn.AdaptiveMaxPool2d(size) if kind == "adaptive_max" else nn.AdaptiveAvgPool2d(size)
    else:
        kernel = (data.draw(st.integers(1, min(h, 4))), data.draw(st.integers(1, min(w, 4))))
        options: dict[str, Any] = {
            "stride": (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))),
            "padding": (data.draw(st.integers(0, kernel[0] // 2)), data.draw(st.integers(0, kernel[1] // 2))),
            "ceil_mode": data.draw(st.booleans()),
        }
        if kind == "max":
            module = nn.MaxPool2d(kernel, **options)
        else:
            module = nn.AvgPool2d(kernel, count_include_pad=data.draw(st.booleans()), **options)
    check(module, (n, c, h, w), formats=formats, exact=kind.endswith("max"))


@search
@given(st.data(), batches, channels, sizes, sizes, formats)
def test_resizes(data: st.DataObject, n: int, c: int, h: int, w: int, formats: str | None) -> None:
    options: dict[str, Any] = data.draw(
        st.sampled_from([{"mode": "nearest"}, {"mode": "bilinear"}, {"mode": "bilinear", "align_corners": True}])
    )
    if data.draw(st.booleans()):
        options = {**options, "size": (data.draw(st.integers(1, 17)), data.draw(st.integers(1, 17)))}
    else:
        factor = data.draw(st.floats(1 / min(h, w), 3, allow_nan=False))
        options = {**options, "scale_factor": factor}
    check(Net(lambda self, x: F.interpolate(x, **options)), (n, c, h, w), formats=formats, exact=options["mode"] == "nearest")


@search
@given(st.data(), batches, st.lists(channels, min_size=1, max_size=4), sizes, sizes, formats)
def test_cat_and_split(data: st.DataObject, n: int, parts: list[int], h: int, w: int, formats: str | None) -> None:
    """Convolutions joined, some of them read elsewhere too, and what is joined taken apart at other places."""
    dim = data.draw(st.sampled_from([1, 1, 0, 2, -1]))
    outs = parts if dim == 1 else [parts[0]] * len(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, sum(outs) if dim == 1 else outs[0]), max_size=2)))
    also = data.draw(st.booleans())

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(5, o, 1) for o in outs)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            ys = [F.relu(conv(x)) if i % 2 else conv(x) for i, conv in enumerate(self.convs)]
            whole = torch.cat(ys, dim)
            bounds = [0, *cuts, whole.shape[1]]
            pieces = [whole[:, a:b] * 2 for a, b in itertools.pairwise(bounds) if b > a]
            return (*pieces, ys[0] + 1) if also else tuple(pieces)

    check(Joined(), (n, 5, h, w), formats=formats)


@search
@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=5), formats)
def test_movement(data: st.DataObject, shape: list[int], formats: str | None) -> None:
    """Chains of permutes, slices with steps, reshapes and pads, read by a pointwise operator in the middle or not."""
    moves = []
    x = torch.empty(shape)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["permute", "slice", "flatten", "pad", "relu", "unflatten"]))
        if kind == "permute":
            order = data.draw(st.permutations(range(x.dim())))
            move = lambda x, order=order: x.permute(order)  # noqa: E731
        elif kind == "slice":
            dim = data.draw(st.integers(0, x.dim() - 1))
            start = data.draw(st.integers(0, x.shape[dim] - 1))
            step = data.draw(st.integers(1, 3))
            index = (slice(None),) * dim + (slice(start, None, step),)
            move = lambda x, index=index: x[index]  # noqa: E731
        elif kind == "flatten":
            dim = data.draw(st.integers(0, x.dim() - 1))
            move = lambda x, dim=dim: x.flatten(dim)  # noqa: E731
        elif kind == "unflatten":
            move = lambda x: x.unsqueeze(1) if x.dim() < 5 else x.flatten(3)  # noqa: E731
        elif kind == "pad":
            amounts = [data.draw(st.integers(0, 2)) for _ in range(2 * min(x.dim(), 2))]
            move = lambda x, amounts=amounts: F.pad(x, amounts, value=2.0)  # noqa: E731
        else:
            move = lambda x: F.relu(x) + 1  # noqa: E731
        moves.append(move)
        x = move(x)

    def function(self: Any, x: torch.Tensor) -> torch.Tensor:
        for move in moves:
            x = move(x)
        return x

    check(Net(function), tuple(shape), formats=formats)


@search
@given(
    st.data(), st.lists(st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 40])), min_size=1, max_size=4), st.sampled_from(["mean", "sum", "softmax", "layer_norm"]), formats,
)  # fmt: skip
def test_reductions(data: st.DataObject, shape: list[int], kind: str, formats: str | None) -> None:
    assume(math.prod(shape) <= 20_000)
    rank = len(shape)
    dims = data.draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    keep = data.draw(st.booleans())
    functions: dict[str, Any] = {
        "mean": lambda self, x: x.mean(dims, keepdim=keep),
        "sum": lambda self, x: x.sum(dims, keepdim=keep),
        "softmax": lambda self, x: F.softmax(x, dims[0]),
        "layer_norm": lambda self, x: F.layer_norm(x, tuple(shape[dims[0] :])),
    }
    assume(kind != "layer_norm" or math.prod(shape[dims[0] :]) > 3)  # of two numbers, the variance is all rounding
    check(Net(functions[kind]), tuple(shape), formats=formats, exact=kind == "sum")


@search
@given(st.data(), batches, st.integers(1, 6), st.integers(1, 12), sizes, formats)
def test_group_norm(data: st.DataObject, n: int, groups: int, a_group: int, size: int, formats: str | None) -> None:
    assume(a_group * size > 3)
    check(nn.GroupNorm(groups, groups * a_group), (n, groups * a_group, size, 3), formats=formats, exact=False)


@st.composite
def networks(draw: st.DrawFn) -> Any:
    """Steps over values of one shape: which operator, on which of the values so far."""
    steps = []
    for i in range(draw(st.integers(2, 7))):
        op = draw(st.sampled_from(["conv", "conv1", "depthwise", "add", "sub", "relu", "cat", "chunk", "pool", "scale"]))
        steps.append((op, draw(st.integers(0, i)), draw(st.integers(0, i))))
    outputs = draw(st.lists(st.integers(0, len(steps)), max_size=2))
    return steps, outputs


class Network(nn.Module):
    def __init__(self, steps: list[tuple[str, int, int]], outputs: list[int], c: int) -> None:
        super().__init__()
        self.steps, self.outputs = steps, outputs
        self.convs = nn.ModuleDict()
        for i, (op, _, _) in enumerate(steps):
            if op == "conv":
                self.convs[str(i)] = nn.Conv2d(c, c, 3, padding=1)
            elif op in ("conv1", "cat"):
                self.convs[str(i)] = nn.Conv2d(2 * c if op == "cat" else c, c, 1)
            elif op == "depthwise":
                self.convs[str(i)] = nn.Conv2d(c, c, 3, padding=1, groups=c)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x]
        for i, (op, a, b) in enumerate(self.steps):
            x, y = values[a], values[b]
            if op in ("conv", "conv1", "depthwise"):
                x = self.convs[str(i)](x)
            elif op == "cat":
                x = self.convs[str(i)](torch.cat([x, y], 1))
            elif op == "add":
                x = x + y
            elif op == "sub":
                x = F.relu(x - y)
            elif op == "relu":
                x = F.relu(x)
            elif op == "chunk":
                halves = x.chunk(2, 1)
                x = torch.cat([*halves[1:], halves[0]], 1)
            elif op == "pool":
                x = F.max_pool2d(x, 3, 1, 1)
            else:
                x = x * y.mean((2, 3), keepdim=True)
            values.append(x)
        return (values[-1], *(values[i] for i in self.outputs))


@settings(search, max_examples=60)
@given(networks(), batches, st.sampled_from([4, 8, 16, 17, 24, 32]), formats, st.integers(0, 3))
def test_networks(network: Any, n: int, c: int, formats: str | None, seed: int) -> None:
    check(Network(*network, c), (n, c, 5, 6), formats=formats, exact=False, seed=seed)
