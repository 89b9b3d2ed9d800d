"""torch's ``quantized_decomposed`` operators, in which torchao's PT2E and others write what a model is quantised to."""

from __future__ import annotations

import torch

from drystone.graph.builders.registry import Built, Declined, Emitter, builds_elements, scalar
from drystone.graph.codes import coded, codes_of, dequantised
from drystone.graph.graph import Value
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Convert, Dequantise, DynamicLinear, Quantise
from drystone.graph.quantisation import CODES, Quantisation

_NAMESPACE = "quantized_decomposed::"
Number = float | int | Value


def quantisation_of(dtype: torch.dtype, shape: tuple[int, ...], scales: tuple[float, ...], zero_point: int) -> Quantisation:
    """Raises ``Declined`` for what codes can't have."""
    quantisation = Quantisation(scales, zero_point)
    if (problem := quantisation.problem(dtype, shape)) is not None:
        raise Declined(problem)
    return quantisation


def _one(dtype: torch.dtype, scale: Number, zero_point: Number) -> Quantisation:
    """Of a tensor with one scale."""
    found, zero = (_number(item) for item in (scale, zero_point))
    if found is None or zero is None:
        raise Declined("a scale that is computed at each call")
    return quantisation_of(dtype, (), (found,), int(zero))


def _number(item: Number) -> float | None:
    if isinstance(item, Value) and item.is_constant and item.numel == 1:
        return float(item.constant)
    return scalar(item)


@builds_elements(f"{_NAMESPACE}quantize_per_tensor")
def quantise(b: Emitter, x: Value, scale: Number, zero_point: Number, low: int, high: int, dtype: torch.dtype) -> Built:
    quantisation = _one(dtype, scale, zero_point)
    limits = torch.iinfo(dtype)
    if not limits.min <= low <= high <= limits.max:
        raise Declined(f"codes from {low} to {high} in {dtype}")
    if x.is_constant:
        return coded(x, quantisation, dtype, low, high)
    if (low, high) != (limits.min, limits.max):
        ends = [(code - quantisation.zero_point) * quantisation.scale for code in (low, high)]
        x = b.pointwise([x], [PointwiseOp("clamp", (("in", 0),), *ends)])
    codes = b.emit(Quantise(), [x], dtype)
    codes.quantisation = quantisation
    return codes


@builds_elements(f"{_NAMESPACE}dequantize_per_tensor")
def dequantise(
    b: Emitter,
    x: Value,
    scale: Number,
    zero_point: Number,
    low: int,
    high: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Built:
    quantisation = _one(dtype, scale, zero_point)
    if x.is_constant:
        return dequantised(_codes_of(x, quantisation), b.dtype)
    if x.quantisation == quantisation:
        return b.emit(Dequantise(), [x], b.dtype)
    number = b.emit(Convert(), [x], b.dtype)
    shift = PointwiseOp("affine", (("in", 0),), 1.0, float(-quantisation.zero_point))
    return b.pointwise([number], [shift, PointwiseOp("affine", (("reg", 0),), quantisation.scale)])


@builds_elements(f"{_NAMESPACE}quantize_per_channel")
def quantise_channels(
    b: Emitter, x: Value, scales: Value, zero_points: Value | None, axis: int, low: int, high: int, dtype: torch.dtype
) -> Built:
    if not x.is_constant:
        raise Declined("a scale a channel of what is computed at each call")
    return coded(x, _channels(x, scales, zero_points, axis, dtype), dtype, low, high)


@builds_elements(f"{_NAMESPACE}dequantize_per_channel")
def dequantise_channels(
    b: Emitter,
    x: Value,
    scales: Value,
    zero_points: Value | None,
    axis: int,
    low: int,
    high: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Built:
    if not x.is_constant:
        raise Declined("a scale a channel of what is computed at each call")
    return dequantised(_codes_of(x, _channels(x, scales, zero_points, axis, dtype)), b.dtype)


def _channels(x: Value, scales: Value, zero_points: Value | None, axis: int, dtype: torch.dtype) -> Quantisation:
    if not scales.is_constant or (zero_points is not None and not zero_points.is_constant):
        raise Declined("a scale that is computed at each call")
    if axis % len(x.shape) != 0:
        raise Declined(f"a scale for each entry of axis {axis}, not of axis 0")
    if zero_points is not None and zero_points.constant.any():
        raise Declined("zero points a channel that are not 0")
    return quantisation_of(dtype, x.shape, tuple(scales.constant.detach().double().tolist()), 0)


def _codes_of(x: Value, quantisation: Quantisation) -> Value:
    if x.dtype not in CODES:
        raise Declined(f"codes of {x.dtype}, not of int8 or uint8")
    return codes_of(x, quantisation)


@builds_elements("drystone::dynamic_linear")
def dynamic_linear(
    b: Emitter,
    x: Value,
    codes: Value,
    scales: Value,
    bias: Value | None,
    low: int,
    high: int,
    eps: float,
    symmetric: bool,
    rows: bool,
) -> Built:
    weight = _codes_of(codes, _channels(codes, scales, None, 0, codes.dtype))
    inputs = [x, weight] if bias is None else [x, weight, bias]
    return b.emit(DynamicLinear(low, high, eps, symmetric, rows, bias is not None), inputs, b.dtype)
