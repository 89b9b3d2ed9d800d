"""Builder and reference interpreter: what they make of a module equals the module in float64, out of the operators expected."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import needs_newer_export
from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Graph
from drystone.graph.instructions import PointwiseOp
from drystone.graph.interpreter import run
from drystone.graph.ops import Aten, Pointwise
from small_models import Calls


def randomize(module: nn.Module) -> nn.Module:
    """Statistics and parameters that leave nothing at 0 or 1, where a mistake would not show."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return module.eval()


def graph_of(module: nn.Module, *inputs: Any) -> Graph:
    graph = build(capture(module, inputs, {}))
    graph.check()
    return graph


def ops(graph: Graph) -> list[str]:
    return [node.op.name for node in graph]


def check(module: nn.Module, *inputs: torch.Tensor, tolerance: float = 2e-7) -> Graph:
    """Build, run in float64, compare with the module in float64; give the graph."""
    captured = capture(module, inputs, {})
    graph = build(captured)
    graph.check()
    results = run(graph, [x.clone() for x in inputs], dtype=torch.float64)
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(*(x.double() if x.is_floating_point() else x.clone() for x in inputs))
    got = captured.signature.unflatten(results)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    return graph


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (2, 8, 7, 6)), generator=torch.Generator().manual_seed(1))


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9), "conv"),
    "conv2d": (nn.Conv2d(8, 6, 3, stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 8, 9, 8), "conv"),
    "conv2d grouped": (nn.Conv2d(8, 12, 3, groups=4, bias=False), (2, 8, 7, 6), "conv"),
    "conv2d depthwise": (nn.Conv2d(8, 8, 3, groups=8, padding=1), (2, 8, 7, 6), "conv"),
    "conv2d same": (nn.Conv2d(8, 6, (4, 3), padding="same", dilation=(1, 2)), (2, 8, 7, 6), "conv"),
    "conv2d valid": (nn.Conv2d(8, 6, 3, padding="valid"), (2, 8, 7, 6), "conv"),
    "conv2d reflect": (nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"), (2, 8, 7, 6), "pad conv"),
    "conv3d": (nn.Conv3d(4, 6, 2, stride=(1, 2, 1)), (2, 4, 4, 5, 3), "conv"),
    "linear": (nn.Linear(6, 5), (2, 3, 6), "linear"),
    "linear without bias": (nn.Linear(6, 5, bias=False), (2, 6), "linear"),
    "batch norm": (nn.BatchNorm2d(8, eps=0.01), (2, 8, 7, 6), "pointwise"),
    "batch norm 1d": (nn.BatchNorm1d(8), (3, 8), "pointwise"),
    "batch norm plain": (nn.BatchNorm2d(8, affine=False), (2, 8, 7, 6), "pointwise"),
    "instance norm": (nn.InstanceNorm2d(8, affine=True), (2, 8, 7, 6), "group_norm"),
    "instance norm, tracked": (nn.InstanceNorm2d(8, track_running_stats=True), (2, 8, 7, 6), "pointwise"),
    "group norm": (nn.GroupNorm(2, 8, eps=0.1), (2, 8, 7, 6), "group_norm"),
    "group norm plain": (nn.GroupNorm(2, 8, affine=False), (2, 8, 7), "group_norm"),
    "layer norm": (nn.LayerNorm(6, eps=0.1), (2, 8, 7, 6), "layer_norm"),
    "layer norm of two axes": (nn.LayerNorm((7, 6), bias=False), (2, 8, 7, 6), "layer_norm"),
    "rms norm": (nn.RMSNorm(6, eps=0.1), (2, 8, 6), "layer_norm"),
    "rms norm of two axes, plain": (nn.RMSNorm((8, 6), elementwise_affine=False), (2, 8, 6), "layer_norm"),
    "layer norm plain": (nn.LayerNorm(6, elementwise_affine=False), (2, 8, 6), "layer_norm"),
    "local response norm": (nn.LocalResponseNorm(3, alpha=0.3, beta=0.6, k=2.0), (2, 8, 7, 6), "lrn"),
    "local response norm, even": (nn.LocalResponseNorm(4, alpha=0.3, beta=0.5), (2, 8, 7), "lrn"),
    "local response norm, 3d": (nn.LocalResponseNorm(5, beta=1.0), (2, 8, 4, 3, 2), "lrn"),
    "max pool 1d": (nn.MaxPool1d(3, 2, padding=1), (2, 8, 9), "pool"),
    "max pool": (nn.MaxPool2d(3, 2, padding=1), (2, 8, 7, 6), "pool"),
    "max pool ceil": (nn.MaxPool2d((3, 2), 2, ceil_mode=True), (2, 8, 8, 7), "pool"),
    "max pool dilated": (nn.MaxPool2d(3, 1, padding=1, dilation=(2, 1)), (2, 8, 7, 6), "pool"),
    "max pool, stride by default": (nn.MaxPool2d(2), (2, 8, 7, 6), "pool"),
    "max pool 3d": (nn.MaxPool3d(2, 2, ceil_mode=True), (2, 4, 5, 4, 3), "pool"),
    "avg pool 1d": (nn.AvgPool1d(3, 2, padding=1), (2, 8, 9), "pool"),
    "avg pool": (nn.AvgPool2d(3, 2, padding=1), (2, 8, 7, 6), "pool"),
    "avg pool ceil": (nn.AvgPool2d(3, 2, padding=1, ceil_mode=True), (2, 8, 8, 6), "pool"),
    "avg pool without padding": (nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), (2, 8, 8, 6), "pool"),
    "avg pool, own divisor": (nn.AvgPool2d(3, 1, padding=1, divisor_override=5), (2, 8, 7, 6), "pool"),
    "avg pool 3d": (nn.AvgPool3d(2), (2, 4, 5, 4, 3), "pool"),
    "adaptive avg pool": (nn.AdaptiveAvgPool2d((3, 4)), (2, 8, 7, 6), "pool"),
    "adaptive avg pool, one axis whole": (nn.AdaptiveAvgPool2d((None, 1)), (2, 8, 7, 6), "pool"),
    "adaptive avg pool 1d": (nn.AdaptiveAvgPool1d(3), (2, 8, 7), "pool"),
    "adaptive avg pool, global": (nn.AdaptiveAvgPool2d(1), (2, 8, 7, 6), "reduce"),
    "adaptive max pool": (nn.AdaptiveMaxPool2d((3, 4)), (2, 8, 7, 6), "pool"),
    "adaptive max pool, global": (nn.AdaptiveMaxPool2d(1), (2, 8, 7, 6), "pool"),
    "nearest": (nn.Upsample(scale_factor=2), (2, 8, 7, 6), "resize"),
    "nearest by 1.7": (nn.Upsample(scale_factor=1.7), (2, 8, 7, 6), "resize"),
    "nearest down": (nn.Upsample(size=(3, 5)), (2, 8, 7, 6), "resize"),
    "nearest 1d": (nn.Upsample(size=11), (2, 8, 7), "resize"),
    "nearest 3d": (nn.Upsample(scale_factor=(2, 1, 3)), (2, 4, 3, 4, 2), "resize"),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 8, 7, 6), "resize"),
    "bilinear by 1.7": (nn.Upsample(scale_factor=1.7, mode="bilinear"), (2, 8, 7, 6), "resize"),
    "bilinear aligned": (nn.Upsample(size=(9, 1), mode="bilinear", align_corners=True), (2, 8, 7, 6), "resize"),
    "linear 1d": (nn.Upsample(size=4, mode="linear"), (2, 8, 7), "resize"),
    "trilinear": (nn.Upsample(scale_factor=(2, 1.5, 1), mode="trilinear"), (2, 4, 3, 4, 2), "resize"),
    "channel shuffle": (nn.ChannelShuffle(2), (2, 8, 7, 6), "reshape permute reshape"),
    "pixel shuffle": (nn.PixelShuffle(2), (2, 8, 7, 6), "reshape permute reshape"),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (2, 8, 6, 4), "reshape permute reshape"),
    "zero pad": (nn.ZeroPad2d((1, 2, 0, 3)), (2, 8, 7, 6), "pad"),
    "constant pad": (nn.ConstantPad1d((1, -2), 3.5), (2, 8, 7), "pad"),
    "reflection pad": (nn.ReflectionPad2d((1, 2, 3, 0)), (2, 8, 7, 6), "pad"),
    "replication pad": (nn.ReplicationPad3d(1), (2, 4, 3, 4, 2), "pad"),
    "flatten": (nn.Flatten(), (2, 8, 7, 6), "reshape"),
    "unflatten": (nn.Unflatten(1, (2, 4)), (2, 8, 7), "reshape"),
    "softmax": (nn.Softmax(1), (2, 8, 7), "softmax"),
    "dropout": (nn.Dropout(), (2, 8), ""),
    "dropout 2d": (nn.Dropout2d(), (2, 8, 7, 6), ""),
    "identity": (nn.Identity(), (2, 8), ""),
    "glu": (nn.GLU(1), (2, 8, 7), "slice slice pointwise"),
    "prelu": (nn.PReLU(8), (2, 8, 7, 6), "pointwise"),
    "prelu of one slope": (nn.PReLU(), (2, 8, 7, 6), "pointwise"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_newer_export if name == "instance norm" else ()) for name in LAYERS]
)
def test_layer(name: str) -> None:
    module, shape, expected = LAYERS[name]
    assert ops(check(randomize(module), image(*shape))) == expected.split()


