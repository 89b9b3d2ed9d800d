import math

import pytest
import torch
import torch.nn.functional as F
from small_graphs import keeps_numbers, ops
from torch import nn

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Graph
from drystone.graph.ops import Attention
from drystone.passes.absorb_into_attention import absorb_into_attention
from drystone.passes.recognise_attention import recognise_attention
from drystone.passes.remove_noops import remove_noops

B, H, T, S, D = 2, 3, 5, 7, 4
Q, K, V, M = (B, H, T, D), (B, H, S, D), (B, H, S, D), (B, 1, T, S)


class Calls(nn.Module):
    def __init__(self, function, **buffers):
        super().__init__()
        self.function = function
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def graph_of(function, *shapes, **buffers) -> Graph:
    return remove_noops(build(capture(Calls(function, **buffers).eval(), tuple(torch.randn(shape) for shape in shapes))))


def attention_in(graph: Graph):
    (found,) = [node for node in graph.nodes if isinstance(node.op, Attention)]
    assert "aten" not in ops(graph) and "softmax" not in ops(graph)
    return found


def _bmm(self, q, k, v, m):
    scores = torch.bmm(q.reshape(B * H, T, D), k.reshape(B * H, S, D).transpose(1, 2)).view(B, H, T, S) * 0.5 + m
    weights = F.softmax(scores, -1).view(B * H, T, S)
    return torch.bmm(weights, v.reshape(B * H, S, D)).view(B, H, T, D)


def _bias_and_mask(self, q, k, v, m):
    scores = q @ k.transpose(-1, -2)
    return F.dropout(F.softmax(scores + (m * 2) + self.bias, -1), 0.1, False) @ v


def _baddbmm(self, q, k, v, m):
    scores = torch.baddbmm(
        self.bias.expand(B, H, T, S).reshape(B * H, T, S), q.reshape(B * H, T, D), k.reshape(B * H, S, D).mT, alpha=0.5
    )
    weights = F.softmax(scores.view(B, H, T, S) + m, -1).view(B * H, T, S)
    return torch.bmm(weights, v.reshape(B * H, S, D)).view(B, H, T, D)


SPELLINGS = {
    "scaled": lambda self, q, k, v, m: torch.softmax(q @ k.transpose(-1, -2) * 0.5 + m, -1) @ v,
    "divided": lambda self, q, k, v, m: torch.softmax(m + torch.matmul(q, k.transpose(2, 3)) / math.sqrt(D), 3) @ v,
    "query-scaled": lambda self, q, k, v, m: torch.softmax((q * 0.5) @ k.mT + m, -1) @ v,
    "negative": lambda self, q, k, v, m: torch.softmax((q @ k.mT) * -2 + m, -1) @ v,
    "without-mask": lambda self, q, k, v, m: torch.softmax(q @ k.mT, -1) @ v + m.sum(),
    "key-as-it-lies": lambda self, q, k, v, m: torch.softmax(q @ k.reshape(B, H, D, S) + m, -1) @ v,
    "bmm": _bmm,
    "baddbmm": _baddbmm,
    "factor-a-head": lambda self, q, k, v, m: torch.softmax(q @ k.mT * self.factor + m, -1) @ v,
    "bias-and-mask": _bias_and_mask,
    "row-mask": lambda self, q, k, v, m: torch.softmax(q @ k.mT + m[:, :, :1], -1) @ v,
    "large-mask": lambda self, q, k, v, m: torch.softmax(q @ k.mT + m.expand(B, H, T, S), -1) @ v,
    "permuted-result": lambda self, q, k, v, m: (torch.softmax(q @ k.mT + m, -1) @ v).transpose(1, 2).reshape(B, T, H * D),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name):
    graph = graph_of(SPELLINGS[name], Q, K, V, M, bias=torch.randn(1, H, T, S), factor=torch.rand(H, 1, 1) + 1)
    keeps_numbers(graph, recognise_attention, remove_noops, absorb_into_attention)
    node = attention_in(graph)
    assert node.op.has_mask == (name != "without-mask")
    expected = {"scaled": 0.5, "divided": 0.5, "bmm": 0.5, "baddbmm": 0.5, "negative": -2.0}
    if name in expected:
        assert node.op.scale == expected[name]
    assert node.op.heads_first == (True, True, True, name != "permuted-result")


def _three_axes(self, q, k, v):
    return torch.bmm(torch.softmax(torch.bmm(q, k.mT) * 0.5, -1), v)


