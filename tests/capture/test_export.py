"""Capture: the model's way of being called is kept, the model is left alone, and what can't be captured says where and why."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from drystone.capture.export import capture
from drystone.capture.shapes import dynamic_dims, varying_shapes
from drystone.errors import CaptureError, InputError, UnsupportedError
from drystone.graph.build import build
from drystone.graph.interpreter import run


def call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *later: Any, **named: Any) -> Any:
    """Capture with one set of arguments, run with another."""
    captured = capture(model, args, kwargs)
    graph = build(captured)
    return captured.signature.unflatten(run(graph, captured.signature.flatten(later, named)))


class Structured(nn.Module):
    def forward(
        self, x: torch.Tensor, pair: tuple[torch.Tensor, int] = (torch.zeros(1), 0), *, scale: int = 1, bias: Any = None
    ) -> dict[str, Any]:
        y = x * scale + pair[0] * pair[1]
        return {"y": y if bias is None else y + bias["bias"], "parts": [x.neg(), None, pair[1]], "name": "out"}


def test_nested_inputs_and_outputs() -> None:
    x, y, b = torch.randn(3, 2), torch.randn(2), torch.randn(1)
    args, kwargs = (torch.zeros(3, 2), (torch.zeros(2), 3)), {"scale": 2, "bias": {"bias": torch.zeros(1)}}
    model = Structured().eval()
    got = call(model, args, kwargs, x, (y, 3), bias={"bias": b}, scale=2)  # in another order
    expected = model(x, (y, 3), scale=2, bias={"bias": b})
    torch.testing.assert_close((got["y"], got["parts"][0]), (expected["y"], expected["parts"][0]))
    assert list(got) == ["y", "parts", "name"] and got["parts"][1:] == [None, 3] and got["name"] == "out"


def test_arguments_by_position_or_by_name() -> None:
    model = Structured().eval()
    x = torch.randn(3, 2)
    expected = model(x)["y"]
    torch.testing.assert_close(call(model, (torch.zeros(3, 2),), {}, x=x)["y"], expected)
    torch.testing.assert_close(call(model, (), {"x": torch.zeros(3, 2)}, x)["y"], expected)
    torch.testing.assert_close(call(model, (torch.zeros(3, 2),), {}, x, bias=None, scale=1)["y"], expected)


def test_dataclass_output() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    model = transformers.ResNetForImageClassification(config).eval()
    x = torch.randn(1, 3, 32, 32)
    got = call(model, (torch.zeros(1, 3, 32, 32),), {}, pixel_values=x)
    expected = model(x)
    assert type(got) is type(expected)
    torch.testing.assert_close(got.logits, expected.logits)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "do not fit the model's forward"),
        ((torch.zeros(3, 2), (torch.zeros(2), 3), 7, 8), {}, "do not fit the model's forward"),
        ((torch.zeros(3, 2), (torch.zeros(2), 4)), {}, "captured with 3, got 4"),
        ((torch.zeros(3, 2), (1.0, 3)), {}, "expected a tensor, got float"),
        ((torch.zeros(3, 2), torch.zeros(2)), {}, "structured as the example inputs"),
        ((torch.zeros(3, 2), (torch.zeros(2), 3)), {"bias": {"bias": torch.zeros(1)}}, "structured as the example inputs"),
    ],
)
def test_other_inputs_than_captured(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    signature = capture(Structured().eval(), (torch.zeros(3, 2), (torch.zeros(2), 3)), {}).signature
    with pytest.raises(InputError, match=message):
        signature.flatten(args, kwargs)


def test_the_model_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout()).eval()
    model[0].to(memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    strides = {name: tensor.stride() for name, tensor in model.state_dict().items()}
    build(capture(model, (torch.randn(1, 3, 8, 8),), {}))
    assert not any(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert handle.id in model._forward_hooks and not calls
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == pointers
    assert {name: tensor.stride() for name, tensor in after.items()} == strides
    calls.clear()
    model(torch.randn(1, 3, 8, 8))
    assert calls == [1]


def test_training_mode_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"training mode; call model\.eval\(\)"):
        capture(nn.Conv2d(3, 4, 3), (torch.randn(1, 3, 8, 8),), {})
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(CaptureError, match=r"'1' \(Dropout\) is in training mode"):
        capture(model, (torch.randn(1, 3, 8, 8),), {})


class Decides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # decided by the data
            return x
        return -x


def test_data_dependent_control_flow_names_the_line() -> None:
    with pytest.raises(CaptureError, match=r"test_export\.py:\d+: if x\.sum\(\) > 0:  # decided by the data") as raised:
        capture(Decides().eval(), (torch.randn(3),), {})
    assert "torch.where" in str(raised.value)


def test_failing_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError):
        capture(Decides().eval(), (torch.randn(3),), {})
    assert capfd.readouterr() == ("", "")


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x  # does not fit


def test_a_model_that_fails_names_the_line() -> None:
    with pytest.raises(CaptureError, match=r"test_export\.py:\d+: return x @ x  # does not fit"):
        capture(Broken().eval(), (torch.randn(3, 2),), {})


class Selects(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0].exp()


def test_sizes_that_depend_on_data_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"(?s)a size depends on the numbers in a tensor.*return x\[x > 0\]\.exp\(\)"):
        build(capture(Selects().eval(), (torch.randn(3),), {}))


class Counts(nn.Module):
    def __init__(self, used: bool) -> None:
        super().__init__()
        self.used = used
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count if self.used else x * 2


@pytest.mark.parametrize("used", [True, False])
def test_changed_buffers_are_inputs_and_outputs(used: bool) -> None:
    model, x = Counts(used).eval(), torch.randn(3)
    captured = capture(model, (x,), {})
    graph = build(captured)
    results = run(graph, [x, torch.full((1,), 4.0)])
    torch.testing.assert_close(captured.signature.unflatten(results), x * 5 if used else x * 2)
    assert results[-1] == 5 and len(graph.inputs) == len(graph.outputs) == 2 and model.count == 0
    assert captured.signature.state is not None and captured.signature.state.written == {1: 0} and not captured.originals


class ChangesInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu_() + x


def test_changed_inputs_are_outputs() -> None:
    x = torch.tensor([-1.0, 2.0])
    captured = capture(ChangesInput().eval(), (torch.zeros(2),), {})
    results = run(build(captured), [x])
    assert captured.signature.unflatten(results).tolist() == [0, 4] and results[-1].tolist() == [0, 2] and x.tolist() == [-1, 2]
    assert captured.signature.state is not None and captured.signature.state.written == {0: 0}


def test_tensors_elsewhere_than_on_the_cpu() -> None:
    with pytest.raises(CaptureError, match=r"'weight' is on meta.*model\.cpu\(\)"):
        capture(nn.Linear(2, 2, device="meta").eval(), (torch.randn(1, 2),), {})
    with pytest.raises(InputError, match=r"\[0\].*got one on meta"):
        capture(nn.Linear(2, 2).eval(), (torch.randn(1, 2, device="meta"),), {})


def test_capture_is_quiet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(nn.Linear(2, 2).eval(), (torch.randn(1, 2),), {})


@dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


class GivesPair(nn.Module):
    def forward(self, x: torch.Tensor) -> Pair:
        return Pair(x + 1, x * 2)


def test_registered_dataclass() -> None:
    torch.export.register_dataclass(Pair)
    x = torch.randn(3)
    got = call(GivesPair().eval(), (torch.zeros(3),), {}, x)
    assert isinstance(got, Pair)
    torch.testing.assert_close((got.left, got.right), (x + 1, x * 2))


class Further(nn.Module):
    """Takes what transformers' models take. ``numbers``: its size is a Python number in the result."""

    def __init__(self, numbers: bool = False) -> None:
        super().__init__()
        self.layer, self.numbers = nn.Linear(4, 3), numbers

    def forward(self, x: torch.Tensor, **further: Any) -> torch.Tensor:
        y = self.layer(x) + (further["shift"] if further.get("shifted") else 0)
        return y * int(str(x.shape[0])) if self.numbers else y