ACTIVATIONS: dict[str, tuple[nn.Module, list[str]]] = {
    "relu": (nn.ReLU(), ["relu"]),
    "relu_": (nn.ReLU(inplace=True), ["relu"]),
    "relu6": (nn.ReLU6(), ["clamp"]),
    "leaky_relu_": (nn.LeakyReLU(0.2, inplace=True), ["leaky_relu"]),
    "elu": (nn.ELU(0.7), ["elu"]),
    "selu": (nn.SELU(), ["elu", "affine"]),
    "celu": (nn.CELU(0.7), ["affine", "elu", "affine"]),
    "rrelu": (nn.RReLU(), ["leaky_relu"]),
    "gelu": (nn.GELU(), ["gelu_erf"]),
    "gelu tanh": (nn.GELU("tanh"), ["gelu_tanh"]),
    "silu_": (nn.SiLU(inplace=True), ["silu"]),
    "mish": (nn.Mish(), ["mish"]),
    "hardswish_": (nn.Hardswish(inplace=True), ["hardswish"]),
    "hardsigmoid": (nn.Hardsigmoid(), ["hardsigmoid"]),
    "hardtanh_": (nn.Hardtanh(-0.5, 0.25, inplace=True), ["clamp"]),
    "sigmoid": (nn.Sigmoid(), ["sigmoid"]),
    "tanh": (nn.Tanh(), ["tanh"]),
    "threshold": (nn.Threshold(0.0, 0.0), ["relu"]),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    module, expected = ACTIVATIONS[name]
    module.eval()
    graph = check(Calls(lambda x: module(x.neg())).eval(), 3 * image())
    assert [[op.kind for op in node.op.ops] for node in graph] == [["neg"], expected]


FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]] = {
    "add number": (lambda x: x + 2, ["affine"]),
    "add number, alpha": (lambda x: torch.add(x, 2, alpha=3), ["affine"]),
    "number minus": (lambda x: 2 - x, ["affine"]),
    "minus number": (lambda x: x - 2, ["affine"]),
    "mul number": (lambda x: x * 2, ["affine"]),
    "mul constant number": (lambda x: x * torch.tensor(2, dtype=torch.int64), ["affine"]),
    "div number": (lambda x: x / 4, ["affine"]),
    "number over": (lambda x: 2 / x, ["reciprocal", "affine"]),
    "div by zero": (lambda x: x / 0.0, ["div"]),
    "add": (lambda x: x + x[:1], ["slice", "add"]),
    "add_, alpha": (lambda x: x.clone().add_(x[:1], alpha=0.5), ["slice", "affine add"]),
    "sub": (lambda x: x - x[..., :1], ["slice", "sub"]),
    "rsub": (lambda x: torch.rsub(x, x[:1], alpha=2), ["slice", "affine add"]),
    "mul": (lambda x: x * x, ["mul"]),
    "mul vector constant": (lambda x: x * torch.tensor([1.5, 2, 3, 4, 5, 6]).to(x.dtype), ["mul"]),
    "div": (lambda x: x / x.exp(), ["exp", "div"]),
    "maximum": (lambda x: torch.maximum(x, -x), ["neg", "maximum"]),
    "minimum": (lambda x: torch.minimum(x, x[:1]), ["slice", "minimum"]),
    "clamp": (lambda x: x.clamp(-0.5, 0.25), ["clamp"]),
    "clamp below": (lambda x: x.clamp(min=0.1), ["clamp"]),
    "clamp above": (lambda x: x.clamp_max(0.1), ["clamp"]),
    "clamp by tensors": (lambda x: x.clamp(min=x.neg(), max=x[:1]), ["neg", "slice", "maximum", "minimum"]),
    "square": (lambda x: x**2, ["square"]),
    "cube": (lambda x: x**3, ["pow"]),
    "pow 1": (lambda x: x**1 + 1, ["affine"]),
    "root": (lambda x: x.abs() ** 0.5, ["abs", "sqrt"]),
    "pow tensor": (lambda x: x.abs() ** x, ["abs", "pow2"]),
    "number to the tensor": (lambda x: 2**x, ["pow2"]),
    "exp": (torch.exp, ["exp"]),
    "log": (lambda x: x.abs().log(), ["abs", "log"]),
    "log1p": (lambda x: x.abs().log1p(), ["abs", "log1p"]),
    "rsqrt": (lambda x: x.abs().rsqrt(), ["abs", "rsqrt"]),
    "erf": (torch.erf, ["erf"]),
    "sin": (torch.sin, ["sin"]),
    "cos_": (lambda x: x.clone().cos_(), ["cos"]),
    "floor": (torch.floor, ["floor"]),
    "round": (lambda x: torch.round(5 * x), ["affine", "round"]),
    "sign": (torch.sign, ["sign"]),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=0.5), ["mul affine add"]),
    "softplus": (lambda x: F.softplus(x, beta=2.0), ["abs affine exp log1p affine relu add"]),
    "logsigmoid": (F.logsigmoid, ["abs neg exp log1p neg relu add neg"]),
    "softsign": (F.softsign, ["abs", "affine", "div"]),
    "cat": (lambda x: torch.cat([x, x.neg(), x], dim=-3), ["neg", "cat"]),
    "cat of one": (lambda x: torch.cat([x, x[:0]]), []),
    "stack": (lambda x: torch.stack([x, x], dim=-1), ["reshape", "reshape", "cat"]),
    "split": (lambda x: x.split(3, 1)[2], ["slice"]),
    "split with sizes": (lambda x: x.split([3, 5], 1)[1], ["slice"]),
    "chunk": (lambda x: torch.add(*x.chunk(2, 1)), ["slice", "slice", "add"]),
    "unbind": (lambda x: x.unbind(1)[3], ["slice", "reshape"]),
    "slice": (lambda x: x[:, 1:100:3, -3:], ["slice", "slice"]),
    "select": (lambda x: x[:, -2], ["slice", "reshape"]),
    "narrow": (lambda x: x.narrow(1, 2, 3), ["slice"]),
    "no slice": (lambda x: x[:, 0:8], []),
    "roll": (lambda x: x.roll((1, -2), (2, 3)), ["take"]),
    "roll to the same": (lambda x: x.roll((x.shape[2], 2, -2), (2, 3, 3)), []),
    "flip": (lambda x: x.flip(0, -1), ["take"]),
    "rot90": (lambda x: x.rot90(1, (2, 3)), ["permute", "take"]),
    "permute": (lambda x: x.permute(0, -1, 1, 2), ["permute"]),
    "permute to the same": (lambda x: x.permute(0, 1, 2, 3), []),
    "transpose": (lambda x: x.transpose(-1, 1).contiguous(), ["permute"]),
    "movedim": (lambda x: x.movedim((0, 1), (2, 0)), ["permute"]),
    "mT": (lambda x: x.mT, ["permute"]),
    "numpy_T": (lambda x: x.sum(0)[:6, :6].T, ["reduce", "slice", "slice", "permute"]),
    "t": (lambda x: x.flatten(1).t(), ["reshape", "permute"]),
    "view": (lambda x: x.view(x.size(0), -1), ["reshape"]),
    "squeeze": (lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1), ["reshape", "reshape", "reshape"]),
    "expand": (lambda x: x[:, :1].expand(-1, 4, -1, -1), ["slice", "expand"]),
    "expand to higher rank": (lambda x: x[:1].expand(3, 2, 8, 7, 6), ["slice", "reshape", "expand"]),
    "repeat": (lambda x: x.repeat(1, 3, 1, 1), ["reshape", "expand", "reshape"]),
    "mean of dims": (lambda x: x.mean((-1, 1)), ["reduce"]),
    "mean of one dim": (lambda x: x.mean(1, keepdim=True), ["reduce"]),
    "mean": (lambda x: x.mean(), ["reduce"]),
    "sum": (lambda x: x.sum((2, 3), keepdim=True), ["reduce"]),
    "where": (lambda x: torch.where(x > 0, x, 0.5), ["elementwise", "elementwise"]),
    "masked_fill": (lambda x: x.masked_fill(~(x < 0), -torch.inf), ["elementwise", "elementwise", "elementwise"]),
    "times truth": (lambda x: x * (x > 0), ["elementwise", "convert", "mul"]),
    "places": (lambda x: x[x.argmax(0)[0, 0]], ["aggregate", "slice", "reshape", "slice", "reshape", "index"]),
    "any": (lambda x: (x > 2).any(1) | (x == 0).all(1), ["elementwise", "aggregate", "elementwise", "aggregate", "elementwise"]),
    "einsum": (lambda x: torch.einsum("bchw,bdhw->bdc", x, x), ["reshape", "permute", "reshape", "matmul", "permute"]),
    "einsum of one operand": (lambda x: torch.einsum("bchw->bwc", x), ["reduce", "permute"]),
    "einsum of heads": (lambda x: torch.einsum("bchw,bdhw->bhcd", x, x), ["permute", "permute", "matmul"]),
    "norm": (lambda x: x.norm(dim=1), ["square", "reduce", "sqrt"]),
    "norm of order 1": (lambda x: x.norm(1, dim=(1, 2), keepdim=True), ["abs", "reduce"]),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, dim=1), ["reshape", "expand", "reshape"]),
    "repeat_interleave of all": (lambda x: x.repeat_interleave(2), ["reshape", "expand", "reshape"]),
    "interpolated to a size": (lambda x: F.interpolate(x, size=(5, 12), mode="bilinear"), ["resize"]),
    "scale recomputed": (lambda x: F.interpolate(x, scale_factor=1.7, recompute_scale_factor=True), ["resize"]),
}


