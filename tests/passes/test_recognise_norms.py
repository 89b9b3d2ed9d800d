import pytest
import torch
import torch.nn.functional as F
from small_graphs import Small, keeps_numbers, ops
from torch import nn

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.passes.combine_affine import combine_affine
from drystone.passes.fold_batch_norm import fold_batch_norm
from drystone.passes.fold_constants import fold_constants
from drystone.passes.fuse_pointwise import fuse_pointwise
from drystone.passes.recognise_norms import recognise_norms


class Spelled(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(8))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return self.function(x, self.weight[:, None, None], self.bias[:, None, None])


def _convnext(x, weight, bias):
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return weight * ((x - mean) / torch.sqrt(variance + 1e-6)) + bias


def _shared(x, weight, bias):
    centred = x - x.mean(1, keepdim=True)
    return centred * torch.rsqrt(torch.mean(centred * centred, 1, keepdim=True) + 1e-6) * weight + bias


def _unsqueezed(x, weight, bias):
    centred = x - x.mean(1).unsqueeze(1)
    variance = (centred**2).mean(1).unsqueeze(1)
    return centred * (1 / (variance + 1e-6).sqrt()) * weight + bias


def _with_variance(x, weight, bias):
    return (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-6) * weight + bias


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("function", [_convnext, _shared, _unsqueezed, _with_variance])
def test_spellings(function, merged):
    graph = build(capture(Spelled(function).eval(), (torch.randn(2, 8, 5, 5),)))
    first = [fuse_pointwise] if merged else []
    keeps_numbers(graph, fold_constants, *first, recognise_norms, fuse_pointwise, combine_affine, fold_batch_norm)
    assert ops(graph) == ["layer_norm"]
    assert graph.nodes[0].op.dims == (1,)
    assert graph.nodes[0].op.eps == 1e-6
    assert [value.shape for value in graph.nodes[0].inputs[1:]] == [(8,), (8,)]


def _rms(x, weight, bias):
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * weight + bias


def _rms_by_division(x, weight, bias):
    return weight * (x / ((x * x).mean(1, keepdim=True) + 1e-6).sqrt()) + bias


@pytest.mark.parametrize("function", [_rms, _rms_by_division])
def test_rms(function):
    graph = build(capture(Spelled(function).eval(), (torch.randn(2, 8, 5, 5),)))
    keeps_numbers(graph, fold_constants, recognise_norms, fuse_pointwise, combine_affine, fold_batch_norm)
    assert ops(graph) == ["layer_norm"]
    assert graph.nodes[0].op.centred is False and graph.nodes[0].op.eps == 1e-6


def _rms_of_another(x, weight, bias):
    return x * torch.rsqrt((x + 1).pow(2).mean(1, keepdim=True) + 1e-6)


def _uncentred(x, weight, bias):
    mean = x.mean(1, keepdim=True)
    return x / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)


def _other_axis(x, weight, bias):
    return (x - x.mean(1, keepdim=True)) / torch.sqrt((x - x.mean(1, keepdim=True)).pow(2).mean(2, keepdim=True) + 1e-6)


def _sample_variance(x, weight, bias):
    return (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True) + 1e-6)


def _eps_outside(x, weight, bias):
    return (x - x.mean(1, keepdim=True)) / (torch.sqrt(x.var(1, keepdim=True, unbiased=False)) + 1e-6)


def _scaled_variance(x, weight, bias):
    return (x - x.mean(1, keepdim=True)) / torch.sqrt(2 * x.var(1, keepdim=True, unbiased=False) + 1e-6)


def _another_variance(x, weight, bias):
    return (x - x.mean(1, keepdim=True)) / torch.sqrt((x - 1).pow(2).mean(1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    "function", [_another_variance, _rms_of_another, _uncentred, _other_axis, _sample_variance, _eps_outside, _scaled_variance]
)
def test_others_that_look_alike_stay(function):
    graph = build(capture(Spelled(function).eval(), (torch.randn(2, 8, 5, 5),)))
    keeps_numbers(graph, recognise_norms)
    assert "layer_norm" not in ops(graph)


def test_last_axes():
    s = Small((2, 3, 4, 5))
    x, dims = s.x[0], (2, 3)
    centred = s.binary("sub", x, s.mean(x, *dims))
    variance = s.unary("affine", s.mean(s.unary("square", centred), *dims), 1.0, 1e-5)
    y = s.binary("div", centred, s.unary("sqrt", variance))
    graph = keeps_numbers(s.returns(s.unary("relu", y)), recognise_norms)
    assert ops(graph) == ["layer_norm", "pointwise"]
    assert graph.nodes[0].op.dims == dims


def test_parts_that_others_read_stay():
    s = Small((2, 4, 5))
    x = s.x[0]
    centred = s.binary("sub", x, s.mean(x, 1))
    variance = s.unary("affine", s.mean(s.unary("square", centred), 1), 1.0, 1e-5)
    y = s.binary("div", centred, s.unary("sqrt", variance))
    graph = keeps_numbers(s.returns(y, centred), recognise_norms)
    assert ops(graph) == ["reduce", "pointwise", "layer_norm"]


def test_between_permutes():
    s = Small((2, 4, 5, 6))
    y = s.permute(s.layer_norm(s.permute(s.x[0], 0, 2, 3, 1), 3), 0, 3, 1, 2)
    graph = keeps_numbers(s.returns(y), recognise_norms)
    assert ops(graph) == ["layer_norm"]
    assert graph.nodes[0].op.dims == (1,)


def test_not_between_permutes_that_are_no_inverses_or_with_another_reader():
    s = Small((2, 4, 4, 4))
    y = s.permute(s.layer_norm(s.permute(s.x[0], 0, 2, 3, 1), 3), 0, 2, 3, 1)
    assert ops(keeps_numbers(s.returns(y), recognise_norms)) == ["permute", "layer_norm", "permute"]
    s = Small((2, 4, 5, 6))
    norm = s.layer_norm(s.permute(s.x[0], 0, 2, 3, 1), 3)
    graph = keeps_numbers(s.returns(s.permute(norm, 0, 3, 1, 2), norm), recognise_norms)
    assert ops(graph) == ["permute", "layer_norm", "permute"]


def test_local_response_norm_arrives_whole():
    graph = build(capture(nn.LocalResponseNorm(5).eval(), (torch.randn(2, 8, 5, 5),)))
    assert ops(keeps_numbers(graph, recognise_norms)) == ["lrn"]


def test_functional_layer_norm_stays():
    graph = build(capture(Spelled(lambda x, w, b: F.layer_norm(x, (5,))).eval(), (torch.randn(2, 8, 5, 5),)))
    assert ops(keeps_numbers(graph, recognise_norms)) == ["layer_norm"]
