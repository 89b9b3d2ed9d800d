"""Traces of single functions and layers: their graph does what they do, or they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from drystone.capture.calls import Composer, Untraceable, trace
from drystone.graph import interpreter
from drystone.graph.build import build
from drystone.graph.ops import Aten

SHAPE = (2, 16, 6, 6)
LAYERS: list[nn.Module] = [
    nn.Conv2d(16, 8, 3, stride=2, padding=1),
    nn.Conv2d(16, 16, 3, groups=16, padding="same"),
    nn.ConvTranspose2d(16, 8, 2, stride=2),
    nn.BatchNorm2d(16),
    nn.GroupNorm(4, 16),
    nn.InstanceNorm2d(16, affine=True),
    nn.LayerNorm(6),
    nn.RMSNorm(6),
    nn.Linear(6, 5),
    nn.MaxPool2d(3, 2, 1),
    nn.AvgPool2d(2),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveMaxPool2d(2),
    nn.SiLU(inplace=True),
    nn.GELU(),
    nn.PReLU(16),
    nn.Softmax(1),
    nn.Upsample(scale_factor=2, mode="bilinear"),
    nn.ZeroPad2d(1),
    nn.GLU(1),
]


def graph_of(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Any:
    kinds = [(shape, torch.float32) for shape in shapes]
    composer = Composer()
    traced = trace(function, kinds)
    return traced, build(composer.captured(composer.apply(traced, [composer.input(*kind) for kind in kinds])))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers(layer: nn.Module) -> None:
    layer.eval()
    x = torch.randn(SHAPE)
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.uniform_(layer.running_var, 0.5, 2)
        nn.init.normal_(layer.running_mean)
    traced, graph = graph_of(layer, SHAPE)
    assert all(not isinstance(node.op, Aten) for node in graph)
    (got,) = interpreter.run(graph, [x])
    with torch.no_grad():
        want = layer(x.clone())
    assert (traced.shape, traced.dtype) == (tuple(want.shape), want.dtype)
    assert torch.allclose(got, want, atol=1e-5)


FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "sum": (lambda a, b: a + b, 2),
    "residual": (lambda a, b: functional.relu(a.sub(b, alpha=2)) * 0.5, 2),
    "cat": (lambda a, b: torch.cat([a, b, a], dim=1), 2),
    "mean": (lambda a: a.mean((2, 3), keepdim=True), 1),
    "two results": (lambda a: nn.functional.max_pool2d(a, 2, return_indices=False), 1),
    "pad": (lambda a: functional.pad(a, (1, 0, 2, 1)), 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, count = FUNCTIONS[name]
    inputs = [torch.randn(SHAPE) for _ in range(count)]
    traced, graph = graph_of(function, *[SHAPE] * count)
    assert traced.changes is None
    (got,) = interpreter.run(graph, inputs)
    assert torch.allclose(got, function(*inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "changes"),
    [(lambda a, b: a.add_(b), 0), (lambda a, b: b.mul_(a).relu_(), 1), (lambda a, b: functional.relu(a, inplace=True), 0)],
)
def test_changes_in_place(function: Callable[..., Any], changes: int) -> None:
    inputs = [torch.randn(SHAPE), torch.randn(SHAPE)]
    traced, graph = graph_of(function, SHAPE, SHAPE)
    assert traced.changes == changes
    (got,) = interpreter.run(graph, [x.clone() for x in inputs])
    assert torch.equal(got, function(*inputs))


REFUSED: dict[str, Callable[..., Any]] = {
    "a view": lambda a: a.view(-1),
    "a view of the changed": lambda a: a.relu_().view(-1),
    "a new result of a changed operand": lambda a: a.relu_() + 1,
    "written through a view": lambda a: a[0].zero_() + 1,
    "a number": lambda a: a.sum().item(),
    "two results": lambda a: a.max(dim=1),
    "no result": lambda a: a.__setitem__(0, 1.0),
    "random": lambda a: functional.dropout(a),
    "an error": lambda a: a.view(7),
    "out": lambda a: torch.add(a, a, out=a),
    "sparse": lambda a: a.to_sparse(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_one_new_tensor_is_refused(name: str) -> None:
    with pytest.raises(Untraceable):
        trace(REFUSED[name], [(SHAPE, torch.float32)])


def test_what_comes_back_as_it_is() -> None:
    for function in (nn.Identity(), nn.Dropout().eval(), lambda a: a.float(), lambda a: a.contiguous()):
        traced = trace(function, [(SHAPE, torch.float32)])
        assert not traced.calls
        assert traced.changes is None


def test_random_numbers_are_not_drawn() -> None:
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    with pytest.raises(Untraceable):
        trace(lambda a: functional.dropout(a) + torch.rand_like(a), [(SHAPE, torch.float32)])
    assert torch.equal(torch.rand(3), want)
