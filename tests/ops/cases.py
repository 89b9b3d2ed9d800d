"""One list of operator cases, for tests and benchmarks alike: ``CASES``.

A case is a small module with the shapes of its inputs. ``case.make()`` gives the module in eval mode and its inputs, the same
at every call. Sizes lie around the blocks of 8, 16, 32 and 64 that kernels work in. Run one by its name, as in
``pytest tests/ops -k "conv2d-k3-c17-o33"``.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """``build`` gives the module, ``shapes`` are those of its inputs.

    ``exact``: with small integers for weights and inputs, float32 has no rounding, and results must be equal. ``positive``: the
    operator wants inputs above zero. ``measured``: small and varied enough to be planned by measuring as well.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[Shape, ...]
    exact: bool = False
    positive: bool = False
    measured: bool = False

    def make(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        module = self.build().eval().requires_grad_(False)
        fill(module, generator, self.exact)
        return module, tuple(self._input(shape, generator) for shape in self.shapes)

    def _input(self, shape: Shape, generator: torch.Generator) -> torch.Tensor:
        if self.exact:
            return torch.randint(1 if self.positive else -3, 4, shape, generator=generator).float()
        if self.positive:
            return torch.rand(shape, generator=generator) * 3 + 0.25
        return torch.randn(shape, generator=generator)


def fill(module: nn.Module, generator: torch.Generator, exact: bool) -> None:
    """Parameters and statistics of which none is 0 or 1 throughout, where a mistake would not show; integers if ``exact``."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        if exact:
            tensor.data.copy_(torch.randint(-2, 3, tensor.shape, generator=generator))
        elif name.endswith("running_var"):
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dim() > 1 and name.endswith("weight"):
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) / (tensor[0].numel() ** 0.5))
        else:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) - 0.25)


class Net(nn.Module):
    """``function(self, *inputs)`` as a module; what else is given becomes its attributes."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


def of(name: str, function: Callable[..., Any], *shapes: Shape, exact: bool = False, **options: Any) -> Case:
    """A case without parts: a function of its inputs."""
    return Case(name, lambda: Net(lambda self, *inputs: function(*inputs)), shapes, exact, **options)


def net(
    name: str,
    function: Callable[..., Any],
    parts: Callable[[], dict[str, Any]],
    *shapes: Shape,
    exact: bool = False,
    **options: Any,
) -> Case:
    """A case with parts: ``function(self, *inputs)``, where ``self`` has them."""
    return Case(name, lambda: Net(function, **parts()), shapes, exact, **options)


def label(**options: Any) -> str:
    """ "k3-s2" for k=3, s=2; tuples as "k3x1"."""
    return "-".join(key + ("x".join(map(str, value)) if isinstance(value, tuple) else str(value)) for key, value in options.items())


# -- convolutions --------------------------------------------------------------------------------------------------------


def conv2d(c: int, o: int, k: Any, size: Shape = (9, 7), n: int = 1, exact: bool = True, **options: Any) -> Case:
    name = "conv2d-" + label(k=k, c=c, o=o, n=n, size=size, **options)
    return Case(name, lambda: nn.Conv2d(c, o, k, **options), ((n, c, *size),), exact)


def convolutions() -> Iterator[Case]:
    yield Case("conv2d-image", lambda: nn.Conv2d(3, 16, 7, 2, 3), ((1, 3, 33, 35),), exact=True, measured=True)
    yield Case("conv2d-float", lambda: nn.Conv2d(32, 64, 3, padding=1), ((2, 32, 14, 14),), measured=True)
    yield Case("conv2d-1x1-float", lambda: nn.Conv2d(64, 33, 1), ((1, 64, 7, 7),), measured=True)
    for c in (1, 3, 7, 8, 15, 16, 17, 24, 32, 33, 64):
        yield conv2d(c, 16, 3, padding=1)
    for o in (1, 7, 8, 15, 17, 24, 33, 64):
        yield conv2d(16, o, 3, padding=1)
    for c, o in ((3, 5), (8, 8), (17, 33), (24, 40), (64, 15), (33, 64)):
        yield conv2d(c, o, 1, n=3)
    yield conv2d(16, 32, 1, stride=2, bias=False)
    yield conv2d(16, 32, 1, size=(1, 1), n=3)
    for stride, padding, dilation in ((2, 1, 1), (3, 0, 1), (1, 2, 2), (2, 3, 3), ((2, 1), (0, 2), (1, 2))):
        yield conv2d(16, 16, 3, size=(13, 11), n=2, stride=stride, padding=padding, dilation=dilation)
    for k in (2, 5, 7, (1, 7), (7, 1), (3, 2)):
        yield conv2d(17, 16, k, size=(11, 9), padding=1)
    yield conv2d(8, 8, 9, size=(9, 9))  # as large as the image
    yield conv2d(16, 16, 3, size=(1, 1), padding=1)
    yield conv2d(16, 16, 3, size=(3, 40), padding=1)
    for k, dilation in ((3, 1), (2, 1), (4, 1), (4, 3), ((2, 5), 2)):
        yield conv2d(16, 24, k, padding="same", dilation=dilation)
    yield conv2d(16, 24, 3, padding="valid")
    for c, o, groups in (
        (16, 16, 2),
        (32, 64, 2),
        (24, 48, 3),
        (48, 48, 2),
        (12, 8, 4),
        (32, 32, 4),
        (64, 64, 4),
        (96, 96, 4),
        (10, 20, 5),
    ):
        yield conv2d(c, o, 3, n=2, padding=1, groups=groups)
    yield conv2d(32, 16, 1, groups=4)
    yield conv2d(32, 32, 3, size=(10, 10), padding=1, groups=2, stride=2, dilation=2)
    for c in (1, 3, 8, 15, 16, 17, 24, 33, 64):
        yield conv2d(c, c, 3, n=2, padding=1, groups=c)
    yield conv2d(16, 32, 3, padding=1, groups=16)  # two outputs a channel
    for k, stride, padding, dilation in ((5, 2, 2, 1), (7, 1, 3, 1), (3, 2, 1, 1), (3, 1, 2, 2), (2, 2, 0, 1)):
        yield conv2d(40, 40, k, size=(12, 13), groups=40, stride=stride, padding=padding, dilation=dilation)
    for c, k, stride, size in ((24, (1, 31), 1, (2, 40)), (17, 9, 1, (5, 6)), (72, 5, 2, (14, 15)), (19, (3, 4), (2, 1), (8, 35))):
        padding = tuple(side // 2 for side in (k if isinstance(k, tuple) else (k, k)))
        yield conv2d(c, c, k, size=size, n=2, groups=c, stride=stride, padding=padding)
    padded = lambda pad, **value: lambda self, x: self.conv(F.pad(x, pad, **value))  # noqa: E731
    for pad in ((0, 1, 0, 1), (1, 0, 2, 0), (3, 2, 1, 0)):
        conv = lambda: {"conv": nn.Conv2d(16, 24, 3, stride=2)}  # noqa: E731
        yield net("conv2d-" + label(pad=pad), padded(pad), conv, (1, 16, 10, 9), exact=True)
    depthwise = lambda: {"conv": nn.Conv2d(24, 24, 3, stride=2, groups=24)}  # noqa: E731
    yield net("conv2d-depthwise-asymmetric", padded((0, 1, 0, 1)), depthwise, (2, 24, 9, 8), exact=True)
    yield Case("conv2d-reflect-padded", lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), ((1, 8, 6, 7),), True)
    plain = lambda: {"conv": nn.Conv2d(8, 8, 3)}  # noqa: E731
    yield net("conv2d-padded-with-one", padded((1, 1, 1, 1), value=1.0), plain, (1, 8, 6, 7), exact=True)
    same = lambda: {"conv": nn.Conv2d(16, 16, 3, padding=1)}  # noqa: E731
    yield net("conv2d-twice-same-weight", lambda self, x: self.conv(self.conv(x)), same, (1, 16, 6, 6), exact=True)
    yield net(
        "conv2d-chain", lambda self, x: self.c(self.b(self.a(x))),
        lambda: {"a": nn.Conv2d(3, 17, 3, padding=1), "b": nn.Conv2d(17, 8, 1), "c": nn.Conv2d(8, 33, 3, groups=1)},
        (2, 3, 9, 9), measured=True,
    )  # fmt: skip
    yield Case(
        "conv2d-channels-last-weight", lambda: nn.Conv2d(16, 24, 3).to(memory_format=torch.channels_last), ((1, 16, 8, 8),), True
    )
    yield Case("conv2d-no-bias", lambda: nn.Conv2d(16, 24, 3, bias=False), ((1, 16, 8, 8),), True)
    for c, o, k, options in (
        (1, 8, 3, {}), (16, 32, 3, {"padding": 1}), (17, 33, 5, {"stride": 2, "padding": 2}), (32, 32, 3, {"groups": 32, "padding": 1}),
        (24, 48, 3, {"groups": 3, "dilation": 2}), (40, 40, 31, {"groups": 40, "padding": 15}), (6, 18, 5, {"groups": 6, "stride": 3}),
        (33, 33, 3, {"groups": 33, "dilation": 4, "padding": 4}), (64, 15, 1, {}), (16, 16, 4, {"padding": "same"}), (16, 16, 4, {"padding": "same", "groups": 4}),
    ):  # fmt: skip
        yield Case(
            "conv1d-" + label(k=k, c=c, o=o, **options),
            lambda c=c, o=o, k=k, options=options: nn.Conv1d(c, o, k, **options),
            ((2, c, 19),),
            True,
        )


# -- epilogues -----------------------------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu_inplace": lambda: nn.ReLU(inplace=True),
    "relu6": nn.ReLU6,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "prelu": lambda: nn.PReLU(24),
    "prelu_single": nn.PReLU,
    "elu": lambda: nn.ELU(1.5),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.75),
    "softplus": nn.Softplus,
    "log_sigmoid": nn.LogSigmoid,
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(0.7),
}


