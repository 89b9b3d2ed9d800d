"""Normalisations. Batch norm in inference is a scale and a shift; the others keep their name."""

from __future__ import annotations

import torch

from drystone.graph.builders.registry import Built, Declined, Emitter, builds
from drystone.graph.graph import Value
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import GroupNorm, LayerNorm

# How many times its spread a mean may be off zero for x * scale - mean * scale to be as exact as (x - mean) * scale, nearly.
FAR = 32


def per_channel(b: Emitter, x: Value, *steps: tuple[str, torch.Tensor]) -> Value:
    """The binary instructions ``steps``, one after the other, with operands of shape (C) along dimension 1."""
    shape = (-1,) + (1,) * (len(x.shape) - 2)
    constants = [b.constant(data.float().view(shape), {"mul": "scale"}.get(kind, "shift")) for kind, data in steps]
    running = [("in", 0), *(("reg", index) for index in range(len(steps)))]
    ops = [PointwiseOp(kind, (running[index], ("in", index + 1))) for index, (kind, _) in enumerate(steps)]
    return b.pointwise([x, *constants], ops)


def _batch_norm(
    b: Emitter,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    eps: float,
) -> Value:
    statistics = [running_mean, running_var]
    if any(value is None or not value.is_constant for value in statistics):
        raise Declined("a batch norm without running statistics")
    if any(value is not None and not value.is_constant for value in (weight, bias)):
        raise Declined("a batch norm whose weight is computed")
    # In float64: the folded constants are then as exact as float32 holds them.
    mean, var = (value.constant.double() for value in statistics if value is not None and value.is_constant)
    scale = (var + eps).rsqrt()
    far = bool((mean * scale).abs().max() > FAR)
    if weight is not None and weight.is_constant:
        scale = scale * weight.constant.double()
    shift = bias.constant.double() if bias is not None and bias.is_constant else torch.zeros_like(mean)
    if far:
        return per_channel(b, x, ("sub", mean), ("mul", scale), ("add", shift))
    return per_channel(b, x, ("mul", scale), ("add", shift - mean * scale))


@builds("batch_norm")
def batch_norm(
    b: Emitter,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Built:
    if training:
        raise Declined("a batch norm with the statistics of the batch")
    return _batch_norm(b, x, weight, bias, running_mean, running_var, eps)


@builds("_native_batch_norm_legit_no_training")
def batch_norm_no_training(
    b: Emitter,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> Built:
    return [_batch_norm(b, x, weight, bias, running_mean, running_var, eps), None, None]


@builds("group_norm")
def group_norm(
    b: Emitter,
    x: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Built:
    inputs = [x] + [value for value in (weight, bias) if value is not None]
    return b.emit(GroupNorm(eps, weight is not None, bias is not None, num_groups), inputs)


@builds("instance_norm")
def instance_norm(
    b: Emitter,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Built:
    if use_input_stats:
        return group_norm(b, x, x.shape[1], weight, bias, eps)
    return _batch_norm(b, x, weight, bias, running_mean, running_var, eps)


@builds("layer_norm")
def layer_norm(
    b: Emitter,
    x: Value,
    normalized_shape: list[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Built:
    inputs = [x] + [value for value in (weight, bias) if value is not None]
    rank = len(x.shape)
    dims = tuple(range(rank - len(normalized_shape), rank))
    return b.emit(LayerNorm(eps, weight is not None, bias is not None, dims), inputs)


@builds("rms_norm")
def rms_norm(b: Emitter, x: Value, normalized_shape: list[int], weight: Value | None = None, eps: float | None = None) -> Built:
    """x / sqrt(mean(x²) + eps) * weight: a layer norm that is not centred."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    dims = tuple(range(len(x.shape) - len(normalized_shape), len(x.shape)))
    inputs = [x] if weight is None else [x, weight]
    return b.emit(LayerNorm(eps, weight is not None, False, dims, centred=False), inputs)
