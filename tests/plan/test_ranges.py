"""What is said of the range of a value holds for what is computed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Graph, Value, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.interpreter import run
from drystone.graph.ops import Pointwise
from drystone.passes import simplify
from drystone.plan.implementations.base import WeightStore
from drystone.plan.ranges import UNKNOWN, Range, after, known, ranges_of
from small_models import Calls

KINDS = (
    *("relu", "leaky_relu", "elu", "gelu_erf", "gelu_tanh", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "tanh"),
    *("clamp", "exp", "log", "log1p", "sqrt", "rsqrt", "abs", "neg", "square", "reciprocal", "erf", "sin", "cos", "affine", "pow"),
    *("floor", "round", "sign", "add", "sub", "mul", "div", "maximum", "minimum", "pow2", "prelu"),
)
ENDS = [-1e30, -300.0, -3.0, -1.0, -0.25, 0.0, 0.25, 1.0, 2.0, 80.0, 300.0, 1e30]


def outcome(op: PointwiseOp, *operands: Tensor) -> Tensor:
    values = [Value(tuple(x.shape), torch.float32) for x in operands]
    node = make_node(Pointwise((op,)), values)
    return run(Graph(values, [node.output], [node]), list(operands), dtype=torch.float64)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_instructions(kind: str) -> None:
    torch.manual_seed(0)
    binary = kind in ("add", "sub", "mul", "div", "maximum", "minimum", "pow2", "prelu")
    args = (("in", 0), ("in", 1)) if binary else (("in", 0),)
    for alpha, beta in (
        ((0.5, 2.0), (-1.5, -0.5), (3.0, 4.0)) if kind in ("affine", "pow", "clamp", "elu", "leaky_relu") else ((0.0, 0.0),)
    ):
        if kind == "clamp" and alpha > beta:
            alpha, beta = beta, alpha
        op = PointwiseOp(kind, args, alpha, beta)
        for low in ENDS:
            for high in (end for end in ENDS if end >= low):
                ranges = [Range(low, high), Range(-2.0, 3.0)][: len(args)]
                found = after(op, ranges)
                if found == UNKNOWN:
                    continue
                xs = [r.low + (r.high - r.low) * torch.rand(64, dtype=torch.float64) for r in ranges]
                for x, r in zip(xs, ranges, strict=True):
                    x[0], x[1] = r.low, r.high
                got = outcome(op, *xs)
                assert found.low <= got.min() and got.max() <= found.high, f"{op} on {ranges}: {found}"


def test_what_may_be_nan_or_overflow_is_unknown() -> None:
    x = (("in", 0),)
    both = (("in", 0), ("in", 1))
    for op, *ranges in (
        (PointwiseOp("log", x), Range(0.0, 1.0)),
        (PointwiseOp("sqrt", x), Range(-1e-6, 1.0)),
        (PointwiseOp("exp", x), Range(0.0, 89.0)),
        (PointwiseOp("square", x), Range(0.0, 1e20)),
        (PointwiseOp("reciprocal", x), Range(-1.0, 1.0)),
        (PointwiseOp("div", both), Range(1.0, 1.0), Range(0.0, 1.0)),
        (PointwiseOp("mul", both), Range(0.0, 1e20), Range(0.0, 1e20)),
        (PointwiseOp("add", both), Range(0.0, 3e38), Range(0.0, 3e38)),
        (PointwiseOp("pow", x, 0.5), Range(0.0, 1.0)),
        (PointwiseOp("relu", x), UNKNOWN),
        (PointwiseOp("tanh", x), UNKNOWN),
    ):
        assert after(op, list(ranges)) == UNKNOWN, str(op)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "conv_transpose": lambda: nn.ConvTranspose2d(8, 4, 3, 2),
    "linear": lambda: nn.Linear(12, 5),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU6()),
    "pools": lambda: Calls(lambda x: torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1)], 1)),
    "divisor": lambda: Calls(lambda x: F.avg_pool2d(x, 2, divisor_override=1)),
    "mean": lambda: Calls(lambda x: x.mean((2, 3)) + x.sum((2, 3))),
    "softmax": lambda: nn.Softmax(1),
    "layer norm": lambda: nn.LayerNorm(12),
    "group norm": lambda: nn.GroupNorm(2, 8),
    "lrn": lambda: nn.LocalResponseNorm(3),
    "resize": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "pad": lambda: Calls(lambda x: F.pad(x, (1, 1), value=7.0)),
    "product": lambda: Calls(lambda x: x @ x.transpose(-1, -2)),
    "attention": lambda: Calls(lambda x: F.scaled_dot_product_attention(x, x, x)),
    "where": lambda: Calls(lambda x: torch.where(x > 0, x, x * 3)),
    "sum": lambda: Calls(lambda x: x.cumsum(2)),
    "squeeze": lambda: Calls(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
}


@pytest.mark.parametrize("name", MODELS)
def test_operators(name: str) -> None:
    """Each value that has a range keeps to it, whatever the inputs between theirs; none of these models has one without."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.data.uniform_(0.5, 2)
    graph = simplify(build(capture(model, (torch.randn(2, 8, 12, 12),), {})))
    store = WeightStore()
    for size in (1e-3, 1.0, 1e4):
        ranges = {graph.inputs[0].id: Range(-size, size)}
        for node in graph:
            for value, found in zip(node.outputs, ranges_of(node, known(ranges, store.range)(node), store.gain), strict=True):
                ranges[value.id] = found
        found = ranges[graph.outputs[0].id]
        assert found.bound < math.inf, "no range"
        for x in (torch.full((2, 8, 12, 12), size), torch.full((2, 8, 12, 12), -size), (torch.rand(2, 8, 12, 12) * 2 - 1) * size):
            got = model(x)
            assert found.low <= got.min() and got.max() <= found.high, f"{found}: {got.min()} to {got.max()}"