class Gate(nn.Module):
    """Squeeze and excitation: the channels of x, each times a number that a small network makes of their means."""

    def __init__(self, channels: int, squeezed: int, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


def residual_parts(c: int = 24) -> Callable[[], dict[str, Any]]:
    return lambda: {"a": nn.Conv2d(c, c, 3, padding=1), "b": nn.Conv2d(c, c, 3, padding=1), "c": nn.Conv2d(c, c, 1)}


def epilogues() -> Iterator[Case]:
    for name, activation in ACTIVATIONS.items():
        exact = name.startswith(("relu", "prelu"))
        yield Case(
            f"conv2d+{name}", lambda a=activation: nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), a()), ((2, 16, 7, 6),), exact,
            measured=name in ("silu", "prelu"),
        )  # fmt: skip
        yield Case(
            f"conv2d-depthwise+{name}",
            lambda a=activation: nn.Sequential(nn.Conv2d(24, 24, 3, groups=24), a()),
            ((1, 24, 7, 6),),
            exact,
        )
        yield Case(f"linear+{name}", lambda a=activation, f=24: nn.Sequential(nn.Linear(20, f), a()), ((3, 20),), exact)
    image = (2, 16, 7, 6)
    sequences: dict[str, tuple[Callable[[], list[nn.Module]], Shape]] = {
        "conv1d+gelu": (lambda: [nn.Conv1d(16, 24, 3), nn.GELU()], (2, 16, 9)),
        "conv2d+bn": (lambda: [nn.Conv2d(16, 24, 3, bias=False), nn.BatchNorm2d(24)], image),
        "conv1d+bn+relu": (lambda: [nn.Conv1d(16, 24, 3), nn.BatchNorm1d(24), nn.ReLU()], (2, 16, 9)),
        "conv2d-grouped+bn": (lambda: [nn.Conv2d(32, 48, 3, groups=2), nn.BatchNorm2d(48), nn.ReLU()], (1, 32, 7, 6)),
        "conv2d+bn-not-affine": (lambda: [nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24, affine=False)], image),
        "linear+bn": (lambda: [nn.Linear(20, 33), nn.BatchNorm1d(33), nn.ReLU()], (3, 20)),
        "bn+relu+conv2d": (
            lambda: [
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 24, 3, padding=1),
                nn.BatchNorm2d(24),
                nn.ReLU(),
                nn.Conv2d(24, 8, 1),
            ],
            image,
        ),
        "bn+conv2d-padded": (lambda: [nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3, padding=1)], image),
        "bn+conv2d": (lambda: [nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3)], image),
        "bn+linear": (lambda: [nn.BatchNorm1d(20), nn.Linear(20, 24)], (3, 20)),
        "conv2d+bn+hardswish": (lambda: [nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), nn.Hardswish()], image),
        "conv2d+dropout+identity": (lambda: [nn.Conv2d(16, 24, 3), nn.Dropout(0.5), nn.Identity(), nn.ReLU()], image),
        "conv2d+two-activations": (lambda: [nn.Conv2d(16, 24, 3), nn.Tanh(), nn.LeakyReLU(), nn.Sigmoid()], image),
    }
    for name, (layers, shape) in sequences.items():
        exact = name == "conv2d+dropout+identity"
        yield Case(name, lambda layers=layers: nn.Sequential(*layers()), (shape,), exact, measured=name == "bn+relu+conv2d")
    yield net(
        "conv2d+swish-spelled-out", lambda self, x: (y := self.a(x)) * torch.sigmoid(y), residual_parts(), (2, 24, 7, 6),
    )  # fmt: skip
    yield net(
        "conv2d+hardswish-spelled-out", lambda self, x: (y := self.a(x)) * F.relu6(y + 3) / 6, residual_parts(), (2, 24, 7, 6),
    )  # fmt: skip
    x = (2, 24, 7, 6)
    chains: dict[str, Callable[..., Any]] = {
        "residual-left": lambda self, x: x + self.a(x),
        "residual-right": lambda self, x: self.a(x) + x,
        "residual-of-convs": lambda self, x: self.a(x) + self.b(x),
        "residual+relu": lambda self, x: F.relu(self.b(F.relu(self.a(x))) + x),
        "residual-left+relu": lambda self, x: F.relu(x + self.b(F.relu(self.a(x)))),
        "residual-chain": lambda self, x: F.relu(self.c(y := F.relu(self.b(z := F.relu(self.a(x))) + z)) + y),
        "residual-inplace-add": lambda self, x: F.relu_(self.b(y := self.a(x)).add_(y)),
        "residual-read-later": lambda self, x: (y := self.a(x), self.b(x) + y, self.c(y))[1:],
        "residual-is-output-too": lambda self, x: (y := self.a(x), self.b(x) + y),
        "residual-read-twice": lambda self, x: (y := F.relu(self.a(x)), z := self.b(y) + y, self.c(z) + y)[2],
        "residual-is-own-input": lambda self, x: self.b(y := self.a(x)) + y,
        "residual-minus": lambda self, x: self.a(x) - x,
        "residual-from-which": lambda self, x: x - self.a(x),
        "residual-times": lambda self, x: self.a(x) * x,
        "residual-alpha": lambda self, x: torch.add(self.a(x), x, alpha=2),
        "residual-maximum": lambda self, x: torch.maximum(self.a(x), self.b(x)),
        "residual-and-self": lambda self, x: (y := self.a(x)) + y,
        "residual-twice": lambda self, x: self.a(x) + x + self.b(x),
        "relu-then-residual": lambda self, x: F.relu(self.a(x)) + x,
        "two-consumers": lambda self, x: (y := self.a(x), F.relu(y) + self.b(y))[1],
        "diamond": lambda self, x: (y := F.relu(self.a(x)), self.b(y) + self.c(y))[1],
    }
    for name, function in chains.items():
        yield net(
            f"conv2d+{name}", function, residual_parts(), x, exact=True, measured=name in ("residual-chain", "residual-read-later")
        )
    yield net("conv2d+residual-17", chains["residual+relu"], residual_parts(17), (1, 17, 5, 9), exact=True)
    yield net("conv2d+residual+silu", lambda self, x: F.silu(self.a(x) + x), residual_parts(), x)
    yield net("conv2d+residual-input", lambda self, x, y: F.relu(self.a(x) + y), residual_parts(), x, x, exact=True)
    yield net("conv2d+residual-broadcast", lambda self, x, y: self.a(x) + y, residual_parts(), x, (2, 24, 1, 1), exact=True)
    yield net("conv2d+residual-row", lambda self, x, y: self.a(x) + y, residual_parts(), x, (1, 1, 7, 6), exact=True)
    yield net("conv2d+grows", lambda self, x, y: self.a(x) + y, residual_parts(), (1, 24, 7, 6), x, exact=True)
    yield net("conv2d+channel-scale", lambda self, x, s: self.a(x) * s, residual_parts(), x, (2, 24, 1, 1), exact=True)
    yield net(
        "conv2d+channel-scale-one-image",
        lambda self, x, s: F.relu(self.a(x) * s),
        residual_parts(),
        (1, 24, 7, 6),
        (1, 24, 1, 1),
        exact=True,
    )
    yield net("conv2d+positions", lambda self, x: self.a(x) + self.p,
              lambda: {"a": nn.Conv2d(24, 24, 3, padding=1), "p": torch.arange(24.0 * 42).view(1, 24, 7, 6)}, (1, 24, 7, 6), exact=True)  # fmt: skip
    yield net("conv2d+channel-scale-parameter", lambda self, x: self.a(x) * self.s,
              lambda: {**residual_parts()(), "s": nn.Parameter(torch.ones(24, 1, 1))}, x, exact=True)  # fmt: skip
    yield net("conv2d+layer-scale+residual", lambda self, x: x + self.a(x) * self.s,
              lambda: {**residual_parts()(), "s": nn.Parameter(torch.ones(1, 24, 1, 1))}, x)  # fmt: skip
    for gate in (nn.Sigmoid, nn.Hardsigmoid):
        yield Case(
            f"squeeze-excitation-{gate.__name__.lower()}",
            lambda g=gate: nn.Sequential(nn.Conv2d(16, 40, 1), nn.SiLU(), Gate(40, 10, g), nn.Conv2d(40, 16, 1)),
            ((2, 16, 7, 6),),
        )
    yield net("conv2d+scalars", lambda self, x: (self.a(x) * 2 + 3) / 4 - 1, residual_parts(), x, exact=True)
    yield net(
        "linear+residual",
        lambda self, x: x + self.b(F.gelu(self.a(x))),
        lambda: {"a": nn.Linear(24, 48), "b": nn.Linear(48, 24)},
        (2, 5, 24),
    )
    yield net("linear+layer-scale+residual", lambda self, x: x + self.b(F.gelu(self.a(x))) * self.s,
              lambda: {"a": nn.Linear(24, 48), "b": nn.Linear(48, 24), "s": nn.Parameter(torch.ones(24))}, (2, 5, 5, 24))  # fmt: skip
    yield net(
        "linear+two-inputs",
        lambda self, x, y: F.relu(self.a(x) + y),
        lambda: {"a": nn.Linear(24, 16)},
        (3, 24),
        (3, 16),
        exact=True,
    )
    yield net(
        "linear+row", lambda self, x, y: F.relu(self.a(x) + y), lambda: {"a": nn.Linear(24, 16)}, (3, 24), (1, 16), exact=True
    )
    yield net("linear+column", lambda self, x, y: self.a(x) * y, lambda: {"a": nn.Linear(24, 16)}, (3, 24), (3, 1), exact=True)


