"""Every tensor of codes inside a program, against torch's run of the quantised graph's node on the codes that the node read."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import drystone
from drystone import native
from drystone.capture.export import capture
from drystone.quantisation.recipes import quantise
from quantised_models import q

pytest.importorskip("torchao")
pytestmark = pytest.mark.skipif(native.isa() == "none", reason="torch computes everything")

Tensor = torch.Tensor
# So many codes may be the next one, where a number lies between two.
TIES = 1e-3


class Bottleneck(nn.Module):
    """ResNet-50's, from 16 channels to 32, after its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.narrow = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 32, 1))
        self.shortcut = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(F.adaptive_avg_pool2d(F.relu(self.narrow(x) + self.shortcut(x)), 1).flatten(1))


class Inverted(nn.Module):
    """MobileNetV3's block, with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.deep = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 5, 2, 2, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.project = nn.Conv2d(24, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.deep(F.hardswish(self.expand(x))))
        return self.project(x * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))))


class Encoder(nn.Module):
    """BERT's layer, on patches of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 32, 4, 4)
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).flatten(2).transpose(1, 2)
        heads = (layer(x).view(*x.shape[:2], 4, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = self.norms[0](x + self.o(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)))
        return self.norms[1](x + self.down(F.gelu(self.up(x))))


def showing_codes(module: fx.GraphModule, given: bool) -> tuple[fx.GraphModule, list[fx.Node]]:
    """``module`` with all its codes among the results, after which come its own; and the nodes that make them. ``given``: what reads
    codes reads those of further inputs, as floats."""
    made = [node for node in module.graph.nodes if node.target == q.quantize_per_tensor.default]
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    shown: list[fx.Node] = []
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
    replaced = {node: graph.placeholder(f"given_{node.name}") for node in made} if given else {}
    for node in module.graph.nodes:
        if node.op == "output":
            results = [copies[result] for result in torch.utils._pytree.tree_leaves(node.args)]
            graph.output((*shown, *results))
        elif node.op != "placeholder" and not (node.op == "call_module" and "_guards" in str(node.target)):
            copies[node] = graph.node_copy(node, lambda value: copies[value])
            if node in made:
                shown.append(copies[node])
                if given:
                    copies[node] = graph.call_function(node.target, (replaced[node], *node.args[1:]))
    return fx.GraphModule(module, graph), made


@pytest.mark.parametrize("tuning", ["estimate", 0.5])
@pytest.mark.parametrize("model", [Bottleneck, Inverted, Encoder])
def test_every_tensor_of_codes(model: Callable[[], nn.Module], tuning: str | float) -> None:
    torch.manual_seed(0)
    floats, samples = model().eval().requires_grad_(False), [torch.randn(2, 3, 20, 18) for _ in range(4)]
    quantised = quantise(capture(floats, samples[:1]), [((x,), {}) for x in samples], (), None, lambda *_: None).module
    whole, made = showing_codes(quantised, given=False)
    found = drystone.optimize(copy.copy(whole), samples[0], tuning=tuning)(samples[0])
    codes, results = found[: len(made)], found[len(made) :]
    assert len(made) > 3 and all(tensor.dtype == torch.uint8 for tensor in codes)

    reals = [q.dequantize_per_tensor(tensor, *node.args[1:]) for tensor, node in zip(codes, made, strict=True)]
    expected = showing_codes(quantised, given=True)[0](samples[0], *reals)
    steps = torch.cat([(a.int() - b.int()).abs().flatten() for a, b in zip(codes, expected, strict=False)])
    assert int(steps.max()) <= 1 and int(steps.sum()) <= max(1, TIES * steps.numel())
    for a, b in zip(results, expected[len(made) :], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))
