"""Blocks of well-known networks, captured, built and simplified: the same numbers, in the nodes that one expects."""

import pytest
import torch
from small_graphs import keeps_numbers, kinds
from torch import Tensor, nn

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Graph
from drystone.graph.interpreter import run
from drystone.graph.ops import Conv, Linear
from drystone.passes import lower_precision, simplify


class ResNetBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.down = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.down(x))


class DenseNetLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(16), nn.Conv2d(16, 12, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = torch.cat([x, y], 1)
        new = self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())
        return torch.cat([x, nn.functional.dropout(new, 0.5, self.training)], 1)


class MobileNetV3Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 5, 1, 2, groups=24, bias=False), nn.BatchNorm2d(24), nn.Hardswish())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 8, 1), nn.ReLU(), nn.Conv2d(8, 24, 1), nn.Hardsigmoid())
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        return x + self.project(y * self.squeeze(y))


class ConvNeXtBlock(nn.Module):
    """With the downsampling that follows it."""

    def __init__(self):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.final_norm, self.final = nn.LayerNorm(8), nn.Conv2d(8, 16, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(nn.functional.gelu(self.up(y))).permute(0, 3, 1, 2)
        x = x + self.scale * y
        return self.final(self.final_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class PaddedStem(nn.Module):
    """As TensorFlow's networks come: padded by hand, with an activation spelled out; a classifier with a batch norm."""

    def __init__(self):
        super().__init__()
        self.pad, self.conv, self.norm = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(), nn.Identity(), nn.Linear(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.pad(x)))
        x = x * torch.sigmoid(x)
        return self.head(x.mean((2, 3)).flatten(1))


def randomised(model: nn.Module) -> nn.Module:
    """Batch norms as after training."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 2, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return model.eval()


def shown(graph: Graph) -> list[str]:
    """Each node as its op and its instructions."""
    return [" ".join([node.op.name, *kinds(node)]) for node in graph.nodes]


IMAGE = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))
BLOCKS = [
    (ResNetBlock, (IMAGE,), ["conv relu", "conv", "conv add relu"]),
    (DenseNetLayer, (IMAGE, IMAGE.flip(0)), ["cat", "pointwise mul add relu", "conv relu", "conv", "cat"]),
    (
        MobileNetV3Block,
        (IMAGE,),
        ["conv hardswish", "conv hardswish", "reduce", "conv relu", "conv hardsigmoid", "pointwise mul", "conv add"],
    ),
    (
        ConvNeXtBlock,
        (IMAGE,),
        ["conv", "permute", "layer_norm", "linear gelu_erf", "linear", "permute", "pointwise add", "layer_norm", "conv"],
    ),
    (PaddedStem, (torch.randn(2, 3, 9, 9),), ["conv silu", "reduce", "linear relu", "linear"]),
]


@pytest.mark.parametrize(("block", "inputs", "expected"), BLOCKS, ids=[block.__name__ for block, _, _ in BLOCKS])
def test_block(block, inputs, expected):
    model = randomised(block())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = keeps_numbers(build(capture(model, inputs)), simplify)
    assert shown(graph) == expected
    (ours,) = run(graph, inputs, torch.float64)
    with torch.no_grad():
        theirs = model.double()(*(x.double() for x in inputs))
    assert (ours - theirs).norm() <= 2e-6 * theirs.norm()
    assert all(torch.equal(tensor.to(state[name].dtype), state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("block", "inputs", "expected"), BLOCKS, ids=[block.__name__ for block, _, _ in BLOCKS])
def test_block_in_bfloat16(block, inputs, expected):
    graph = simplify(build(capture(randomised(block()), inputs)))
    exact = run(graph, inputs, torch.float64)[0]
    lower_precision(graph)
    graph.check()
    assert [name for name in shown(graph) if name != "convert"] == expected
    assert shown(graph).count("convert") <= len(inputs) + 1
    factors = [value.dtype for node in graph if isinstance(node.op, (Conv, Linear)) for value in node.inputs[:2]]
    assert set(factors) == {torch.bfloat16}
    lowered = run(graph, inputs)[0]
    assert lowered.dtype == torch.float32
    assert (lowered - exact).norm() <= 0.02 * exact.norm()


@pytest.mark.parametrize("block", [block for block, _, _ in BLOCKS])
def test_nothing_is_left_for_a_second_time(block):
    inputs = next(inputs for other, inputs, _ in BLOCKS if other is block)
    graph = simplify(build(capture(randomised(block()), inputs)))
    before = shown(graph)
    assert shown(simplify(graph)) == before