# -- linear layers -------------------------------------------------------------------------------------------------------


def linears() -> Iterator[Case]:
    for k, n in ((1, 1), (8, 16), (15, 17), (16, 1), (33, 64), (64, 7), (24, 100)):
        yield Case(f"linear-k{k}-n{n}", lambda k=k, n=n: nn.Linear(k, n), ((3, k),), True)
    for shape in ((1, 33), (16, 33), (65, 33), (2, 5, 33), (1, 1, 33), (2, 3, 4, 33)):
        yield Case("linear-" + label(x=shape), lambda: nn.Linear(33, 24), (shape,), True, measured=shape == (16, 33))
    yield Case("linear-no-bias", lambda: nn.Linear(33, 24, bias=False), ((4, 33),), True)
    yield Case("mlp", lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), ((1, 16),), True, measured=True)
    yield net("linear-matmul-constant", lambda self, x: x @ self.w, lambda: {"w": torch.ones(12, 20)}, (3, 12), exact=True)
    yield net("conv2d+flatten+linear", lambda self, x: self.l(torch.flatten(self.c(x), 1)),
              lambda: {"c": nn.Conv2d(3, 17, 3), "l": nn.Linear(17 * 15, 10)}, (2, 3, 7, 5), exact=True)  # fmt: skip
    yield net("conv2d+pool+linear", lambda self, x: self.l(F.adaptive_avg_pool2d(self.c(x), 1).flatten(1)),
              lambda: {"c": nn.Conv2d(3, 17, 3), "l": nn.Linear(17, 10)}, (2, 3, 7, 5), measured=True)  # fmt: skip
    yield net("conv2d+nhwc-linear", lambda self, x: self.l(self.c(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
              lambda: {"c": nn.Conv2d(16, 24, 3), "l": nn.Linear(24, 10)}, (2, 16, 7, 5), exact=True)  # fmt: skip


# -- pointwise -----------------------------------------------------------------------------------------------------------


def pointwise() -> Iterator[Case]:
    for name, activation in ACTIVATIONS.items():
        if name not in ("prelu", "relu_inplace"):
            yield Case(f"{name}", activation, ((2, 17, 5, 7),), name in ("relu", "prelu_single"))
    for c in (7, 16, 33):
        yield Case(f"prelu-c{c}", lambda c=c: nn.PReLU(c), ((2, c, 5, 7),), True)
    yield Case("prelu-c8-2d", lambda: nn.PReLU(8), ((3, 8),), True)
    unary = {
        "exp": (torch.exp, False), "sqrt": (torch.sqrt, True), "rsqrt": (torch.rsqrt, True), "log": (torch.log, True), "log1p": (torch.log1p, True), "log2": (torch.log2, True), "log10": (torch.log10, True), "abs": (torch.abs, False),
        "neg": (torch.neg, False), "square": (torch.square, False), "reciprocal": (torch.reciprocal, True), "erf": (torch.erf, False),
        "sin": (torch.sin, False), "cos": (torch.cos, False), "floor": (torch.floor, False), "round": (torch.round, False),
        "sign": (torch.sign, False), "pow2": (lambda x: x**2, False), "pow3": (lambda x: x**3, False), "pow0.5": (lambda x: x**0.5, True),
        "pow-1": (lambda x: x**-1, True), "pow1.7": (lambda x: x**1.7, True), "pow0": (lambda x: x**0, False),
        "clamp": (lambda x: x.clamp(-0.5, 0.7), False), "clamp-min": (lambda x: x.clamp(min=-0.5), False),
        "clamp-max": (lambda x: torch.clamp_max(x, 0.5), False), "minus-from": (lambda x: 3 - x, False), "over": (lambda x: 2 / x, True),
        "add-alpha": (lambda x: torch.add(x, 2, alpha=3), False), "div-number": (lambda x: x / 3, False), "logsigmoid-parts": (lambda x: torch.log(torch.sigmoid(x)), False),
    }  # fmt: skip
    for name, (function, positive) in unary.items():
        exact = name in ("abs", "neg", "square", "pow2", "pow3", "minus-from", "add-alpha", "sign", "clamp-min")
        yield of(name, function, (2, 17, 5, 3), exact=exact, positive=positive)
    binary = {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "div": torch.div,
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "pow": torch.pow,
    }
    for name, function in binary.items():
        yield of(name, function, (2, 17, 5, 3), (2, 17, 5, 3), exact=name not in ("div", "pow"), positive=name in ("div", "pow"))
    shapes: list[tuple[Shape, Shape]] = [
        ((2, 17, 5, 3), (2, 17, 1, 1)), ((2, 17, 5, 3), (1, 17, 1, 1)), ((2, 17, 5, 3), (17, 1, 1)), ((2, 17, 5, 3), (5, 3)), ((2, 17, 5, 3), (3,)),
        ((2, 17, 5, 3), ()), ((2, 17, 5, 3), (2, 1, 5, 3)), ((2, 17, 5, 3), (1, 1, 1, 1)), ((2, 17, 5, 3), (1, 17, 5, 3)), ((2, 17, 5, 3), (2, 1, 1, 1)),
        ((2, 17, 5, 3), (2, 17, 5, 1)), ((2, 17, 5, 3), (2, 17, 1, 3)), ((2, 17, 1, 3), (1, 1, 5, 1)), ((17, 1, 1), (2, 17, 5, 3)), ((5, 3), (2, 17, 5, 3)),
        ((1, 16, 5, 3), (2, 16, 1, 1)), ((2, 16, 5, 3), (16, 1, 1)), ((2, 16, 5, 3), (2, 1, 5, 3)), ((2, 16, 9), (16, 1)), ((3, 20), (20,)),
        ((3, 20), (3, 1)), ((), ()), ((), (3, 4)), ((5,), (5,)), ((2, 16, 3, 4, 5), (16, 1, 1, 1)),
    ]  # fmt: skip
    for (left, right), name in itertools.product(shapes, ("add", "sub", "mul", "div", "maximum")):
        if name in ("add", "div") or len(left) == 4:
            yield of(
                f"{name}-{label(x=left)}-{label(y=right)}", binary[name], left, right, exact=name != "div", positive=name == "div",
            )  # fmt: skip
    for kind, value in (("channel", (17, 1, 1)), ("whole", (1, 17, 5, 3)), ("one", ()), ("image", (5, 3))):
        yield net(
            f"add-constant-{kind}",
            lambda self, x: (x + self.c) * self.c,
            lambda v=value: {"c": torch.ones(v)},
            (2, 17, 5, 3),
            exact=True,
        )
        yield net(
            f"sub-from-constant-{kind}", lambda self, x: self.c - x, lambda v=value: {"c": torch.ones(v)}, (2, 17, 5, 3), exact=True
        )
    yield of(
        "long-chain",
        lambda x, y: torch.tanh(F.silu(x * y + 2) * 0.5 - y) * torch.sigmoid(x) + x.square(),
        (2, 16, 7, 5),
        (2, 16, 7, 5),
    )
    yield of("chain-of-24", lambda x: _repeated(x, 24), (2, 16, 3, 5))
    yield of("chain-branches", lambda x: (y := torch.tanh(x)) * y + torch.exp(y), (2, 15, 3, 5))
    yield of("chain-is-read-between", lambda x: (y := F.relu(x), y * 2, y + 1), (2, 15, 3, 5), exact=True)
    yield of("ten-operands", lambda *xs: sum(xs[1:], xs[0]) * xs[3], *[(2, 16, 4, 3)] * 10, exact=True)
    yield of("addcmul", lambda x, y, z: torch.addcmul(x, y, z, value=2), *[(2, 16, 4, 3)] * 3, exact=True)
    for name, more in (("", {}), ("-given", {"nan": 1.5, "posinf": 2.0, "neginf": float("-inf")})):
        yield of(f"nan_to_num{name}", lambda x, more=more: torch.nan_to_num(x.reciprocal() - x.log(), **more), (2, 17, 5, 3))
    yield of("isfinite", lambda x: torch.isfinite(x.log()).float() + x.long().isfinite(), (2, 17, 5, 3), exact=True)
    yield of("glu", lambda x: F.glu(x, dim=1), (2, 34, 4, 3))
    yield Case("batch_norm2d", lambda: nn.BatchNorm2d(17), ((2, 17, 5, 3),))
    yield Case("batch_norm1d", lambda: nn.BatchNorm1d(17), ((2, 17, 5),))
    yield Case("batch_norm1d-2d", lambda: nn.BatchNorm1d(17), ((3, 17),))
    yield Case("batch_norm3d", lambda: nn.BatchNorm3d(8), ((1, 8, 3, 4, 5),))
    yield Case("bn+relu", lambda: nn.Sequential(nn.BatchNorm2d(32), nn.ReLU()), ((2, 32, 5, 3),), measured=True)


def _repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    for i in range(times):
        x = torch.tanh(x) + 1 / (i + 1) if i % 2 else x * 1.5
    return x


# -- normalisation and reductions ----------------------------------------------------------------------------------------


def channels_first_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Layer norm over dimension 1, spelled out as ConvNeXt does."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return self.w[:, None, None] * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.b[:, None, None]


def normalisations() -> Iterator[Case]:
    for groups, c in ((1, 16), (4, 16), (4, 20), (2, 32), (32, 32), (17, 17), (3, 48)):
        yield Case(f"group_norm-g{groups}-c{c}", lambda g=groups, c=c: nn.GroupNorm(g, c), ((2, c, 5, 7),), measured=groups == 2)
    yield Case("group_norm-not-affine", lambda: nn.GroupNorm(4, 16, affine=False), ((2, 16, 5, 7),))
    yield Case("group_norm-3d", lambda: nn.GroupNorm(4, 16), ((2, 16, 11),))
    yield Case("group_norm-2d", lambda: nn.GroupNorm(4, 16), ((3, 16),))
    yield Case("instance_norm", lambda: nn.InstanceNorm2d(17, affine=True), ((2, 17, 5, 7),))
    yield Case(
        "conv2d+group_norm+silu",
        lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(8, 32), nn.SiLU(), nn.Conv2d(32, 16, 1)),
        ((1, 3, 9, 9),),
    )
    for shape in ((3, 33), (2, 5, 64), (2, 4, 3, 17), (1, 1, 8)):
        yield Case("layer_norm-" + label(x=shape), lambda c=shape[-1]: nn.LayerNorm(c), (shape,))
    yield Case("layer_norm-last-two", lambda: nn.LayerNorm((3, 17)), ((2, 4, 3, 17),))
    yield Case("layer_norm-not-affine", lambda: nn.LayerNorm(24, elementwise_affine=False), ((2, 4, 24),))
    yield Case("layer_norm-no-bias", lambda: nn.LayerNorm(24, bias=False), ((2, 4, 24),))
    for shape in ((3, 33), (2, 5, 64), (2, 4, 3, 17), (1, 1, 8)):
        yield Case("rms_norm-" + label(x=shape), lambda c=shape[-1]: nn.RMSNorm(c, eps=1e-6), (shape,))
    yield Case("rms_norm-not-affine", lambda: nn.RMSNorm((4, 24), elementwise_affine=False), ((2, 4, 24),))
    yield net("rms_norm-spelled", lambda self, x: self.w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
              lambda: {"w": nn.Parameter(torch.ones(24))}, (2, 5, 24))  # fmt: skip
    for c in (16, 17, 96):
        yield net(f"layer_norm-nchw-permuted-c{c}", lambda self, x: self.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
                  lambda c=c: {"n": nn.LayerNorm(c)}, (2, c, 5, 3), measured=c == 96)  # fmt: skip
        yield net(f"layer_norm-nchw-spelled-c{c}", channels_first_norm,
                  lambda c=c: {"w": nn.Parameter(torch.ones(c)), "b": nn.Parameter(torch.ones(c))}, (2, c, 5, 3))  # fmt: skip
    yield net(
        "convnext-block",
        lambda self, x: x + self.s[:, None, None] * self.l2(F.gelu(self.l1(self.n(self.c(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
        lambda: {"c": nn.Conv2d(32, 32, 7, padding=3, groups=32), "n": nn.LayerNorm(32), "l1": nn.Linear(32, 128), "l2": nn.Linear(128, 32),
                 "s": nn.Parameter(torch.ones(32))},
        (2, 32, 9, 8), measured=True,
    )  # fmt: skip
    for size in (3, 4, 5):
        yield Case(
            f"local_response_norm-{size}", lambda s=size: nn.LocalResponseNorm(s, alpha=0.5, beta=0.75, k=2.0), ((2, 17, 5, 3),)
        )
    yield Case("local_response_norm-1d", lambda: nn.LocalResponseNorm(3), ((2, 16, 9),))


def reductions() -> Iterator[Case]:
    dims: list[Any] = [(2, 3), 1, 0, -1, (1, 2, 3), (0, 2), None, (2,), (1, 3)]
    for kind, dim in itertools.product(("mean", "sum"), dims):
        for keepdim in (False, True) if dim is not None else (False,):
            name = f"{kind}-" + label(dim=dim) + ("-keepdim" if keepdim else "")
            if dim is None:
                yield of(name, getattr(torch, kind), (2, 17, 5, 3), exact=kind == "sum")
            else:
                yield of(
                    name,
                    lambda x, k=kind, d=dim, keep=keepdim: getattr(torch, k)(x, d, keepdim=keep),
                    (2, 17, 5, 3),
                    exact=kind == "sum",
                )
    for c in (16, 64):
        yield of(f"mean-spatial-c{c}", lambda x: x.mean((2, 3)), (2, c, 7, 7))
    yield of("mean-3d", lambda x: x.mean(1), (2, 50, 33))
    yield of("mean-2d", lambda x: x.mean(-1), (5, 33))
    yield of("mean-1d", lambda x: x.mean(), (33,))
    for dim in (0, 1, 2, -1):
        yield of(f"softmax-dim{dim}", lambda x, d=dim: F.softmax(x, d), (2, 17, 5, 7))
    yield of("softmax-2d", lambda x: F.softmax(x, 1), (3, 100))
    yield of("softmax-channels-16", lambda x: F.softmax(x, 1), (2, 32, 5, 7))
    yield of("softmax-2d-channels", lambda x: F.softmax(x, 1), (1, 21, 9, 9), measured=True)
    yield of("softmax-large", lambda x: F.softmax(x * 64, -1), (3, 40))
    yield net("conv2d+softmax", lambda self, x: F.softmax(self.c(x), 1), lambda: {"c": nn.Conv2d(16, 21, 1)}, (1, 16, 5, 5))


# -- pooling and resizing ------------------------------------------------------------------------------------------------


def pools() -> Iterator[Case]:
    for c in (1, 8, 17, 32):
        yield Case(f"max_pool2d-c{c}", lambda: nn.MaxPool2d(3, 2, 1), ((2, c, 9, 8),), True, measured=c == 32)
        yield Case(f"avg_pool2d-c{c}", lambda: nn.AvgPool2d(2), ((2, c, 8, 6),), True)
    for options in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 1}, {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0)},
                    {"kernel_size": 3, "stride": 2, "ceil_mode": True}, {"kernel_size": 2, "stride": 2, "ceil_mode": True},
                    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}):  # fmt: skip
        for kind, more in (("max", {}), ("avg", {}), ("avg", {"count_include_pad": False})):
            cls = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
            name = f"{kind}_pool2d-" + label(**{k.replace("_", ""): v for k, v in {**options, **more}.items()})
            yield Case(name, lambda cls=cls, o={**options, **more}: cls(**o), ((2, 16, 9, 8),), kind == "max")
    yield Case("max_pool2d-dilated", lambda: nn.MaxPool2d(3, 2, 1, dilation=2), ((2, 17, 11, 12),), True)
    yield Case("avg_pool2d-divisor", lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5), ((2, 17, 9, 8),))
    yield Case("avg_pool2d-inception", lambda: nn.AvgPool2d(3, 1, 1), ((1, 32, 7, 7),))
    yield Case("max_pool1d", lambda: nn.MaxPool1d(3, 2, 1), ((2, 17, 11),), True)
    yield Case("avg_pool1d", lambda: nn.AvgPool1d(3, 2, 1), ((2, 17, 11),))
    yield Case("avg_pool1d-ceil", lambda: nn.AvgPool1d(2, 2, ceil_mode=True, count_include_pad=False), ((2, 16, 11),))
    for size in (1, 7, (3, 5), (None, 2), (9, 8)):
        shown = "x".join(map(str, size)) if isinstance(size, tuple) else size
        yield Case(f"adaptive_avg_pool2d-{shown}", lambda s=size: nn.AdaptiveAvgPool2d(s), ((2, 24, 9, 8),))
        yield Case(f"adaptive_max_pool2d-{shown}", lambda s=size: nn.AdaptiveMaxPool2d(s), ((2, 24, 9, 8),), True)
    yield Case("adaptive_avg_pool2d-grows", lambda: nn.AdaptiveAvgPool2d(7), ((1, 16, 3, 4),))
    yield Case("adaptive_avg_pool1d", lambda: nn.AdaptiveAvgPool1d(3), ((2, 17, 11),))
    yield Case("adaptive_max_pool1d", lambda: nn.AdaptiveMaxPool1d(3), ((2, 17, 11),), True)
    yield Case(
        "global-pools", lambda: Net(lambda self, x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1))), ((3, 33, 5, 5),)
    )
    yield Case("max_pool2d-whole-image", lambda: nn.MaxPool2d((9, 8)), ((2, 16, 9, 8),), True)
    yield net(
        "conv2d+max_pool",
        lambda self, x: F.max_pool2d(F.relu(self.c(x)), 3, 2, 1),
        lambda: {"c": nn.Conv2d(3, 17, 3)},
        (2, 3, 11, 9),
        exact=True,
    )