def test_sizes_vary_beside_further_keywords() -> None:
    model = Further().eval()
    kwargs = {"shifted": True, "shift": torch.zeros(5, 1)}
    axes = varying_shapes(inspect.signature(model.forward), (torch.zeros(5, 4),), kwargs, [{0}, {0}])
    captured = capture(model, (torch.zeros(5, 4),), kwargs, axes)
    assert dynamic_dims(captured) == [{0}, {0}]
    assert "forward" not in vars(model)


def test_inputs_are_not_marked_by_a_capture_that_fails() -> None:
    """torch notes on a tensor which of its sizes vary: the next capture of it would have no numbers for these."""
    model, x = Further(numbers=True).eval(), torch.zeros(5, 4)
    with pytest.raises(CaptureError):
        capture(model, (x,), {}, varying_shapes(inspect.signature(model.forward), (x,), {}, [{0}]))
    assert dynamic_dims(capture(model, (x,), {})) == [set()]


def test_containers_among_the_inputs_are_left_alone() -> None:
    class Filled(nn.Module):
        def forward(self, given: Any) -> torch.Tensor:
            given["y"] = given["x"] + 1
            return given["y"]

    given = UserDict(x=torch.zeros(3))
    with pytest.raises(CaptureError, match="UserDict"):
        capture(Filled().eval(), (given,))
    assert list(given) == ["x"]
