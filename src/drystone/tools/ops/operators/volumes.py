"""Convolutions over three axes, as 3-D U-Nets and R3D-18 have them, batch 1.

``drystone`` is the step of a program, in channels_last on packed weights, Winograd's or oneDNN's, whichever is faster here as in a
autotuning. ``drystone.enable`` is torch's own call on plain tensors with ``drystone.enable()``, which orders x, weights and output
at each call. Operands are hot: in a model, the layer before has just written x.

The gradients, of x, and of the weights and the bias together, are torch's own calls with ``drystone.enable()`` and without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import drystone
from drystone import native

from ...bench.workload import DTYPES
from ..case import Call, Case, Contest
from ..limits import least_seconds
from ..probe import Probe, Probed
from ..step import call_of

LAST = torch.channels_last_3d


@dataclass(frozen=True)
class Layer:
    """Padded by half the kernel; transposed: not padded."""

    tag: str
    channels: int
    outputs: int
    size: tuple[int, int, int]  # of x
    kernel: tuple[int, int, int] = (3, 3, 3)
    stride: tuple[int, int, int] = (1, 1, 1)
    transposed: bool = False
    has_bias: bool = True

    @property
    def padding(self) -> tuple[int, ...]:
        return (0, 0, 0) if self.transposed else tuple(k // 2 for k in self.kernel)

    @property
    def result(self) -> tuple[int, ...]:
        axes = zip(self.size, self.kernel, self.stride, self.padding, strict=True)
        if self.transposed:
            return tuple((size - 1) * s + k for size, k, s, _ in axes)
        return tuple((size + 2 * p - k) // s + 1 for size, k, s, p in axes)


PLAIN_LAYERS = (
    Layer("unet", 1, 32, (64, 64, 64)),
    Layer("unet", 32, 32, (64, 64, 64)),
    Layer("unet", 32, 64, (32, 32, 32)),
    Layer("unet", 128, 64, (32, 32, 32)),
    Layer("unet", 128, 128, (16, 16, 16)),
    Layer("unet", 256, 256, (8, 8, 8)),
    Layer("unet", 32, 3, (64, 64, 64), (1, 1, 1)),
    Layer("wide", 32, 64, (32, 64, 64)),
    Layer("r3d", 3, 64, (16, 112, 112), (3, 7, 7), (1, 2, 2)),
    Layer("r3d", 64, 64, (16, 56, 56)),
    Layer("r3d", 64, 128, (16, 56, 56), stride=(2, 2, 2)),
    Layer("r3d", 128, 128, (8, 28, 28)),
    Layer("r3d", 256, 256, (4, 14, 14)),
    Layer("r3d", 512, 512, (2, 7, 7)),
    Layer("r2plus1d", 64, 144, (16, 56, 56), (1, 3, 3)),
    Layer("r2plus1d", 144, 64, (16, 56, 56), (3, 1, 1)),
)
_TWO = (2, 2, 2)
TRANSPOSED_LAYERS = (
    Layer("unet", 64, 32, (32, 32, 32), _TWO, _TWO, True),
    Layer("unet", 128, 64, (16, 16, 16), _TWO, _TWO, True),
    Layer("unet", 256, 128, (8, 8, 8), _TWO, _TWO, True),
    Layer("unet", 512, 256, (4, 4, 4), _TWO, _TWO, True),
    Layer("wide", 128, 128, (32, 32, 32), _TWO, _TWO, True),
    # With a bias, oneDNN's kernel adds it more than once; a program adds it afterwards.
    Layer("overlapping", 64, 64, (16, 16, 16), (4, 4, 4), _TWO, True, has_bias=False),
)

#: Which gradients are computed: of x, of the weights, of the bias.
MASKS = {"x": (True, False, False), "weight": (False, True, True)}


def cases(dtype: str) -> Iterator[Case]:
    yield from _cases(PLAIN_LAYERS, dtype)


def transposed_cases(dtype: str) -> Iterator[Case]:
    yield from _cases(TRANSPOSED_LAYERS, dtype)


def _cases(layers: Sequence[Layer], dtype: str) -> Iterator[Case]:
    for layer in layers:
        yield case(layer, dtype)
    if dtype == "float32":  # of bfloat16 torch's own are called
        for layer in layers:
            for of in MASKS:
                yield gradient_case(layer, of)


def case(layer: Layer, dtype: str) -> Case:
    return _case(layer, layer.tag, dtype, {}, lambda: contest(layer, DTYPES[dtype]))


def gradient_case(layer: Layer, of: str) -> Case:
    return _case(layer, "gradient", "float32", {"of": of}, lambda: gradient(layer, of))


def _case(layer: Layer, tag: str, dtype: str, more: dict[str, str], make: Callable[[], Contest]) -> Case:
    taps = layer.channels * layer.outputs * math.prod(layer.kernel)
    met = math.prod(layer.size if layer.transposed else layer.result)
    values = layer.channels * math.prod(layer.size) + layer.outputs * math.prod(layer.result) + taps
    return Case(
        operator="conv_transpose3d" if layer.transposed else "conv3d",
        tag=tag,
        dtype=dtype,
        sizes={
            "C": layer.channels,
            "O": layer.outputs,
            "size": "x".join(map(str, layer.size)),
            "k": "x".join(map(str, layer.kernel)),
            "s": "x".join(map(str, layer.stride)),
            **more,
        },
        axis="C",
        group=tag,
        flops=2 * taps * met,
        bytes=values * DTYPES[dtype].itemsize,
        copies=1,
        make=make,
    )


def contest(layer: Layer, dtype: torch.dtype) -> Contest:
    x, weight, bias, _ = _operands(layer, dtype)
    options: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding}
    by_torch = F.conv_transpose3d if layer.transposed else F.conv3d

    def fastest() -> Call:
        return min(steps(layer, x, weight, bias), key=lambda call: least_seconds(lambda: call(0)))

    def exact() -> torch.Tensor:
        return by_torch(x.double(), weight.double(), None if bias is None else bias.double(), **options)

    contenders: dict[str, Callable[[], Call]] = {
        "drystone": fastest,
        "torch": lambda: lambda _: by_torch(x, weight, bias, **options),
    }
    if dtype == torch.float32:  # of bfloat16 torch's own is called
        contenders["drystone.enable"] = contenders["torch"]
    return Contest(contenders, exact, {"drystone.enable": drystone.enabled})


def gradient(layer: Layer, of: str) -> Contest:
    x, weight, bias, given = _operands(layer, torch.float32)
    sizes = None if bias is None else list(bias.shape)
    mask = [*MASKS[of][:2], MASKS[of][2] and layer.has_bias]
    geometry = [list(layer.stride), list(layer.padding), [1] * 3, layer.transposed, [0] * 3, 1]

    def call(*operands: torch.Tensor) -> torch.Tensor:
        gradients = torch.ops.aten.convolution_backward(*operands, sizes, *geometry, mask)
        return next(result for result, wanted in zip(gradients, mask, strict=True) if wanted)

    return Contest.enabled_or_not(
        lambda: lambda _: call(given, x, weight), lambda: call(given.double(), x.double(), weight.double())
    )


def _operands(layer: Layer, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """x, weights, bias, and a gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    axes = (layer.channels, layer.outputs) if layer.transposed else (layer.outputs, layer.channels)
    x = torch.randn(1, layer.channels, *layer.size, generator=generator).to(dtype)
    weight = torch.randn(*axes, *layer.kernel, generator=generator).to(dtype)
    bias = torch.randn(layer.outputs, generator=generator).to(dtype) if layer.has_bias else None
    return x, weight, bias, torch.randn(1, layer.outputs, *layer.result, generator=generator).to(dtype)