def resizes() -> Iterator[Case]:
    def to(name: str, *shape: int, measured: bool = False, **options: Any) -> Case:
        exact = options["mode"].startswith("nearest")
        return of(f"upsample-{name}", lambda x: F.interpolate(x, **options), shape, exact=exact, measured=measured)

    ways = itertools.product(("bilinear", "nearest"), ("zeros", "border", "reflection"), (False, True))
    for (mode, padding, corners), c in itertools.product(ways, (1, 16, 19)):
        yield of(
            f"grid_sample-{mode}-{padding}-{'corners-' if corners else ''}c{c}",
            lambda x, g, m=mode, p=padding, a=corners: F.grid_sample(x, g * 0.21 + 0.04, m, p, a), (2, c, 7, 5), (2, 6, 131, 2),
            measured=c == 16 and mode == "bilinear",
        )  # fmt: skip
    yield net(
        "grid_sample-constant", lambda self, x: F.grid_sample(x, self.grid, align_corners=False),
        lambda: {"grid": torch.rand(1, 9, 4, 2)}, (1, 16, 5, 6),
    )  # fmt: skip
    for c in (3, 16, 17):
        yield to(f"nearest-c{c}", 2, c, 5, 3, scale_factor=2, mode="nearest")
        yield to(f"bilinear-c{c}", 2, c, 5, 3, scale_factor=2, mode="bilinear", measured=c == 16)
        yield to(f"bilinear-corners-c{c}", 2, c, 5, 3, size=(9, 7), mode="bilinear", align_corners=True)
    for mode, size in itertools.product(("nearest", "bilinear"), ((7, 10), (2, 2), (1, 1), (5, 9))):
        yield to(f"{mode}-{label(to=size)}", 1, 16, 5, 3, size=size, mode=mode)
    yield to("nearest-1.7", 1, 16, 5, 7, scale_factor=1.7, mode="nearest")
    yield to("bilinear-1.7", 1, 16, 5, 7, scale_factor=1.7, mode="bilinear")
    yield to("bilinear-0.6", 1, 16, 9, 7, scale_factor=0.6, mode="bilinear")
    yield to("bilinear-recomputed", 1, 16, 5, 7, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True)
    yield to("bilinear-corners-to-one", 1, 16, 5, 7, size=(1, 4), mode="bilinear", align_corners=True)
    images: tuple[dict[str, Any], ...] = (
        {"scale_factor": 2}, {"size": (3, 20)}, {"size": (12, 5), "align_corners": True}, {"scale_factor": 0.6}, {"size": (12, 15)}, {"size": (1, 1)},
    )  # fmt: skip
    for (mode, antialias), options in itertools.product((("bicubic", False), ("bilinear", True), ("bicubic", True)), images):
        name = f"{mode}{'-antialias' * antialias}-{label(**options)}"
        yield to(name, 2, 19, 12, 15, mode=mode, antialias=antialias, **options)
    yield to("bicubic-antialias-wide", 1, 3, 40, 5000, size=(2, 3), mode="bicubic", antialias=True)
    for c in (3, 16, 17):
        yield to(f"nearest-exact-c{c}", 2, c, 5, 3, scale_factor=2, mode="nearest-exact")
    for size in ((7, 10), (2, 2), (1, 1), (5, 9), (141, 47)):
        yield to(f"nearest-exact-{label(to=size)}", 1, 16, 6, 3, size=size, mode="nearest-exact")
    yield to("nearest-exact-1.7", 1, 16, 5, 7, scale_factor=1.7, mode="nearest-exact")
    yield to("nearest-exact-1d", 2, 16, 5, scale_factor=0.7, mode="nearest-exact")
    yield to("nearest-exact-3d", 2, 16, 5, 4, 3, size=(7, 3, 3), mode="nearest-exact")
    yield to("nearest-1d", 2, 16, 5, scale_factor=3, mode="nearest")
    yield to("linear-1d", 2, 17, 5, size=11, mode="linear")
    yield Case("upsample-module", lambda: nn.UpsamplingBilinear2d(scale_factor=2), ((1, 8, 4, 4),))


