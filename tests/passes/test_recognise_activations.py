import math

import pytest
import torch
import torch.nn.functional as F
from small_graphs import Small, keeps_numbers, kinds, ops

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.passes.fuse_pointwise import fuse_pointwise
from drystone.passes.recognise_activations import recognise_activations
from small_models import Calls

SPELLINGS = {
    "silu": [
        lambda x: x * torch.sigmoid(x),
        lambda x: x / (1 + torch.exp(-x)),
    ],
    "hardsigmoid": [
        lambda x: F.relu6(x + 3) / 6,
        lambda x: (x / 6 + 0.5).clamp(0, 1),
        lambda x: torch.clamp(x + 3, min=0).clamp(max=6) * (1 / 6),
    ],
    "hardswish": [
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * (F.hardtanh(x + 3, 0.0, 6.0) / 6),
        lambda x: F.hardsigmoid(x) * x,
    ],
    "gelu_erf": [
        lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: x * (0.5 * (1.0 + torch.erf(x * 0.7071067811865476))),
    ],
    "gelu_tanh": [
        lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    ],
    "mish": [
        lambda x: x * torch.tanh(F.softplus(x)),
        lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
    ],
    "sigmoid": [lambda x: 1 / (1 + torch.exp(-x))],
}


@pytest.mark.parametrize(("kind", "spelling"), [(kind, spelling) for kind, list_ in SPELLINGS.items() for spelling in list_])
def test_spellings(kind, spelling):
    graph = build(capture(Calls(spelling).eval(), (torch.randn(4, 33),)))
    keeps_numbers(graph, fuse_pointwise, recognise_activations)
    assert [kinds(node) for node in graph.nodes] == [[kind]]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: x * F.relu6(x + 3) / 6.001,
        lambda x: 0.5 * x * (1 + torch.tanh(0.797 * (x + 0.044715 * x**3))),
        lambda x: x * torch.tanh(x),
        lambda x: 0.51 * x * (1 + torch.erf(x / math.sqrt(2))),
    ],
)
def test_others_that_look_alike_stay(function):
    graph = build(capture(Calls(function).eval(), (torch.randn(4, 33),)))
    fuse_pointwise(graph)
    before = kinds(graph.nodes[0])
    keeps_numbers(graph, recognise_activations)
    assert kinds(graph.nodes[0]) == before


def test_inside_a_chain():
    s = Small((2, 3), (2, 3))
    y = s.binary("add", s.x[0], s.x[1])
    y = s.unary("tanh", s.binary("mul", y, s.unary("sigmoid", y)))
    graph = keeps_numbers(s.returns(y), fuse_pointwise, recognise_activations)
    assert kinds(graph.nodes[0]) == ["add", "silu", "tanh"]


def test_a_part_that_something_else_reads_stays_as_well():
    s = Small((2, 3))
    gate = s.unary("sigmoid", s.x[0])
    y = s.binary("add", s.binary("mul", s.x[0], gate), gate)
    graph = keeps_numbers(s.returns(y), fuse_pointwise, recognise_activations)
    assert sorted(kinds(graph.nodes[0])) == ["add", "sigmoid", "silu"]


def test_a_gate_of_another_tensor_is_no_silu():
    s = Small((2, 3), (2, 3))
    graph = keeps_numbers(s.returns(s.binary("mul", s.x[0], s.unary("sigmoid", s.x[1]))), fuse_pointwise, recognise_activations)
    assert kinds(graph.nodes[0]) == ["sigmoid", "mul"]
    assert ops(graph) == ["pointwise"]
