"""What a model keeps between calls, and what runs around its modules: neither lost nor baked in, and the model is left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import drystone
from agreement import assert_close, needs_newer_export
from drystone import DrystoneWarning, UnsupportedError
from drystone.runtime.module import OptimizedModule


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)


class Table:
    rows: Any = None


class Makes(Base):
    """Makes a table at the first call and keeps it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.known, self.list, self.object = where, {}, [], Table()
        self.register_buffer("table", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.arange(x.shape[1]) * 2.0
        if self.where == "dict":
            table = self.known.setdefault(x.shape[1], made)
        elif self.where == "list":
            if not self.list:
                self.list.append(made)
            table = self.list[0]
        elif self.where == "object":
            self.object.rows = made if self.object.rows is None else self.object.rows
            table = self.object.rows
        else:
            if self.table is None:
                self.table = made
            table = self.table
        return self.layer(x) + table


@pytest.mark.parametrize("where", ["dict", "list", "object", "buffer"])
@pytest.mark.parametrize("capture", ["auto", "whole", "eager"])
@pytest.mark.parametrize("tuning", ["estimate", "measure"])
def test_a_table_of_the_first_call_is_a_constant_and_the_model_is_left_alone(where: str, capture: Any, tuning: Any) -> None:
    model, x = Makes(where).eval(), torch.randn(2, 4)
    fast = drystone.optimize(model, x, tuning=tuning, capture=capture)
    assert not model.known and not model.list and model.object.rows is None and model.table is None
    with torch.no_grad():
        for given in (x, torch.ones(5, 4)):
            torch.testing.assert_close(fast(given), model(given))
        fast.refresh()
        torch.testing.assert_close(fast(x), model(x))
    kept = [*model.known.values(), *model.list, model.object.rows, model.table]
    assert all(type(value) is torch.Tensor for value in kept if value is not None)


def test_the_model_is_left_alone_where_the_capture_fails() -> None:
    class Fails(Makes):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            return y if y.sum() > 0 else -y

    model, x = Fails("dict").eval(), torch.randn(2, 4)
    with pytest.raises(drystone.CaptureError):
        drystone.optimize(model, x, capture="whole", tuning="estimate")
    assert not model.known


class Hidden(Base):
    state: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        self.state = y if self.state is None else torch.tanh(y + self.state)
        return self.state


class Past(Base):
    def __init__(self) -> None:
        super().__init__()
        self.past: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.past.append(self.layer(x))
        return torch.stack(self.past).sum(0)


class Average(Base):
    def __init__(self) -> None:
        super().__init__()
        self.kept = {"mean": torch.zeros(4)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept["mean"].mul_(0.9).add_(x.mean(0))
        return self.layer(x) - self.kept["mean"]


class Counter(Base):
    count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.layer(x) * self.count


class Reference(Base):
    """Compares with what it was called with first: the same at each later call, and yet no constant."""

    first: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.first = x.clone() if self.first is None else self.first
        return self.layer(x - self.first)


STATES: list[Callable[[], nn.Module]] = [Hidden, Past, Average, Counter, Reference]


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("capture", ["auto", "eager"])
def test_state_goes_on_from_call_to_call(kind: Callable[[], nn.Module], inside: bool, capture: Any) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), kind()) if inside else kind()).eval()

    fast, eager = drystone.optimize(made(), torch.randn(2, 4), capture=capture, tuning="estimate"), made()
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(2, 4)
            assert_close(fast(x), eager(x))


@pytest.mark.parametrize("kind", STATES)
def test_state_that_matters_is_no_part_of_a_program(kind: Callable[[], nn.Module]) -> None:
    with pytest.raises(UnsupportedError, match="each call of the model changes"):
        drystone.optimize(kind().eval(), torch.randn(2, 4), capture="whole", tuning="estimate")


class Keeps(Base):
    last: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.last = self.layer(x)
        return self.last.relu()


@needs_newer_export
def test_what_a_call_changes_beside_its_result_is_named() -> None:
    model, x = Keeps().eval(), torch.randn(2, 4)
    with pytest.warns(DrystoneWarning, match=r"(?=.*'calls')(?=.*'last')(?=.*'seen')"):
        fast = drystone.optimize(model, x, tuning="estimate")
    assert isinstance(fast, OptimizedModule) and model.calls == 0 and model.last is None and not model.seen
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
    with pytest.raises(UnsupportedError, match="'calls'"):
        drystone.optimize(model, x, tuning="estimate", strict=True)


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