# -- movement ------------------------------------------------------------------------------------------------------------


def cats() -> Iterator[Case]:
    def two(c: int = 16, o: int = 16) -> Callable[[], dict[str, Any]]:
        return lambda: {"a": nn.Conv2d(c, o, 3, padding=1), "b": nn.Conv2d(c, o, 1), "c": nn.Conv2d(2 * o, 8, 1)}

    def joined(self: Any, x: torch.Tensor, dim: int = 1) -> torch.Tensor:
        return torch.cat([self.a(x), F.relu(self.b(x))], dim)

    for n, o in itertools.product((1, 3), (16, 17, 24)):
        yield net(f"cat-convs-n{n}-o{o}", joined, two(16, o), (n, 16, 5, 7), exact=True)
    for dim in (0, 1, 2, 3, -1):
        yield of(f"cat-inputs-dim{dim}", lambda x, y, d=dim: torch.cat([x, y], d), (2, 16, 5, 3), (2, 16, 5, 3), exact=True)
        yield net(f"cat-convs-dim{dim}", lambda self, x, d=dim: joined(self, x, d), two(), (2, 16, 5, 7), exact=True)
    chains: dict[str, Callable[..., Any]] = {
        "then-conv": lambda self, x: self.c(torch.cat([self.a(x), self.b(x)], 1)),
        "same-twice": lambda self, x: self.c(torch.cat([(y := self.a(x)), y], 1)),
        "with-input": lambda self, x: torch.cat([x, self.a(x)], 1),
        "and-parts": lambda self, x: (y := self.a(x), z := self.b(x), torch.cat([y, z], 1)),
        "twice": lambda self, x: (y := self.a(x), z := self.b(x), torch.cat([y, z], 1), torch.cat([z, y], 1))[2:],
        "part-read-elsewhere": lambda self, x: (y := self.a(x), z := self.b(x), self.c(torch.cat([y, z], 1)), y + z)[2:],
        "of-cats": lambda self, x: torch.cat([torch.cat([self.a(x), self.b(x)], 1), x], 1),
        "with-constant": lambda self, x: torch.cat([self.k, self.a(x)], 1),
        "residual-part": lambda self, x: (y := self.a(x), torch.cat([self.b(x) + y, y], 1))[1],
        "pools": lambda self, x: torch.cat([F.max_pool2d(y := self.a(x), 3, 1, 1), F.avg_pool2d(y, 3, 1, 1), y], 1),
    }
    for name, function in chains.items():
        parts = lambda: {**two()(), "k": torch.ones(1, 8, 5, 7)}  # noqa: E731
        yield net(f"cat-{name}", function, parts, (1, 16, 5, 7), exact=name != "pools", measured=name == "then-conv")
    yield net("cat-with-image", chains["with-input"], two(3), (2, 3, 5, 7), exact=True)
    yield net("cat-relu-after", lambda self, x: F.relu(torch.cat([self.a(x), self.b(x)], 1)), two(), (2, 16, 5, 7), exact=True)
    upsampled = lambda self, x, y: self.c(torch.cat([F.interpolate(self.a(x), scale_factor=2), self.b(y)], 1))  # noqa: E731
    yield net("cat-upsampled", upsampled, two(), (1, 16, 3, 4), (1, 16, 6, 8), exact=True)
    yield of("cat-2d", lambda x, y: torch.cat([x, y], 1), (3, 5), (3, 6), exact=True)
    yield of("cat-1d", lambda x, y: torch.cat([x, y]), (5,), (3,), exact=True)
    yield of("cat-3d", lambda x, y: torch.cat([x, y], 1), (2, 16, 7), (2, 8, 7), exact=True)
    yield of("cat-with-empty", lambda x, y: torch.cat([x, y[:, :0]], 1), (2, 16, 7), (2, 8, 7), exact=True)
    yield of("stack", lambda x, y: torch.stack([x, y], 1), (2, 16, 7), (2, 16, 7), exact=True)
    yield of("cat-five", lambda *xs: F.relu(torch.cat(xs, 1)), *[(1, c, 4, 3) for c in (8, 16, 1, 7, 32)], exact=True)
    for n, growth in ((1, 16), (1, 12), (2, 16)):
        yield Case(
            f"densenet-block-n{n}-g{growth}",
            lambda g=growth: DenseBlock(16, g, 3),
            ((n, 16, 6, 5),),
            measured=n == 1 and growth == 16,
        )


