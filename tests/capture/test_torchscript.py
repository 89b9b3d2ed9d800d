"""TorchScript modules give the programs of the modules that they were made from."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drystone
from agreement import Reference, needs_unconditional_sizes, program_of
from drystone import native
from drystone.capture.export import capture
from drystone.errors import CaptureError, InputError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, padding="same", bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(channels, out, 1, stride=stride) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return self.relu(y + x)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.ModuleList([Block(16, 16, 1), Block(16, 32, 2)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(32, 10)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.last(self.drop(torch.flatten(self.pool(x), 1)))


def saved(script: Any, folder: Path) -> Any:
    torch.jit.save(script, folder / "model.pt")
    return torch.jit.load(folder / "model.pt")


WAYS: dict[str, Callable[[nn.Module, torch.Tensor, Path], Any]] = {
    "traced": lambda model, x, folder: torch.jit.trace(model, x),
    "scripted": lambda model, x, folder: torch.jit.script(model),
    "traced and frozen": lambda model, x, folder: torch.jit.freeze(torch.jit.trace(model, x)),
    "scripted and frozen": lambda model, x, folder: torch.jit.freeze(torch.jit.script(model)),
    "traced and saved": lambda model, x, folder: saved(torch.jit.trace(model, x), folder),
    "scripted, frozen and saved": lambda model, x, folder: saved(torch.jit.freeze(torch.jit.script(model)), folder),
}


def steps(fast: Any) -> list[tuple[str, str, str]]:
    return [(step.op, step.implementation, step.format) for step in fast.explain().steps]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_same_program_as_of_the_module(way: Callable[..., Any], tmp_path: Path) -> None:
    model, x = ResNet().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        script = way(model, x, tmp_path)
    direct = drystone.optimize(model, x, tuning="estimate")
    fast = drystone.optimize(script, x, tuning="estimate")
    Reference(model, (x,)).check_float32(fast(x))
    assert steps(fast) == steps(direct)


def test_measured(tmp_path: Path) -> None:
    """Eager is then the script itself, which a frozen one has no mode for."""
    model, x = ResNet().eval(), torch.randn(1, 3, 32, 32)
    script = saved(torch.jit.freeze(torch.jit.script(model)), tmp_path)
    fast = drystone.optimize(script, x)
    assert fast.explain().eager_milliseconds is not None
    Reference(model, (x,)).check_float32(fast(x))
    fast.explain().runs = "eager"
    Reference(model, (x,)).check_float32(fast(x))


def test_weights_are_the_scripts_own() -> None:
    script = torch.jit.trace(ResNet().eval(), torch.randn(1, 3, 32, 32))
    captured = capture(script, (torch.randn(1, 3, 32, 32),))
    pointers = {tensor.data_ptr() for tensor in script.state_dict().values()}
    weights = [tensor for name, tensor in captured.constants.values() if "constant" not in name]
    assert len(weights) == 26 and all(tensor.data_ptr() in pointers for tensor in weights)


class Decides(nn.Module):
    """Decisions on attributes, loops whose number is known, lists, strings."""

    def __init__(self, deep: bool, count: int) -> None:
        super().__init__()
        self.deep, self.count, self.mode = deep, count, "mean"
        self.linear = nn.Linear(6, 6)
        self.sizes = [2, 4]
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.deep:
            for i in range(self.count):
                x = torch.relu(self.linear(x)) + i
        parts = x.split(self.sizes, 1)
        found: list[torch.Tensor] = []
        for part in parts:
            if part.size(1) > 2 and len(found) < 5:
                found.append(part.exp())
            else:
                found.append(part)
        y = torch.cat(found, 1) * self.scale
        steps = 0
        while steps < 3:
            y = y + steps // 2
            steps += 2
        assert y.dim() == 2, "two dimensions"
        return y.mean(0) if self.mode == "mean" else y.sum(0)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("freeze", [False, True])
def test_control_flow_that_does_not_depend_on_data(deep: bool, freeze: bool) -> None:
    model, x = Decides(deep, 3).eval(), torch.randn(4, 6)
    script = torch.jit.script(model)
    fast = drystone.optimize(torch.jit.freeze(script) if freeze else script, x, tuning="estimate")
    Reference(model, (x,)).check_float32(fast(x))


class Structured(nn.Module):
    def forward(self, x: torch.Tensor, scale: float = 2.0, other: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        y = x * scale
        if other is not None:
            y = y + other
        return {"y": y, "exp": y.exp()}


class Several(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        left, right = x.chunk(2, 1)
        return left.exp(), (right, left + right)


@pytest.mark.parametrize("freeze", [False, True])
def test_arguments_by_name_and_dict_results(freeze: bool) -> None:
    model, x, other = Structured().eval(), torch.randn(3, 4), torch.randn(4)
    script = torch.jit.freeze(torch.jit.script(model)) if freeze else torch.jit.script(model)
    fast = drystone.optimize(script, x, example_kwargs={"other": torch.zeros(4)}, tuning="estimate")
    for got in (fast(x, other=other), fast(other=other, x=x)):
        want = model(x, other=other)
        assert list(got) == list(want)
        torch.testing.assert_close(dict(got), want)
    with pytest.raises(InputError, match="do not fit the model's forward"):
        fast(x, another=other)
    alone = drystone.optimize(script, x, tuning="estimate")
    torch.testing.assert_close(alone(x)["exp"], model(x)["exp"])


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, torch.randn(3, 4))])
def test_several_results(make: Callable[[nn.Module], Any]) -> None:
    model, x = Several().eval(), torch.randn(3, 4)
    got, want = drystone.optimize(make(model), x, tuning="estimate")(x), model(x)
    torch.testing.assert_close(got, want)


class Sizes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, c // 2, 2, h * w).transpose(1, 2).reshape(n, -1, h, w)
        y = F.interpolate(y, size=(h * 2, w // 2 + 1), mode="bilinear", align_corners=False)
        return y[:, :, 1:, :-1] / 2


@needs_unconditional_sizes
def test_arithmetic_on_sizes_that_tracing_recorded() -> None:
    model, x = Sizes().eval(), torch.randn(2, 4, 6, 8)
    script = torch.jit.trace(model, x)
    Reference(model, (x,)).check_float32(drystone.optimize(script, x, tuning="estimate", strict=True)(x))
    varying = {"x": {0: torch.export.Dim("batch", min=2, max=16), 2: torch.export.Dim("height", min=4, max=64)}}
    fast = drystone.optimize(script, x, dynamic_shapes=varying, tuning="estimate")
    taller = torch.randn(5, 4, 10, 8)
    Reference(model, (taller,)).check_float32(fast(taller))


@pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")
def test_reduced_precision() -> None:
    model, x = ResNet().eval(), torch.randn(2, 3, 32, 32)
    fast = drystone.optimize(torch.jit.script(model), x, dtype=torch.bfloat16, tuning="estimate")
    Reference(model, (x,)).check_bfloat16(fast(x))
    assert program_of(fast).assembled.segments == 0


def test_what_is_refused() -> None:
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(CaptureError, match=r"training mode; call model\.eval\(\)"):
        drystone.optimize(torch.jit.script(ResNet()), x)
    part = ResNet().eval()
    part.drop.train()
    with pytest.raises(CaptureError, match=r"dropout in training mode; call model\.eval\(\)"):
        drystone.optimize(torch.jit.script(part), x)
    with pytest.raises(UnsupportedError, match="optimize_for_inference"):
        drystone.optimize(torch.jit.optimize_for_inference(torch.jit.script(ResNet().stem.eval())), x)


class OnData(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x
        return -x


def test_data_dependent_control_flow_names_the_line() -> None:
    with pytest.raises(CaptureError, match=r"if bool\(x\.sum\(\) > 0\)"):
        drystone.optimize(torch.jit.script(OnData().eval()), torch.randn(3))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count


class Cell(nn.Module):
    """As a streaming model: a state and a context that calls set, and numbers that say whether they fit."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)
        self.count = Counts()
        self.state, self.context, self.size = torch.zeros(0), torch.zeros(0), 0

    @torch.jit.export
    def reset(self) -> None:
        self.state, self.context, self.size = torch.zeros(0), torch.zeros(0), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.size != 0 and self.size != x.shape[0]:
            self.reset()
        if len(self.state) == 0:
            self.state, self.context = torch.zeros(2, x.shape[0], 4), torch.zeros(x.shape[0], 4)
        h, c = self.cell(x + self.context, (self.state[0], self.state[1]))
        self.state, self.context, self.size = torch.stack([h, c]), x[:, -4:], x.shape[0]
        return self.count(h)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("way", ["optimize", "in place", "enabled"])
