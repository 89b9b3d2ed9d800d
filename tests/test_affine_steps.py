"""Differences, scales and shifts: as exact as eager, whichever way a model comes in, and NaN, infinity and signs of zeros are eager's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import drystone
from agreement import Reference, program_of
from drystone import compile_backend, native
from drystone.graph.graph import Graph, Value, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.interpreter import run
from drystone.graph.ops import Pointwise
from drystone.passes import simplify
from small_models import Decides

needs_native = pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")


class Model(nn.Module):
    """``function`` of the inputs, then ``layers``."""

    def __init__(self, function: Callable[..., torch.Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.Sequential(*layers)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(self.function(*inputs))


def _standardised(x: torch.Tensor) -> torch.Tensor:
    return (x - 32768.0) / 10.0


def _by_channel(x: torch.Tensor) -> torch.Tensor:
    return (x - torch.full((32,), 32768.0, dtype=x.dtype)) / torch.linspace(5, 15, 32, dtype=x.dtype)


def _batch_norm(norm: Any, mean: float, std: float) -> Any:
    torch.manual_seed(3)
    norm.running_mean.fill_(mean)
    norm.running_var.fill_(std * std)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def _features(mean: float = 32768, std: float = 10, *shape: int) -> torch.Tensor:
    return (torch.randn(shape or (64, 32)) * std + mean).round()


def _images(mean: float = 32768, std: float = 10) -> torch.Tensor:
    return _features(mean, std, 2, 32, 8, 8)


def _linear() -> nn.Module:
    return nn.Linear(32, 8)


MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "alone": lambda: (Model(_standardised), _features()),
    "by channel": lambda: (Model(_by_channel), _features()),
    "linear": lambda: (Model(_standardised, _linear()), _features()),
    "linear by channel": lambda: (Model(_by_channel, _linear()), _features()),
    "linear, mean from": lambda: (Model(lambda x: (32768.0 - x) * 0.1, _linear()), _features()),
    "linear, shift split": lambda: (Model(lambda x: (x - 32760 - 7.7) * 0.1, _linear()), _features()),
    "linear, scaled first": lambda: (Model(lambda x: (x * 3 - 98304) * 0.1, _linear()), _features()),
    "linear, activation first": lambda: (Model(lambda x: (x.relu() - 32768) / 10, _linear()), _features()),
    "linear, in place": lambda: (Model(lambda x: x.clone().sub_(32768).div_(10), _linear()), _features()),
    "linear, addcmul": lambda: (Model(lambda x: torch.addcmul(x - 32768, x, torch.zeros_like(x)) * 0.1, _linear()), _features()),
    "linear, lerp": lambda: (Model(lambda x: torch.lerp(x - 32768, x - 32760, 0.3) * 0.1, _linear()), _features()),
    "conv": lambda: (Model(_standardised, nn.Conv2d(32, 8, 3)), _images()),
    "conv, padded": lambda: (Model(_standardised, nn.Conv2d(32, 8, 3, padding=1)), _images()),
    "conv, depthwise": lambda: (Model(_standardised, nn.Conv2d(32, 32, 3, groups=32)), _images()),
    "conv 1d": lambda: (Model(_standardised, nn.Conv1d(32, 8, 1)), _images().flatten(2)),
    "transposed conv": lambda: (Model(_standardised, nn.ConvTranspose2d(32, 8, 2, 2)), _images()),
    "layer norm": lambda: (Model(_standardised, nn.LayerNorm(32), _linear()), _features()),
    "batch norm, linear": lambda: (Model(lambda x: x, _batch_norm(nn.BatchNorm1d(32), 1e4, 2.0), _linear()), _features(1e4, 2)),
    "batch norm, not so far": lambda: (
        Model(lambda x: x, _batch_norm(nn.BatchNorm1d(32), 300.0, 1.0), _linear()),
        _features(300, 1),
    ),
    "batch norm, conv": lambda: (
        Model(lambda x: x, _batch_norm(nn.BatchNorm2d(32), 1e3, 2.0), nn.Conv2d(32, 8, 1)),
        _images(1e3, 2),
    ),
    "two batch norms": lambda: (
        Model(lambda x: x, _batch_norm(nn.BatchNorm2d(32), 1e3, 2.0), _batch_norm(nn.BatchNorm2d(32), 0.5, 2.0)),
        _images(1e3, 2),
    ),
    "instance norm's statistics": lambda: (
        Model(lambda x: x, _batch_norm(nn.InstanceNorm2d(32, affine=True, track_running_stats=True), 1e3, 2.0)),
        _images(1e3, 2),
    ),
    "conv, batch norm": lambda: (
        Model(lambda x: x / 32768, nn.Conv2d(32, 8, 3, bias=False), _batch_norm(nn.BatchNorm2d(8), 0.3, 2.0), nn.ReLU()),
        _images(),
    ),
    "norm's own, far": lambda: (Model(lambda x: (nn.functional.layer_norm(x, (32,)) + 1000.0) * 0.1, _linear()), _features(0, 1)),
    "layer scale": lambda: (
        Model(lambda x: (nn.functional.layer_norm(x, (32,)) * 1e-5 + x - 32768) * 0.1, _linear()),
        _features(),
    ),
}


@pytest.mark.usefixtures("no_tuning_cache")
@pytest.mark.parametrize("way", ["default", "strict"])
@pytest.mark.parametrize("name", MODELS)
@needs_native
def test_as_exact_as_eager(name: str, way: str) -> None:
    model, x = MODELS[name]()
    fast: Any = drystone.optimize(model.eval(), x, tuning="estimate", accuracy=way)  # type: ignore[arg-type]
    Reference(model, (x,), name).check_float32(program_of(fast)([x])[0])


@pytest.mark.usefixtures("no_tuning_cache")
@pytest.mark.parametrize("name", ["alone", "linear", "linear by channel", "conv", "batch norm, linear", "batch norm, conv"])
@pytest.mark.parametrize("way", ["eager", "parts", "compile", "torchscript", "loaded"])
def test_every_way_in(name: str, way: str, tmp_path: Path) -> None:
    if (name, way) == ("alone", "parts"):
        pytest.skip("no part of it has parameters")
    model, x = MODELS[name]()
    model.eval()
    fast: Any
    if way == "compile":
        fast = torch.compile(model, backend=compile_backend.drystone, options={"tuning": "estimate"})
    elif way == "parts":
        with pytest.warns(drystone.DrystoneWarning):
            fast = drystone.optimize(Decides(model), x, tuning="estimate")
    elif way == "torchscript":
        fast = drystone.optimize(torch.jit.trace(model, x), x, tuning="estimate")
    else:
        fast = drystone.optimize(model, x, tuning="estimate", capture="eager" if way == "eager" else "auto")
    if way == "loaded":
        drystone.save(fast, tmp_path / "model")
        fast = drystone.load(tmp_path / "model")
    with torch.inference_mode():
        Reference(model, (x,), name).check_float32(fast(x))


@pytest.mark.usefixtures("no_tuning_cache")
@pytest.mark.parametrize("mean, std", [(0, 1), (10, 1), (1000, 1), (32768, 10)])
@pytest.mark.parametrize(
    "layer", [nn.Linear(32, 64), nn.Conv2d(32, 16, 3), nn.Conv2d(32, 16, 3, padding=1)], ids=["linear", "conv", "padded"]
)
@needs_native
def test_bfloat16_of_standardised_inputs(mean: float, std: float, layer: nn.Module) -> None:
    images = isinstance(layer, nn.Conv2d)
    x = _images(mean, std) if images else _features(mean, std)
    deviations = torch.linspace(std / 2, std * 2, 32).reshape(-1, *(1,) * (2 if images else 0))
    model = Model(lambda x: (x - float(mean)) / deviations.to(x.dtype), copy.deepcopy(layer)).eval()
    fast: Any = drystone.optimize(model, x, tuning="estimate", dtype=torch.bfloat16)
    Reference(model, (x,)).check_bfloat16(program_of(fast)([x])[0])


RANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "overflow": lambda x: x * 1e20 * 1e20,
    "overflow and back": lambda x: x * 1e30 * 1e-30,
    "overflow by tensors": lambda x: x * torch.full((8,), 1e20) * torch.full((8,), 1e20),
    "underflow": lambda x: x * 1e-25 * 1e-25,
    "underflow and back": lambda x: x * 1e-30 * 1e30,
    "underflow in quotients": lambda x: x / 1e25 / 1e25 * 1e30,
    "subnormal divisor": lambda x: x / 1e-40,
    "subnormal divisors": lambda x: x / torch.full((8,), 1e-40),
    "huge divisor": lambda x: x / 3e38 * 2e38,
    "zero divisor": lambda x: x / 0.0,
    "sign of zero": lambda x: 1 / ((x * -0.0) * 2),
    "sign of zero, negated": lambda x: 1 / -(x.relu() * 0.0),
    "sign of zero, shifted": lambda x: 1 / (x.relu() * -1 + 0.0),
    "sign of zero, by tensors": lambda x: 1 / (x * torch.full((8,), -0.0)),
    "infinite shift": lambda x: (x + float("inf")) * 0.0,
    "infinite scale": lambda x: x * float("inf"),
    "roots": lambda x: ((x.clamp(min=0.1) - 0.1) * 3).sqrt(),
    "roots, by tensors": lambda x: ((x.clamp(min=0.1) - torch.full((8,), 0.1)) * torch.full((8,), 3.0)).sqrt(),
    "roots, scaled first": lambda x: (x.clamp(min=0.1) * 3 - 0.1 * 3).sqrt(),
    "roots, shift split": lambda x: (x.clamp(min=0.1) - 0.3 + 0.2).sqrt(),
    "logarithms": lambda x: ((x.clamp(min=0.7) - 0.7) * 0.3).log1p(),
}


@pytest.mark.usefixtures("no_tuning_cache")
@pytest.mark.parametrize("name", RANGES)
@needs_native
def test_what_is_no_number_or_leaves_their_range(name: str) -> None:
    model = Model(RANGES[name]).eval()
    x = torch.cat([torch.tensor([0.0, -0.0, 1e-20, -1e-30, 1.0, 0.1, 3e37, -2.0]), torch.rand(56) - 0.5]).reshape(8, 8)
    fast: Any = drystone.optimize(model, x, tuning="estimate")
    torch.testing.assert_close(program_of(fast)([x])[0], model(x), equal_nan=True, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("no_tuning_cache")
@pytest.mark.parametrize("factor", [1e-30, 1e20, -0.0])
@pytest.mark.parametrize(
    "layer", [nn.Linear(8, 8), nn.Conv1d(8, 8, 1), nn.LayerNorm(8), nn.GroupNorm(2, 8)], ids=lambda layer: type(layer).__name__
)
@needs_native
def test_weights_take_nothing_out_of_range(layer: nn.Module, factor: float) -> None:
    model = Model(lambda x: x * factor * factor, nn.Sequential(layer, Model(lambda x: x * factor * factor))).eval()
    x = torch.randn(2, 8, 8)
    fast: Any = drystone.optimize(model, x, tuning="estimate")
    with torch.no_grad():
        torch.testing.assert_close(program_of(fast)([x])[0], model(x), equal_nan=True, rtol=1e-3, atol=0)


numbers = st.sampled_from([1.0, -1.0, 0.0, -0.0, 2.0, 0.1, -3.7, 255.0, 32768.0, -32760.3, 1e-7, 1e20, 1e-30])
steps = st.lists(st.tuples(st.sampled_from("+-*/r"), numbers), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_any_steps_give_the_same_bits(chosen: list[tuple[str, float]]) -> None:
    x = torch.cat([_features().flatten()[:50], torch.randn(46), torch.tensor([0.0, -0.0, 1e25, float("inf")])])
    value = Value(tuple(x.shape), x.dtype)
    graph = Graph([value])
    for kind, number in chosen:
        alpha, beta = {
            "+": (1, number),
            "-": (1, -number),
            "*": (number, -0.0),
            "/": (1 / (number or 1.0), -0.0),
            "r": (-1, number),
        }[kind]
        graph.nodes.append(make_node(Pointwise((PointwiseOp("affine", (("in", 0),), alpha, beta),)), [value]))
        value = graph.nodes[-1].output
    graph.outputs = [value]
    (before,) = run(graph, [x])
    (after,) = run(simplify(graph), [x])
    assert torch.equal(
        *(y.nan_to_num(nan=7.0, posinf=float("inf"), neginf=-float("inf")).view(torch.int32) for y in (before, after))
    )