class DenseBlock(nn.Module):
    """Each layer reads all that came before it, in one tensor."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i in range(layers):
            c = channels + i * growth
            self.layers.append(nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, growth, 3, padding=1, bias=False)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class ShuffleUnit(nn.Module):
    """One half of the channels passes by; the halves are shuffled into one another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half),
            nn.Conv2d(half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def movements() -> Iterator[Case]:
    x = (2, 32, 6, 4)
    conv = lambda: {"a": nn.Conv2d(16, 32, 1), "b": nn.Conv2d(16, 16, 1)}  # noqa: E731
    moves: dict[str, Callable[[torch.Tensor], Any]] = {
        "chunk": lambda x: x.chunk(2, 1),
        "chunk-three": lambda x: x.chunk(3, 1),
        "chunk-one-read": lambda x: x.chunk(2, 1)[1] + 1,
        "split": lambda x: x.split([8, 16, 8], 1),
        "split-uneven": lambda x: x.split([5, 20, 7], 1),
        "split-rows": lambda x: torch.split(x, 4, 2),
        "slice-channels": lambda x: x[:, 16:32],
        "slice-odd-channels": lambda x: x[:, 3:20],
        "slice-steps": lambda x: x[:, ::2, 1::2, ::3],
        "slice-batch": lambda x: x[1:],
        "slice-negative": lambda x: x[:, -16:, :, -1:],
        "select": lambda x: x[:, 5],
        "select-row": lambda x: x[..., 2, :],
        "unbind": lambda x: torch.unbind(x, 0),
        "permute": lambda x: x.permute(0, 2, 3, 1),
        "permute-chain": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 2, 1).permute(1, 0, 3, 2),
        "permute-and-back": lambda x: F.relu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        "permute-batch": lambda x: x.permute(1, 0, 2, 3),
        "transpose": lambda x: x.transpose(2, 3) + 1,
        "reshape": lambda x: x.reshape(4, 16, 24),
        "view-tokens": lambda x: x.flatten(2).transpose(1, 2),
        "flatten": lambda x: torch.flatten(x, 1) * 2,
        "flatten-permuted": lambda x: x.permute(0, 2, 3, 1).flatten(1),
        "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1)[:, None],
        "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1),
        "channel_shuffle": lambda x: torch.channel_shuffle(x, 4),
        "channel_shuffle-spelled": lambda x: x.view(2, 2, 16, 6, 4).transpose(1, 2).reshape(2, 32, 6, 4),
        "channel_shuffle-8": lambda x: torch.channel_shuffle(x, 8),
        "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
        "pixel_shuffle-4": lambda x: F.pixel_shuffle(x, 4),
        "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
        "expand": lambda x: x[:, :, :1].expand(2, 32, 5, 4),
        "expand-new-axis": lambda x: x.expand(3, 2, 32, 6, 4),
        "repeat": lambda x: x.repeat(1, 2, 1, 3),
        "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
        "roll-flat": lambda x: torch.roll(x, 5),
        "roll-one": lambda x: torch.roll(x, 7, 1),
        "roll-twice": lambda x: (torch.roll(x, (1, 2, 3), (2, 3, 2)), torch.roll(x, (2, 4), (2, 2))),
        "flip": lambda x: torch.flip(x, (-1, 1)),
        "flip-all": lambda x: torch.flip(x, (0, 1, 2, 3)),
        "flip-rows": lambda x: torch.flipud(x) + torch.fliplr(x),
        "rot90": lambda x: (torch.rot90(x, 1, (2, 3)), torch.rot90(x, -1, (3, 1)), torch.rot90(x, 2, (0, 2))),
        "flip-by-slices": lambda x: torch.cat([x[:, :, 3:], x[:, :, :3]], 2),
        "pad-constant": lambda x: F.pad(x, (1, 2, 0, 3), value=1.5),
        "pad-zero": lambda x: F.pad(x, (1, 1, 1, 1)),
        "pad-reflect": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
        "pad-replicate": lambda x: F.pad(x, (1, 2, 0, 3), mode="replicate"),
        "pad-crop": lambda x: F.pad(x, (-1, 1, -2, -1)),
        "pad-channels": lambda x: F.pad(x, (0, 0, 0, 0, 4, 12)),
        "pad-channels-and-crop": lambda x: F.pad(x, (0, 0, 0, 0, 3, -3)),
        "windows": lambda x: (x.unfold(2, 3, 1), x.unfold(-1, 2, 2), x.unfold(1, 5, 3)),
        "windows-read": lambda x: (
            w := x.unfold(-1, 3, 1),
            w * 2,
            w.sum(-1),
            w.sum((1, 3)),
            w.flip(2),
            F.pad(w, (1, 1)),
            w + x.unfold(3, 3, 1),
        )[1:],
        "windows-of-channels": lambda x: (x.unfold(1, 9, 4) * 2, x.unfold(1, 9, 4).sum(1), x.unfold(1, 9, 4).sum(-1)),
        "windows-compared": lambda x: (w := x.unfold(-1, 2, 1), torch.where(w > w[..., :1], w, 0.5))[1],
        "windows-of-windows": lambda x: x.unfold(2, 3, 2).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(2, 6, 32 * 6),
        "windows-apart": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3) + 1,
        "unfold": lambda x: F.unfold(x, 3),
        "unfold-options": lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=(2, 1), stride=(2, 1)),
        "unfold-patches": lambda x: F.unfold(x[0], 2, stride=2),
        "unfold-relu": lambda x: F.unfold(F.relu(x), 3, padding=1) + 1,
        "fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 4), 3, padding=1),
        "fold-options": lambda x: F.fold(x.reshape(2, 48, 16), (9, 5), (3, 2), dilation=(2, 1), padding=(1, 3), stride=(2, 3)),
        "fold-patches": lambda x: F.fold(x.flatten(2)[0, :, :6], (4, 6), 2, stride=2),
        "mean-of-permuted": lambda x: x.permute(0, 2, 3, 1).sum(3),
    }
    for name, move in moves.items():
        yield of(name, move, x, exact="squeeze" not in name or name == "unsqueeze")
        yield net(
            f"conv2d+{name}",
            lambda self, x, m=move: m(self.a(x)),
            conv,
            (2, 16, 6, 4),
            exact="squeeze" not in name or name == "unsqueeze",
        )
    for name in ("chunk", "channel_shuffle", "pixel_shuffle", "slice-channels", "permute-and-back"):
        yield net(f"conv2d+{name}+conv2d", lambda self, x, m=moves[name]: self.d(y if isinstance(y := m(self.a(x)), torch.Tensor) else y[1]),
                  lambda name=name: {**conv(), "d": nn.Conv2d({"chunk": 16, "pixel_shuffle": 8, "slice-channels": 16}.get(name, 32), 8, 1)},
                  (2, 16, 6, 4), exact=True)  # fmt: skip
    yield Case("shuffle-unit", lambda: ShuffleUnit(32), ((1, 32, 5, 6),), True, measured=True)
    yield Case("shuffle-unit-58", lambda: ShuffleUnit(58), ((2, 58, 5, 6),), True)
    yield of("pad-reflect-1d", lambda x: F.pad(x, (2, 3), mode="reflect"), (2, 17, 9), exact=True)
    yield of("pad-replicate-1d", lambda x: F.pad(x, (2, 3), mode="replicate"), (2, 16, 9), exact=True)
    yield of("pad-2d", lambda x: F.pad(x, (2, 3)), (4, 9), exact=True)


def products() -> Iterator[Case]:
    """Of two computed matrices."""
    for m, k, n in ((1, 1, 1), (1, 64, 17), (5, 7, 3), (16, 16, 16), (17, 33, 65), (8, 64, 15), (33, 1, 9)):
        yield of(f"matmul-m{m}-k{k}-n{n}", torch.matmul, (2, 3, m, k), (2, 3, k, n), exact=True, measured=m == 17)
        yield of(f"matmul-transposed-m{m}-k{k}-n{n}", lambda x, y: x @ y.mT, (2, 3, m, k), (2, 3, n, k), exact=True)
    heads = lambda x: x.unflatten(-1, (4, -1)).transpose(1, 2)  # noqa: E731
    yield of("matmul-heads", lambda x, y: heads(x) @ heads(y).mT, (2, 9, 32), (2, 11, 32), exact=True)
    yield of("matmul-columns", lambda x, y: x.permute(0, 2, 3, 1) @ y, (2, 8, 5, 7), (2, 5, 8, 9), exact=True)
    yield of("matmul-far-apart", lambda x, y: x.permute(3, 0, 1, 2) @ y, (2, 5, 8, 3), (3, 2, 8, 9), exact=True)
    yield of("matmul-broadcast", torch.matmul, (2, 3, 5, 8), (1, 3, 8, 7), exact=True)
    yield of("matmul-of-other-rank", torch.matmul, (2, 3, 5, 8), (8, 7), exact=True)
    yield of("bmm", torch.bmm, (3, 5, 8), (3, 8, 7), exact=True)
    yield of("mm", torch.mm, (5, 8), (8, 7), exact=True)
    yield of("baddbmm", lambda x, y, z: torch.baddbmm(z, x, y, beta=0.5, alpha=2), (3, 5, 8), (3, 8, 7), (3, 5, 7))
    for equation in (
        "bqhd,bkhd->bhqk",
        "bhqk,bkhd->bqhd",
        "xbhd,ybhd->xybh",
        "abcd,bcae->ade",
        "bqhd,bkhe->bqe",
        "bqh,dk->bqhdk",
        "bqk,bkh->bqkh",
        "ab,cb",
    ):
        sizes = dict(zip("bqhdkxyace", (2, 5, 4, 8, 7, 3, 6, 3, 4, 9), strict=True))
        x, y = (tuple(sizes[name] for name in term) for term in equation.split("->")[0].split(","))
        yield of(f"einsum-{equation}", lambda x, y, e=equation: torch.einsum(e, x, y), x, y, exact=True)
    yield of("einsum-ellipses", lambda x, y: torch.einsum("a...b,b...->a...", x, y), (3, 4, 5, 6), (6, 4, 5), exact=True)
    yield of("einsum-three", lambda x, y, z: torch.einsum("ab,bcd,de->ace", x, y, z), (3, 4), (4, 5, 6), (6, 7), exact=True)
    yield of("einsum-one", lambda x: (torch.einsum("abcd->bd", x), torch.einsum("...ab->...ba", x)), (3, 4, 5, 6), exact=True)
    yield of("matmul-square", lambda x: x @ x.mT, (3, 5, 8), exact=True)


