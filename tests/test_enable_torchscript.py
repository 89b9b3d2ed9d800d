"""``drystone.enable()``: what torch.jit loads and freezes prepares itself at its first call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone
import fresh_process
from agreement import Reference
from drystone.errors import DrystoneWarning
from drystone.runtime.module import OptimizedModule

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::DeprecationWarning")
X = 2, 3, 12, 12


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))
        self.classes = 8

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.layers(x).mean((2, 3)) * scale

    @torch.jit.export
    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Decides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x + 1
        return x - 1


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    load, freeze = torch.jit.load, torch.jit.freeze
    drystone.enable(torchscript=True)
    yield
    drystone.disable()
    assert torch.jit.load is load and torch.jit.freeze is freeze


def saved(model: nn.Module, folder: Path) -> str:
    path = str(folder / "model.pt")
    torch.jit.script(model.eval()).save(path)
    return path


def program(module: Any) -> Any:
    return module.__dict__["_drystone"].fast


def test_the_first_call_prepares(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(X)
    loaded = torch.jit.load(saved(model, tmp_path))
    assert program(loaded) is None
    Reference(model, (x,)).check_float32(loaded(x))
    fast = program(loaded)
    assert isinstance(fast, OptimizedModule)
    for batch in (2, 5):
        x = torch.randn(batch, 3, 12, 12)
        Reference(model, (x,)).check_float32(loaded(x))
    assert program(loaded) is fast


def test_frozen(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(X)
    frozen = torch.jit.freeze(torch.jit.load(saved(model, tmp_path)))
    Reference(model, (x,)).check_float32(frozen(x))
    assert isinstance(program(frozen), OptimizedModule)


def test_it_stays_the_module_that_it_is(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(X)
    loaded = torch.jit.load(saved(model, tmp_path))
    loaded(x)
    assert isinstance(loaded, torch.jit.ScriptModule) and loaded.classes == 8
    assert loaded.twice(torch.ones(1)).item() == 2
    assert list(loaded.state_dict()) == list(model.state_dict())
    torch.jit.save(loaded, str(tmp_path / "again.pt"))
    loaded.save(str(tmp_path / "once more.pt"))
    drystone.disable()
    for name in ("again.pt", "once more.pt"):
        again = torch.jit.load(str(tmp_path / name))
        assert type(again) is torch.jit.RecursiveScriptModule
        assert torch.equal(again(x), model(x))


def test_what_cannot_be_captured_runs_as_it_is(tmp_path: Path) -> None:
    loaded, x = torch.jit.load(saved(Decides(), tmp_path)), torch.ones(3)
    with pytest.warns(DrystoneWarning, match="runs as torch made it") as caught:
        results = [loaded(sign * x).tolist() for sign in (1, -1)]
    assert results == [[2, 2, 2], [-2, -2, -2]] and len(caught) == 1


def test_a_model_that_changes_its_input_still_does(tmp_path: Path) -> None:
    class Changes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.add_(1)
            return x * 2

    loaded, x = torch.jit.load(saved(Changes(), tmp_path)), torch.ones(3)
    assert loaded(x).tolist() == [4, 4, 4]
    assert x.tolist() == [2, 2, 2]


def test_other_inputs_run_as_it_is(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(X)
    loaded = torch.jit.load(saved(model, tmp_path))
    loaded(x)
    larger, wider = torch.randn(2, 3, 20, 20), x.double()
    Reference(model, (larger,)).check_float32(loaded(larger))
    assert not loaded(larger).requires_grad, "other sizes have a program"
    refusal = pytest.raises(RuntimeError, match=r"(?i)double")  # torch's own
    with refusal, pytest.warns(DrystoneWarning, match="other than those of its first call"):
        loaded(wider)
    torch.testing.assert_close(loaded(x, 2.0), model(x, 2.0).detach())
    assert not loaded(x, 2.0).requires_grad, "another way of calling it has a program"


def test_restore_is_not_for_what_was_loaded_so(tmp_path: Path) -> None:
    loaded = torch.jit.load(saved(Net(), tmp_path))
    kind = type(loaded)
    assert drystone.restore(loaded) is loaded and type(loaded) is kind is not torch.jit.RecursiveScriptModule


def test_a_first_call_that_fails_decides_nothing(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(X)
    loaded = torch.jit.load(saved(model, tmp_path))
    with pytest.raises(RuntimeError, match="channels"), pytest.warns(DrystoneWarning, match="runs as torch made it"):
        loaded(torch.randn(2, 4, 12, 12))
    Reference(model, (x,)).check_float32(loaded(x))
    assert program(loaded) is not None


def test_gradients_and_training_are_torchs(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(X)
    loaded = torch.jit.load(saved(model, tmp_path))
    leaf = x.clone().requires_grad_()
    loaded(leaf).sum().backward()
    assert leaf.grad is not None and program(loaded) is None
    with torch.no_grad():
        loaded(leaf)
    assert program(loaded) is not None
    loaded.train()
    before = loaded.layers.__getattr__("1").running_mean.clone()
    loaded(x)
    assert not torch.equal(loaded.layers.__getattr__("1").running_mean, before)


def test_autocast_is_torchs(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(X)
    loaded = torch.jit.load(saved(model, tmp_path))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        loaded(x)
    assert program(loaded) is None
    Reference(model, (x,)).check_float32(loaded(x))
    assert program(loaded) is not None


def test_changed_weights_are_taken_over(tmp_path: Path) -> None:
    model, x = Net(), torch.randn(X)
    loaded = torch.jit.load(saved(model, tmp_path))
    loaded(x)
    torch.manual_seed(1)
    other = Net().eval()
    loaded.load_state_dict(other.state_dict())
    Reference(other, (x,)).check_float32(loaded(x))
    loaded.classes = 9  # what a program was made of
    assert program(loaded) is None


def test_another_device_is_left_alone(tmp_path: Path) -> None:
    loaded = torch.jit.load(saved(Net(), tmp_path), map_location="meta")
    assert type(loaded) is torch.jit.RecursiveScriptModule


def test_twice_is_as_once_and_within_a_with_statement() -> None:
    replaced = torch.jit.load
    drystone.enable(torchscript=True)
    assert torch.jit.load is replaced
    with drystone.enabled(torchscript=True):
        pass
    assert torch.jit.load is replaced  # it was enabled before
    drystone.disable()
    drystone.disable()
    own = torch.jit.load
    assert own is not replaced
    drystone.enable()
    assert torch.jit.load is own
    with drystone.enabled(torchscript=True):
        assert torch.jit.load is not own
    assert torch.jit.load is own


def test_nothing_changes_at_import() -> None:
    code = (
        "import torch; before = vars(torch.jit).copy(); import drystone, drystone.conductor, drystone.eager.enable\n"
        "assert all(vars(torch.jit)[name] is value for name, value in before.items())"
    )
    fresh_process.run(code)