def described(graph: Graph) -> list[str]:
    """Operators; pointwise nodes by their instructions."""
    return [" ".join(op.kind for op in node.op.ops) if isinstance(node.op, Pointwise) else node.op.name for node in graph]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    function, expected = FUNCTIONS[name]
    assert described(check(Calls(function).eval(), image())) == expected


FALLBACKS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "softplus with a low threshold": (lambda x: F.softplus(x, threshold=0.5), "a low threshold"),
    "negative divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=-2), "a negative number"),
    "floor division": (lambda x: torch.div(x, 0.3, rounding_mode="floor"), "a rounding division"),
    "matmul of two results": (lambda x: x @ x.transpose(-1, -2), "computed matrices"),
    "max with indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1], "indices"),
    "several results": (lambda x: torch.add(*torch.var_mean(x, 1)), "no native implementation"),
    "circular": (lambda x: F.pad(x, (1, 1, 0, 1), mode="circular"), "circular"),
    "norm": (lambda x: x.norm(3, dim=1), "a norm of order 3"),
    "median of few": (lambda x: x.median(1).values, "median of few entries"),
    "kthvalue of few": (lambda x: x.kthvalue(2, 3).values, "kthvalue of few entries"),
    "another dtype": (lambda x: x.to(torch.float16).to(x.dtype), "dtype"),
    "einsum of a diagonal": (lambda x: torch.einsum("bchh->bch", x[..., :6, :]), "a letter twice"),
    "einsum that broadcasts": (lambda x: torch.einsum("bchw,bchw->bhw", x, x[:, :1]), "of two sizes"),
    "einsum over an ellipsis": (lambda x: torch.einsum("...w->w", x), "an ellipsis"),
    "random": (lambda x: x + 0 * torch.rand(6, dtype=x.dtype), "no native implementation"),
    "empty": (lambda x: x[:, 3:3].mean((2, 3)), "an empty tensor"),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_is_not_native_runs_as_aten(name: str) -> None:
    function, reason = FALLBACKS[name]
    module = Calls(function).eval()
    graph = graph_of(module, image())
    reasons = [node.op.reason for node in graph if isinstance(node.op, Aten)]
    assert any(reason in found for found in reasons), reasons
    torch.testing.assert_close(run(graph, [image()])[0], module(image()))