def rotations() -> Iterator[Case]:
    def rotary(self: Any, x: torch.Tensor) -> torch.Tensor:
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * self.c + torch.cat((-second, first), -1) * self.s

    for size in (2, 14, 16, 34, 64):
        factors = lambda size=size: {"c": nn.Parameter(torch.ones(9, size)), "s": nn.Parameter(torch.ones(9, size))}  # noqa: E731
        yield net(f"rotary-{size}", rotary, factors, (2, 3, 9, size))
        yield net(f"rotary-heads-{size}", lambda self, x: rotary(self, x.transpose(1, 2)), factors, (2, 9, 3, size))


def choices() -> Iterator[Case]:
    """Truth values made of floats, and floats chosen by them."""
    x = (3, 16, 7, 5)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        compare = getattr(torch, name)
        yield of(f"where-{name}", lambda x, y, f=compare: torch.where(f(x, y), x * 2, y), x, x, exact=True)
        yield of(f"{name}-number", lambda x, f=compare: f(x, 1).to(x.dtype) + x, x, exact=True)
    yield of("where-broadcast", lambda x, y: torch.where(y > 0, x, -2.0), x, (16, 1, 5), exact=True)
    yield of("masked_fill", lambda x, y: x.masked_fill((y > 0) & (y < 3) | ~(x != 1), 5.0), x, (1, 1, 7, 5), exact=True)
    yield of("masked_softmax", lambda x, y: x.masked_fill(y < 0, -torch.inf).softmax(-1), (3, 4, 7, 9), (3, 1, 1, 9))
    yield of("masked_sum", lambda x, y: (x * (y > 0)[..., None]).sum(1) / (y > 0).sum(1, keepdim=True), (3, 9, 16), (3, 9))
    yield of("normalised", lambda x: x / x.norm(dim=-1, keepdim=True), (3, 5, 33))
    yield of("cumsum", lambda x: x.cumsum(1), (3, 17, 5), exact=True)
    yield of("isnan", lambda x: torch.where(x.sqrt().isnan(), 5.0, x), x, exact=True)
    yield of("nanmean", lambda x: (x.sqrt().nanmean((1, -1)), x.sqrt().nanmean(2, keepdim=True)), x)
    yield of("nansum", lambda x: x.sqrt().nansum(), x)
    yield of("max-and-place", lambda x: (x.max(1), x.min(-1, keepdim=True), x.max(2).indices, x.max(), x.min()), x, exact=True)
    yield of("topk", lambda x: (x.topk(3).values, x.topk(5, 1, largest=False).values), x, exact=True)
    yield of("topk-chosen", lambda x, y: x.gather(1, y.topk(4, 1).indices), (3, 300, 2), (3, 300, 2))
    places = torch.tensor([2, 0])
    yield of("index_copy", lambda x, y: x.index_copy(1, places, y), (2, 4, 5), (2, 2, 5), exact=True)
    yield of("index_put", lambda x, y: torch.ops.aten.index_put(x, [None, None, -1 - places], y), (2, 3, 5), (2, 3, 2), exact=True)
    yield of("index_copy-added", lambda x, y: (x * 2).index_copy(-1, places, y + 1).relu(), (40, 9), (40, 2), exact=True)
    yield of("sort", lambda x: (*x.sort(dim=1, stable=True), x.sort(-1, descending=True).values), (2, 70, 3), exact=True)
    yield of("cumprod", lambda x: ((x / 3).cumprod(-1), x.cumprod(0)), (3, 17, 5))
    yield of("cummax", lambda x: (*x.cummax(1), *x.cummin(-1), x.cummax(0).indices), (3, 17, 5), exact=True)
    yield of(
        "amax-long",
        lambda x: (x.amax(-1), x.amin(1), x.argmax(-1), x.argmin(1), x.amax((1, 2)), x.amin(0)),
        (3, 70, 131),
        exact=True,
    )
    yield of("cummax-long", lambda x: (*x.cummax(-1), *x.cummin(1), *x.sort(1).values.cummax(1)), (3, 70, 131), exact=True)
    yield of("logcumsumexp", lambda x: ((x * 9).logcumsumexp(-1), x.logcumsumexp(0), x.logcumsumexp(1)), (3, 70, 5))
    yield of(
        "median",
        lambda x: (x.median(-1).values, x.median(1, keepdim=True).values, x.median(), x[0].median(0).values),
        (3, 70, 33),
        exact=True,
    )
    yield of(
        "kthvalue",
        lambda x: (x.kthvalue(3, 1).values, x.kthvalue(30).values, x.kthvalue(60, 1, keepdim=True).values),
        (3, 70, 33),
        exact=True,
    )
    yield of(
        "kthvalue-place",
        lambda x: (x.gather(1, x.kthvalue(9, 1, True).indices), x.gather(2, x.median(2, True).indices)),
        (3, 70, 33),
        exact=True,
    )
    yield of("max-and-place-long", lambda x: (x.max(1), x.min(1, keepdim=True), x.max(1).indices), (3, 40, 5), exact=True)
    yield of("argmax-pooled", lambda x, y: x[torch.arange(3), y.argmax(-1)], (3, 9, 16), (3, 9), exact=True)


def outputs() -> Iterator[Case]:
    x = (2, 16, 5, 3)
    conv = lambda: {"a": nn.Conv2d(16, 16, 1), "k": torch.ones(3, 4)}  # noqa: E731
    yield net("output-twice", lambda self, x: (y := self.a(x), y), conv, x, exact=True)
    yield net("output-input", lambda self, x: (x, self.a(x)), conv, x, exact=True)
    yield net("output-only-input", lambda self, x: x, conv, x, exact=True)
    yield net("output-input-twice", lambda self, x, y: [y, x, y], conv, x, x, exact=True)
    yield net("output-constant", lambda self, x: (self.k, self.a(x)), conv, x, exact=True)
    yield net("output-computed-constant", lambda self, x: (self.k * 2, self.a(x) + self.k.sum()), conv, x, exact=True)
    yield net("output-view", lambda self, x: (y := self.a(x), y.view(2, -1)), conv, x, exact=True)
    yield net("output-view-of-input", lambda self, x: x.view(2, -1), conv, x, exact=True)
    yield net("output-slice-of-input", lambda self, x: x[:, 3:7], conv, x, exact=True)
    yield net("output-part-and-whole", lambda self, x: (y := self.a(x), y[:, :8], y[0]), conv, x, exact=True)
    yield net("output-between", lambda self, x: (y := self.a(x), F.relu(y), self.a(y)), conv, x, exact=True)
    yield net("output-dict", lambda self, x: {"a": self.a(x), "b": [x + 1, None, 3]}, conv, x, exact=True)
    yield net("output-inplace-input", lambda self, x: (y := x.clone().add_(1), self.a(y)), conv, x, exact=True)
    yield net("unused-input", lambda self, x, y: self.a(x), conv, x, (3,), exact=True)
    yield net("five-dimensions", lambda self, x: F.relu(x.view(2, 4, 4, 5, 3) + 1).sum(1), conv, x, exact=True)