@pytest.mark.parametrize("tuning", ["estimate", "measure"])
def test_attributes_that_calls_set_are_state(frozen: bool, way: str, tuning: Any) -> None:
    torch.manual_seed(0)
    model = Cell().eval()
    script, eager, x = torch.jit.script(model), torch.jit.script(copy.deepcopy(model)), torch.randn(2, 4)
    if frozen:
        script, eager = (torch.jit.freeze(each, preserved_attrs=["reset"]) for each in (script, eager))
    if way == "enabled":
        file = io.BytesIO()
        torch.jit.save(script, file)
        file.seek(0)
        with drystone.enabled(only=[], torchscript=True):
            fast = script = torch.jit.load(file)
    else:
        fast = (drystone.optimize if way == "optimize" else drystone.optimize_)(script, x, tuning=tuning)
    assert script.size == 0 and len(script.state) == 0
    with torch.no_grad():
        for call, rows in enumerate((2, 2, 2, 2, 3, 3, 2)):
            if call == 2:
                script.reset()
                eager.reset()
            x = torch.randn(rows, 4)
            torch.testing.assert_close(fast(x), eager(x))
            torch.testing.assert_close(script.state, eager.state)
            torch.testing.assert_close(script.count.count, eager.count.count)
            assert script.size == eager.size == rows


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items = [torch.zeros(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.items[0] = self.items[0] + x
        return self.items[0] * 2


def test_a_list_that_calls_change_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="changes a list or dict that it keeps"):
        drystone.optimize(torch.jit.script(Lists().eval()), torch.randn(3), tuning="estimate")