def test_scalars_and_dtypes_of_instructions() -> None:
    graph = graph_of(Calls(lambda x: 3 - x * 2).eval(), image())
    scale, shift = (node.op.ops[0] for node in graph)
    assert (scale.alpha, scale.beta, shift.alpha, shift.beta) == (2.0, 0.0, -1.0, 3.0)


def test_bfloat16() -> None:
    module = nn.Sequential(nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).eval().to(torch.bfloat16)
    x = image().to(torch.bfloat16)
    graph = graph_of(module, x)
    assert ops(graph) == ["conv", "pointwise", "pointwise"]
    (got,) = run(graph, [x])
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, module(x), rtol=0.02, atol=0.02)


def test_conversions() -> None:
    graph = graph_of(Calls(lambda x: (x.to(torch.bfloat16) * 2).float() + x).eval(), image())
    assert described(graph) == ["convert", "affine", "convert", "add"]
    assert [node.output.dtype for node in graph] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(run(graph, [image()])[0], (image().bfloat16() * 2).float() + image(), rtol=0, atol=0)


def test_operands_of_different_dtypes_are_left_to_torch() -> None:
    graph = graph_of(Calls(lambda x, y: x * y).eval(), image(), image().to(torch.bfloat16))
    assert ops(graph) == ["aten"] and "different dtypes" in graph.nodes[0].op.reason


