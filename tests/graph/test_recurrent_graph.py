"""The graphs of recurrent layers, interpreted in float64, against torch's own layers. No native code."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from agreement import needs_newer_export
from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.interpreter import run
from drystone.graph.ops import Aten, Linear, Recurrent

KINDS = [(nn.LSTM, {}), (nn.LSTM, {"proj_size": 3}), (nn.GRU, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"})]


def graph_of(module, *inputs):
    return build(capture(module.eval().requires_grad_(False), inputs))


@needs_newer_export
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("layer", "more"), KINDS)
def test_layers(layer, more, batch_first, bias):
    module = layer(4, 5, 2, bias=bias, batch_first=batch_first, bidirectional=True, **more)
    x = torch.randn(2, 3, 4)
    graph = graph_of(module, x)
    assert [node.op.name for node in graph if isinstance(node.op, (Linear, Recurrent, Aten))] == ["linear", "recurrent"] * 2
    y, states = copy.deepcopy(module).double()(x.double())
    wanted = [y, *states] if isinstance(states, tuple) else [y, states]
    for got, want in zip(run(graph, [x], torch.float64), wanted, strict=True):
        torch.testing.assert_close(got, want)


@needs_newer_export
def test_gates_are_summed_in_float32():
    """Whatever the layer's dtype: what the inputs give is not rounded before the states' part is added."""
    graph = graph_of(nn.GRU(4, 5).bfloat16(), torch.randn(6, 2, 4).bfloat16())
    product, layer = graph.nodes
    assert product.output.dtype == torch.float32 and layer.output.dtype == torch.bfloat16
    assert layer.op.has_bias and not layer.op.has_state


def test_states_that_nothing_reads_are_not_gathered():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 5, 3)

        def forward(self, x):
            return self.lstm(x)[0]

    assert {node.op.name for node in graph_of(Sequence(), torch.randn(6, 2, 4))} == {"linear", "recurrent"}


def test_what_drops_is_left_to_torch():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList(nn.LSTM(4, 5, 2)._flat_weights)

        def forward(self, x):
            zeros = [x.new_zeros(2, 2, 5)] * 2
            return torch.lstm(x, zeros, list(self.weights), True, 2, 0.5, True, False, False)[0]

    (node,) = graph_of(Drops(), torch.randn(6, 2, 4)).nodes
    assert isinstance(node.op, Aten) and node.op.reason == "a recurrent layer that drops"