HOOKS: dict[str, Callable[[nn.Sequential, list[Any]], Any]] = {
    "after": lambda model, seen: model[1].register_forward_hook(lambda _, given, out: seen.append(out)),
    "before": lambda model, seen: model[2].register_forward_pre_hook(lambda _, given: (seen.append(given[0]), (given[0] * 2,))[1]),
    "named": lambda model, seen: model[0].register_forward_pre_hook(
        lambda _, given, named: (seen.append(given[0]), ((given[0] * 2,), named))[1], with_kwargs=True
    ),
    "result": lambda model, seen: model[0].register_forward_hook(lambda _, given, out: (seen.append(out), out + 1)[1]),
    "root": lambda model, seen: model.register_forward_hook(lambda _, given, out: (seen.append(out), out + 1)[1]),
    "before root": lambda model, seen: model.register_forward_pre_hook(lambda _, given: (seen.append(given[0]), given[0] * 2)[1]),
}


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("capture", ["auto", "eager"])
def test_forward_hooks_run_with_what_they_run_with_in_eager(hook: str, capture: Any) -> None:
    model, x, seen = _net(), torch.randn(1, 3, 9, 9), []
    HOOKS[hook](model, seen)
    fast = drystone.optimize(model, x, tuning="estimate", capture=capture)
    assert not any(isinstance(value, FakeTensor) for value in seen)
    with torch.no_grad():
        seen.clear()
        got, ours = fast(x), list(seen)
        seen.clear()
        assert_close(got, model(x))
    assert len(ours) == len(seen) == 1
    assert_close(ours[0] + 0, seen[0])


def test_strict_refuses_hooks_by_name() -> None:
    model = _net()
    HOOKS["after"](model, [])
    with pytest.raises(drystone.CaptureError, match=r"'1' \(ReLU\) has forward hooks"):
        drystone.optimize(model, torch.randn(1, 3, 9, 9), tuning="estimate", strict=True)


def _pruned(model: nn.Sequential) -> None:
    nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)


UTILITIES: list[Callable[[nn.Sequential], Any]] = [
    lambda model: nn.utils.weight_norm(model[0]),
    lambda model: nn.utils.spectral_norm(model[0]),
    lambda model: nn.utils.parametrizations.spectral_norm(model[0]),
    _pruned,
]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("utility", UTILITIES)
def test_hooks_of_torch_that_compute_weights_are_part_of_the_program(utility: Callable[[nn.Sequential], Any]) -> None:
    model, x = _net(), torch.randn(1, 3, 9, 9)
    utility(model)
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = drystone.optimize(model, x, tuning="estimate")
    assert isinstance(fast, OptimizedModule)
    with torch.no_grad():
        assert_close(fast(x), model(x))


def test_hooks_on_all_modules_see_no_trace() -> None:
    model, x, seen = _net(), torch.randn(1, 3, 9, 9), []
    with nn.modules.module.register_module_forward_hook(lambda module, given, out: seen.append((module, out))):
        fast = drystone.optimize(model, x, tuning="estimate")
        assert all(type(out) is torch.Tensor for _, out in seen)
        seen.clear()
        got = fast(x)
    assert seen[-1][0] is fast and seen[-1][1] is got
    model(x)
    assert seen[-1][1] is got


class Encoder(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.__dict__["calls"] += 1
        return self.layer(x)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self(x), dim=-1)

    def halves(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward(x[:, :4])


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_methods_beside_forward_reach_the_program() -> None:
    model, x = Encoder().eval(), torch.randn(3, 4)
    fast = drystone.optimize(model, x, tuning="estimate")
    with torch.no_grad():
        torch.testing.assert_close(fast.embed(x), nn.functional.normalize(model.layer(x), dim=-1))
        torch.testing.assert_close(fast.halves(torch.cat((x, x), 1)), model.layer(x))
        assert model.calls == 0
        torch.testing.assert_close(fast.embed(x[None]), nn.functional.normalize(model.layer(x[None]), dim=-1))
        assert model.calls == 1, "what the program does not take, the model does"