# -- attention -----------------------------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """Of heads x size features; ``spelled``: as models without scaled_dot_product_attention write it."""

    def __init__(self, heads: int, size: int, key_heads: int | None = None, spelled: bool = False, causal: bool = False) -> None:
        super().__init__()
        width = heads * size
        self.size, self.repeats, self.spelled, self.causal = size, heads // (key_heads or heads), spelled, causal
        self.q, self.k, self.v = (nn.Linear(width, count * size) for count in (heads, key_heads or heads, key_heads or heads))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.repeats > 1:
            k, v = (y.repeat_interleave(self.repeats, 1) for y in (k, v))
        if self.spelled:
            scores = q @ k.transpose(2, 3) / self.size**0.5
            y = F.softmax(scores if mask is None else scores + mask, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


def attentions() -> Iterator[Case]:
    for size, length in ((1, 3), (7, 65), (16, 17), (33, 30), (64, 70), (80, 9)):
        shape = (2, 3, length, size)
        yield of(f"attention-d{size}-t{length}", F.scaled_dot_product_attention, shape, shape, shape, measured=size == 64)
    attend = F.scaled_dot_product_attention
    q, k, v = (2, 4, 9, 24), (2, 4, 70, 24), (2, 4, 70, 17)
    yield of("attention-cross", attend, q, k, v)
    yield of("attention-causal", lambda q, k, v: attend(q, k, v, is_causal=True), q, k, v)
    yield of("attention-scale", lambda q, k, v: attend(q, k, v, scale=0.3), q, k, v)
    yield of("attention-grouped", lambda q, k, v: attend(q, k, v, enable_gqa=True), q, (2, 2, 70, 24), (2, 2, 70, 17))
    yield of("attention-two-axes", attend, (9, 24), (70, 24), (70, 17), (9, 70))
    yield of("attention-three-axes", attend, (5, 9, 24), (5, 70, 24), (5, 70, 24), (5, 9, 70))
    windows = lambda q, k, v, mask: attend(*(x.transpose(1, 2) for x in (q, k, v)), mask)  # noqa: E731
    for mask in ((2, 4, 3, 9, 9), (1, 1, 3, 1, 9), (3, 9, 9)):
        yield of("attention-five-axes-" + label(mask=mask), windows, *((2, 3, 4, 9, 24),) * 3, mask)
    for mask in ((2, 4, 9, 70), (2, 1, 1, 70), (9, 70)):
        yield of("attention-" + label(mask=mask), attend, q, k, v, mask)
    masked = lambda self, q, k, v: attend(q, k, v, self.m)  # noqa: E731
    yield net("attention-bool", masked, lambda: {"m": (torch.arange(9 * 70) % 3 > 0).view(9, 70)}, q, k, v)
    yield net("attention-constant-causal", masked, lambda: {"m": torch.ones(9, 9, dtype=torch.bool).tril()}, q, q, q)
    yield Case("self-attention", lambda: SelfAttention(4, 16), ((2, 33, 64),), measured=True)
    yield Case("self-attention-causal", lambda: SelfAttention(3, 8, causal=True), ((2, 33, 24),))
    yield Case("self-attention-mask", lambda: SelfAttention(3, 8), ((2, 33, 24), (2, 1, 33, 33)))
    yield net("attention-multihead", lambda self, x: self.a(x, x, x, need_weights=False)[0],
              lambda: {"a": nn.MultiheadAttention(24, 3, batch_first=True)}, (2, 33, 24))  # fmt: skip
    yield Case("self-attention-spelled", lambda: SelfAttention(3, 8, spelled=True), ((2, 33, 24),))
    yield Case("self-attention-spelled-mask", lambda: SelfAttention(3, 8, spelled=True), ((2, 33, 24), (2, 1, 33, 33)))


# -- transposed convolutions, and what networks of three spatial axes have beside them -----------------------------------


def transposed() -> Iterator[Case]:
    kinds: dict[str, tuple[Callable[..., nn.Module], Shape]] = {
        "1d": (nn.ConvTranspose1d, (11,)), "2d": (nn.ConvTranspose2d, (5, 7)), "3d": (nn.ConvTranspose3d, (4, 4, 5))
    }  # fmt: skip
    for kind, (build, size) in kinds.items():
        for c, o, k, options in (
            (16, 16, 2, {"stride": 2}),
            (17, 33, 3, {"stride": 2, "padding": 1, "output_padding": 1}),
            (8, 24, 4, {"stride": 2, "padding": 1}),
            (24, 8, 3, {"stride": 2, "output_padding": 1, "bias": False}),
            (15, 1, 3, {"dilation": 2, "padding": 2}),
            (3, 5, 2, {"stride": 3, "output_padding": 2}),
            (32, 48, 3, {"stride": 2, "groups": 2}),
            (24, 24, 4, {"stride": 2, "padding": 1, "groups": 24}),
            (6, 9, 3, {"groups": 3, "dilation": 2}),
            (16, 8, 3, {"stride": 2}),
            (16, 8, 3, {"stride": 2, "padding": 1}),
            (16, 8, 2, {"padding": 2, "bias": False}),
            (1, 1, 3, {"padding": 1}),
        ):
            name = f"conv_transpose{kind}-" + label(k=k, c=c, o=o, **options)
            yield Case(name, lambda build=build, c=c, o=o, k=k, options=options: build(c, o, k, **options), ((2, c, *size),), True)
    # Weights beyond the second level cache, where kernels of oneDNN add the bias to parts of their sums.
    yield Case(
        "conv_transpose2d-large", lambda: nn.Sequential(nn.ConvTranspose2d(128, 64, 8, 4, 2), nn.ReLU()), ((1, 128, 5, 4),), True
    )
    yield Case("conv_transpose3d-large", lambda: nn.ConvTranspose3d(64, 64, 4, 2, 1), ((1, 64, 4, 4, 4),), True)
    for groups, k, stride in ((1, 2, 2), (1, 3, 1), (1, 2, 3), (4, 3, 2)):
        yield Case(
            "conv_transpose2d-batch_norm-" + label(groups=groups, k=k, stride=stride),
            lambda groups=groups, k=k, stride=stride: nn.Sequential(
                nn.ConvTranspose2d(16, 24, k, stride, groups=groups), nn.BatchNorm2d(24), nn.ReLU()
            ),
            ((2, 16, 5, 6),),
            measured=True,
        )  # fmt: skip
    yield net(
        "conv_transpose2d-residual", lambda self, x, y: F.leaky_relu(self.up(x) + y, 0.1), lambda: {"up": nn.ConvTranspose2d(32, 16, 2, 2)},
        (2, 32, 5, 6), (2, 16, 10, 12),
    )  # fmt: skip
    yield net(
        "conv_transpose2d-scaled-before", lambda self, x: self.up(self.norm(x)),
        lambda: {"up": nn.ConvTranspose2d(16, 8, 3, 2), "norm": nn.BatchNorm2d(16)}, (2, 16, 5, 6),
    )  # fmt: skip


def volumes() -> Iterator[Case]:
    x = (2, 24, 5, 6, 7)
    for c, o, k, options in (
        (3, 16, (3, 7, 7), {"stride": (1, 2, 2), "padding": (1, 3, 3)}), (16, 32, 3, {"padding": 1}), (17, 33, 3, {"stride": 2, "padding": 1}),
        (32, 16, (1, 3, 3), {"padding": (0, 1, 1)}), (32, 48, (3, 1, 1), {"padding": (1, 0, 0)}), (16, 24, 1, {"stride": 2, "bias": False}),
        (8, 8, 3, {"groups": 8, "padding": 1}), (32, 32, 3, {"groups": 2, "dilation": 2, "padding": 2}), (1, 32, 3, {"padding": 1}),
    ):  # fmt: skip
        yield Case(
            "conv3d-" + label(k=k, c=c, o=o, **options),
            lambda c=c, o=o, k=k, options=options: nn.Conv3d(c, o, k, **options),
            ((2, c, 5, 6, 7),),
            True,
        )
    yield of("max_pool3d", lambda x: F.max_pool3d(x, 3, 2, 1), x, exact=True)
    yield of("max_pool3d-ceil", lambda x: F.max_pool3d(x, 2, ceil_mode=True), x, exact=True)
    yield of("avg_pool3d", lambda x: F.avg_pool3d(x, 2), x)
    yield of("avg_pool3d-padded", lambda x: F.avg_pool3d(x, 3, 2, 1, count_include_pad=False), x)
    yield of("adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, (2, 3, 4)), x)
    yield of("adaptive_avg_pool3d-1", lambda x: F.adaptive_avg_pool3d(x, 1), x)
    yield of("adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(x, (2, 3, 4)), x, exact=True)
    for align in (False, True):
        yield of(
            "trilinear-" + label(align=align),
            lambda x, align=align: F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=align),
            x,
        )
    yield of("trilinear-size", lambda x: F.interpolate(x, size=(3, 9, 11), mode="trilinear"), x)
    yield of("nearest-3d", lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), x, exact=True)
    for mode in ("constant", "replicate", "reflect"):
        yield of("pad3d-" + mode, lambda x, mode=mode: F.pad(x, (1, 2, 0, 1, 2, 1), mode=mode), x, exact=True)
    yield of("cat3d-volumes", lambda x, y: torch.cat((x, y), 1), x, (2, 17, 5, 6, 7), exact=True)
    yield Case("batch_norm3d-24", lambda: nn.BatchNorm3d(24), (x,))
    yield Case("instance_norm3d", lambda: nn.InstanceNorm3d(24, affine=True), (x,))
    yield Case("group_norm-volume", lambda: nn.GroupNorm(4, 24), (x,))
    yield Case("prelu3d", lambda: nn.PReLU(24), (x,))
    yield of("softmax3d-channels", lambda x: x.softmax(1), x)
    yield of("mean3d", lambda x: x.mean((2, 3, 4)), x)


# ------------------------------------------------------------------------------------------------------------------------


def _all() -> Iterable[Case]:
    families = (convolutions, epilogues, linears, pointwise, normalisations, reductions, pools, resizes, cats, movements)
    families += (transposed, volumes, products, rotations, choices, attentions, outputs)
    return itertools.chain.from_iterable(family() for family in families)


CASES: tuple[Case, ...] = tuple(_all())
_twice = [name for name, count in Counter(case.name for case in CASES).items() if count > 1]
assert not _twice, f"names of several cases: {_twice}"
