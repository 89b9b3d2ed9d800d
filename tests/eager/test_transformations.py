"""Gradients of every order and mode, vmap, tracing, scripting, exporting and compiling: our kernels under torch's names change none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from operator_calls import CALLS, Function, agree, operand
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import drystone

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]


def gradient(function: Function, x: torch.Tensor) -> Any:
    x.requires_grad_()
    y = function(x)
    return torch.autograd.grad((y * torch.linspace(0, 1, y.numel()).view(y.shape)).sum(), x)


def second_gradient(function: Function, x: torch.Tensor) -> Any:
    inner = torch.func.grad(lambda x: function(x).pow(3).sum())
    return torch.func.grad(lambda x: inner(x).square().sum())(x)


def forward_mode(function: Function, x: torch.Tensor) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, torch.full_like(x, 0.5)))).tangent


def traced(function: Function, x: torch.Tensor) -> Any:
    module = torch.jit.trace(function, x, check_trace=False)
    return module(x), module(2 * x)


TRANSFORMATIONS: dict[str, Callable[[Function, torch.Tensor], Any]] = {
    "gradient": gradient,
    "second gradient": second_gradient,
    "forward mode": forward_mode,
    "jvp": lambda function, x: torch.func.jvp(function, (x,), (torch.ones_like(x),)),
    "vmap": lambda function, x: torch.func.vmap(function)(torch.stack([x, x + 1])),
    "vmap of the last axis": lambda function, x: torch.func.vmap(function, in_dims=-1)(torch.stack([x, x + 1], -1)),
    "functionalize": lambda function, x: torch.func.functionalize(function)(x),
    "autocast": lambda function, x: torch.autocast("cpu", torch.bfloat16)(function)(x),
    "make_fx": lambda function, x: make_fx(function)(x)(2 * x),
    "trace": traced,
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("name", CALLS)
def test_transformations(name: str, transformation: str) -> None:
    agree(lambda: TRANSFORMATIONS[transformation](CALLS[name][0], operand(name)))


def test_a_traced_convolution_is_what_torch_traces() -> None:
    names = []
    for only in ([], ["convolution"]):
        with drystone.enabled(only=only):
            graph = torch.jit.trace(CALLS["conv3d"][0], operand("conv3d"), check_trace=False).graph
        names.append([node.kind() for node in graph.nodes()])
    assert names[0] == names[1] and "aten::_convolution" in names[0]


class Chain(torch.nn.Module):
    """One of each family."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(300, 64)
        self.norm = torch.nn.LayerNorm(64)
        self.volume = torch.nn.Conv3d(8, 16, 3, padding=1)

    def forward(self, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.nn.functional.gelu(self.norm(self.table(which)), approximate="tanh")
        x = torch.cat([torch.tanh(x), torch.sigmoid(x)], 0).softmax(0)
        volume = self.volume(x[:320].reshape(1, 8, 10, 16, 16))
        return torch.topk(x.index_select(0, which), 7, 0).values, volume


PREPARED: dict[str, Callable[[torch.nn.Module, torch.Tensor], Any]] = {
    "script": lambda model, which: torch.jit.script(model),
    "freeze": lambda model, which: torch.jit.freeze(torch.jit.script(model)),
    "export": lambda model, which: torch.export.export(model, (which,)).module(),
    "compile": lambda model, which: torch.compile(model, backend="aot_eager", fullgraph=True),
}


@pytest.mark.parametrize("way", PREPARED)
def test_models_made_ready(way: str) -> None:
    """Prepared while our kernels are there, or before; run with them and without."""
    model = Chain().eval().requires_grad_(False)
    which = torch.randint(0, 300, (300,))
    expected = model(which)
    for enabled_first in (False, True):
        torch._dynamo.reset()
        with drystone.enabled(only=None if enabled_first else []):
            ready = PREPARED[way](model, which)
            first = ready(which)
        with drystone.enabled(only=[] if enabled_first else None):
            second = ready(which)
        for result in (first, second):
            torch.testing.assert_close(result, expected)