def steps(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> list[Call]:
    """What a planner has to choose from in channels_last."""
    x = x.contiguous(memory_format=LAST)
    y = torch.empty(1, layer.outputs, *layer.result, dtype=x.dtype).contiguous(memory_format=LAST)
    source, target = (
        native.TensorDesc.dense(native.DTYPES[t.dtype], native.FORMATS["channels_last"], list(t.shape)) for t in (x, y)
    )
    weight = (weight.transpose(0, 1) if layer.transposed else weight).contiguous()
    shape, padding, ones = list(weight.shape), list(layer.padding), [1, 1, 1]
    made: list[native.Convolution | native.Winograd] = [
        native.Convolution(
            source, shape, layer.has_bias, target, list(layer.stride), padding, padding, ones, 1, [], layer.transposed
        )
    ]
    served = layer.kernel in ((3, 3, 3), (1, 3, 3)) and layer.stride == (1, 1, 1) and x.dtype == torch.float32
    if served and layer.channels % 16 == layer.outputs % 16 == 0:
        made += [native.Winograd(source, shape, layer.has_bias, target, padding, padding, tile, []) for tile in (2, 4)]
    calls = []
    for step in made:
        packed = native.allocate(step.packed_bytes)
        step.pack(native.DTYPES[weight.dtype], weight.data_ptr(), packed.data_ptr())
        wide = [] if bias is None else [bias.float()]
        calls.append(call_of(step, [[x, packed, *wide, y]], y))
    return calls


def _convolved(size: int) -> Probed:
    x, weight = torch.randn(1, 8, 4, 4, max(1, size // (16 * 8 * 8 * 27))), torch.randn(8, 8, 3, 3, 3)
    return lambda: F.conv3d(x, weight, padding=1)


def _convolved_transposed(size: int) -> Probed:
    x, weight = torch.randn(1, 16, 8, max(1, size // (8 * 16 * 16 * 4))), torch.randn(16, 16, 2, 2)
    return lambda: F.conv_transpose2d(x, weight, stride=2)


def _convolution_gradient(channels: int) -> Probed:
    x, weight, gradient = torch.randn(2, channels, 8, 32, 32), torch.randn(16, channels, 3, 3, 3), torch.randn(2, 16, 8, 32, 32)
    geometry = [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1
    return lambda: torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, [True, False, False])


OPERATORS = {"conv3d": cases, "conv_transpose3d": transposed_cases}
PROBES = (
    Probe("convolution_products", ("convolution",), {"3-D": _convolved, "transposed": _convolved_transposed}, 1 << 18),
    Probe("convolution_gradient_channels", ("convolution",), {"of x": _convolution_gradient}),
)