def test_constants_are_the_models_own_tensors() -> None:
    module = nn.Conv2d(8, 6, 3).eval()
    weight, bias = graph_of(module, image()).nodes[0].inputs[1:]
    assert weight.is_constant and bias.is_constant
    assert (weight.constant.data_ptr(), bias.constant.data_ptr()) == (module.weight.data_ptr(), module.bias.data_ptr())
    assert (weight.name, bias.name) == ("weight", "bias")


def test_reference_applies_epilogues() -> None:
    x, weight, residual = image(), torch.randn(8, 8, 1, 1), image() + 1
    graph = graph_of(Calls(lambda x, y: F.conv2d(x, weight) + y).eval(), x, residual)
    conv, add = graph.nodes
    chain = [PointwiseOp("sub", (("in", 0), ("in", 1))), PointwiseOp("relu", (("reg", 0),))]
    conv.inputs, conv.epilogue = [*conv.inputs, add.inputs[1]], chain
    graph.outputs = [conv.output]
    torch.testing.assert_close(run(graph.prune(), [x, residual])[0], (F.conv2d(x, weight) - residual).relu())


class Projection(nn.Module):
    """x @ W + b with W stored as (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = x.reshape(-1, 6)
        return (
            torch.addmm(self.bias, flat, self.weight),
            torch.addmm(self.bias, flat, self.weight, beta=0.5, alpha=2),
            torch.addmm(self.bias * torch.nan, flat, self.weight, beta=0, alpha=2),
            x @ self.weight,
            torch.mm(flat, self.weight),
        )


def test_products_with_a_constant_matrix() -> None:
    graph = check(Projection().eval(), image())
    assert ops(graph) == ["reshape", "linear", "linear", "pointwise", "linear", "pointwise", "linear", "linear"]


def test_scaled_products_in_bfloat16_are_left_to_torch() -> None:
    bias, weight = torch.randn(3, 3).bfloat16(), torch.randn(6, 3).bfloat16()
    module = Calls(lambda x: torch.addmm(bias, x, weight, alpha=0.6, beta=0.2)).eval()
    graph = graph_of(module, image(3, 6).bfloat16())
    assert ops(graph) == ["aten"] and "rounds once" in graph.nodes[0].op.reason


def test_constant_subgraphs_are_computed_once() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(6).flip(0).to(x.dtype) / 6
        return x * mask + torch.zeros_like(x[:1])

    assert ops(check(Calls(forward).eval(), image())) == ["pointwise", "pointwise"]


def in_place_after_view(x: torch.Tensor) -> torch.Tensor:
    x = x + 1
    view = x.view(2, -1)
    x.relu_()
    return view + 1  # sees the relu


def in_place_through_view(x: torch.Tensor) -> torch.Tensor:
    x = x + 1
    x[:, 2:4].mul_(3)
    return x


def in_place_assignment(x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(2, 8, 7, 6, dtype=x.dtype)
    out[:, 1:] = x[:, :-1]
    return out


def in_place_alias(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    same = y.contiguous()
    copied = y.clone()
    y.relu_()
    return y + same + copied * 2


def in_place_then_old_name(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    z = y.add_(1)
    return y * z


def under_no_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x.exp()
    with torch.autocast("cpu", enabled=False):
        return y + x


@pytest.mark.parametrize(
    "function",
    [in_place_after_view, in_place_through_view, in_place_assignment, in_place_alias, in_place_then_old_name, under_no_grad],
)
def test_in_place_operators_keep_their_meaning(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    check(Calls(function).eval(), image())


def test_outputs_may_be_inputs_and_constants_and_twice_the_same() -> None:
    def forward(x: torch.Tensor) -> dict[str, Any]:
        y = x.relu()
        return {"x": x, "y": y, "again": y, "constant": torch.ones(3, dtype=x.dtype), "none": None, "number": 3}

    graph = check(Calls(forward).eval(), image())
    assert graph.outputs[0] is graph.inputs[0] and graph.outputs[1] is graph.outputs[2]
    assert graph.outputs[3].is_constant


def test_symbolic_sizes_take_the_examples_values() -> None:
    module = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Flatten(), Calls(lambda x: x.view(x.size(0) * 2, -1))).eval()
    captured = capture(module, (image(),), {}, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    graph = build(captured)
    assert graph.inputs[0].shape == (2, 8, 7, 6) and graph.outputs[0].shape == (4, 40)
    assert ops(graph) == ["conv", "reshape", "reshape"]


def _models() -> dict[str, Callable[[], tuple[nn.Module, int]]]:
    t = pytest.importorskip("transformers")

    def resnet() -> tuple[nn.Module, int]:
        config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=5)
        return t.ResNetForImageClassification(config), 32

    def mobilenet() -> tuple[nn.Module, int]:
        return t.MobileNetV2ForImageClassification(t.MobileNetV2Config(depth_multiplier=0.25, num_labels=5)), 64

    def regnet() -> tuple[nn.Module, int]:
        config = t.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], groups_width=4, layer_type="y", num_labels=5)
        return t.RegNetForImageClassification(config), 32

    def efficientnet() -> tuple[nn.Module, int]:
        config = t.EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320, num_labels=5)
        return t.EfficientNetForImageClassification(config), 64

    def convnext() -> tuple[nn.Module, int]:
        config = t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, num_labels=5)
        return t.ConvNextForImageClassification(config), 32

    return {"resnet": resnet, "mobilenet_v2": mobilenet, "regnet": regnet, "efficientnet": efficientnet, "convnext": convnext}


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "regnet", "efficientnet", "convnext"])
def test_model(name: str) -> None:
    torch.manual_seed(0)
    model, size = _models()[name]()
    model.eval()
    # Weights as initialised, statistics that are not trivial.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    graph = check(model, image(1, 3, size, size), tolerance=1e-5)
    assert "aten" not in ops(graph)