def test_three_axes():
    graph = graph_of(_three_axes, (6, T, D), (6, S, D), (6, S, D))
    keeps_numbers(graph, recognise_attention, remove_noops)
    assert attention_in(graph).output.shape == (6, 1, T, D)


def _windows(self, q, k, v):
    """Swin: windows of an image are in the batch, and each has its mask."""
    scores = q @ k.transpose(-1, -2) + self.bias
    scores = scores.view(1, B, H, T, S) + self.mask
    return torch.softmax(scores.view(B, H, T, S), -1) @ v


def test_masks_of_windows():
    graph = graph_of(_windows, Q, K, V, bias=torch.randn(1, H, T, S), mask=torch.randn(1, B, 1, T, S))
    keeps_numbers(graph, recognise_attention, remove_noops)
    assert attention_in(graph).inputs[3].shape == (B, H, T, S)


def test_masks_of_windows_of_several_images():
    def windows(self, q, k, v):
        scores = (q @ k.mT).view(2, 3, H, T, S) + self.mask
        return torch.softmax(scores.view(6, H, T, S), -1) @ v

    graph = graph_of(windows, (6, H, T, D), (6, H, S, D), (6, H, S, D), mask=torch.randn(1, 3, 1, T, S))
    keeps_numbers(graph, recognise_attention, remove_noops)
    assert attention_in(graph).inputs[3].shape == (6, 1, T, S)


def test_a_row_of_hidden_keys_stays_nan():
    mask = torch.zeros(T, S)
    mask[2] = -math.inf
    graph = graph_of(lambda self, q, k, v: torch.softmax(q @ k.mT + self.mask, -1) @ v, Q, K, V, mask=mask)
    recognise_attention(graph)
    assert attention_in(graph).op.nan_if_hidden
    graph = graph_of(lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, self.mask), Q, K, V, mask=mask)
    assert not attention_in(graph).op.nan_if_hidden


@pytest.mark.parametrize("low", [-math.inf, torch.finfo(torch.float32).min])
def test_constant_masks(low):
    triangle = torch.zeros(T, T).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), low)[None, None]
    for mask, causal in ((triangle, True), (torch.zeros(1, 1, T, T), False)):
        graph = graph_of(lambda self, q, k, v: torch.softmax(q @ k.mT + self.mask, -1) @ v, Q, Q, Q, mask=mask)
        keeps_numbers(graph, recognise_attention)
        assert attention_in(graph).op.causal == causal and not attention_in(graph).op.has_mask
        graph = graph_of(lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, self.mask), Q, Q, Q, mask=mask == 0)
        assert attention_in(graph).op.causal == causal and not attention_in(graph).op.has_mask
    other = triangle.clone()
    other[..., 1, 0] = -0.5
    graph = graph_of(lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, self.mask), Q, Q, Q, mask=other)
    assert attention_in(graph).op.has_mask and not attention_in(graph).op.causal


OTHERS = {
    "weights-are-read": lambda self, q, k, v, m: (w := torch.softmax(q @ k.mT + m, -1), w @ v),
    "scores-are-read": lambda self, q, k, v, m: (s := q @ k.mT, torch.softmax(s + m, -1) @ v),
    "mask-is-scaled": lambda self, q, k, v, m: torch.softmax((q @ k.mT + m) * 2, -1) @ v,
    "mask-is-scaled-a-head": lambda self, q, k, v, m: torch.softmax((q @ k.mT + m) * self.factor, -1) @ v,
    "scaled-a-key": lambda self, q, k, v, m: torch.softmax((q @ k.mT) * m[:, :, :1], -1) @ v,
    "another-axis": lambda self, q, k, v, m: torch.softmax(q @ k.mT + m, -2) @ v,
    "clamped": lambda self, q, k, v, m: torch.softmax((q @ k.mT + m).clamp(-1, 1), -1) @ v,
    "shifted": lambda self, q, k, v, m: torch.softmax((q @ k.mT + m) + 1, -1) @ v,
    "no-softmax": lambda self, q, k, v, m: (q @ k.mT + m) @ v,
    "weights-change": lambda self, q, k, v, m: (torch.softmax(q @ k.mT + m, -1) * 2) @ v,
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_that_look_alike_stay(name):
    graph = graph_of(OTHERS[name], Q, K, V, M, factor=torch.rand(H, 1, 1) + 1)
    keeps_numbers(graph, recognise_attention)
    assert "attention" not in ops(graph)
