"""What a model keeps between calls, and what runs around its modules: neither lost nor baked in, and the model is left alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import drystone
from agreement import assert_close, needs_newer_export, prepared_of
from drystone import DrystoneWarning, UnsupportedError, native
from drystone.runtime.module import OptimizedModule
from stateful_models import PROGRAMS, Assigned, Average, Base, Decaying, Given, Written


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


@pytest.mark.parametrize("kind", [Past, Counter])
def test_state_of_other_kinds_than_tensors_is_no_part_of_a_program(kind: Callable[[], nn.Module]) -> None:
    with pytest.raises(UnsupportedError, match="each call of the model changes"):
        drystone.optimize(kind().eval(), torch.randn(2, 4), capture="whole", tuning="estimate")


def _held(model: nn.Module) -> list[Any]:
    """All that a model has in the attributes of its modules."""
    return [
        {
            name: value
            for name, value in {**vars(module), **module._buffers}.items()
            if not name.startswith("_") and name != "forward"
        }
        for module in model.modules()
    ]


def _optimised(model: nn.Module, x: torch.Tensor, way: str, tuning: Any = "estimate") -> nn.Module:
    if way == "optimize":
        return drystone.optimize(model, x, capture="whole", tuning=tuning)
    return drystone.optimize_(model, None if way == "at the first call" else x, capture="whole", tuning=tuning)


WAYS = ["optimize", "in place", "at the first call"]


@pytest.mark.filterwarnings("ignore:.*operators run on ATen")
@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("way", WAYS)
def test_a_program_keeps_state_where_the_model_has_it(kind: str, way: str) -> None:
    torch.manual_seed(0)
    model, x = PROGRAMS[kind]().eval(), torch.randn(2, 4)
    eager = copy.deepcopy(model)
    fast = _optimised(model, x, way)
    assert_close(_held(model), _held(eager))  # preparing has changed nothing
    with torch.no_grad():
        for call in range(6):
            x = torch.randn(2, 4)
            if call == 3:
                for each in (model, eager):
                    each.reset()  # type: ignore[operator]
            if call == 4 and way == "optimize":
                assert_close(model(x), eager(x))  # a call of the model itself, between
            else:
                assert_close(fast(x), eager(x))
            assert_close(_held(model), _held(eager))


@pytest.mark.filterwarnings("ignore:.*operators run on ATen")
@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_program_runs_and_nothing_else(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = PROGRAMS[kind]().eval(), torch.randn(2, 4)
    fast = _optimised(model, x, "optimize")
    with torch.no_grad():
        model(x)  # makes what the first call makes

        def forward(*args: Any) -> None:
            raise AssertionError("the model runs")

        monkeypatch.setitem(vars(model), "forward", forward)
        fast(x)


@pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")
def test_what_is_written_by_index_is_written_in_place() -> None:
    model, x = PROGRAMS["index_copy"]().eval(), torch.randn(2, 4)
    fast = _optimised(model, x, "optimize")
    assembled, state = prepared_of(fast).program.assembled, prepared_of(fast).state
    assert state is not None and len(state.written) == 2 and not assembled.segments
    assert assembled.within, "the cache's rows are written where they are"
    version, cache = model.cache._version, model.cache
    with torch.no_grad():
        fast(x)
    assert model.cache is cache and cache._version > version


class ReadsOn(Written):
    """Reads the old state after the new one is known, and gives the new one as a result of its own."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        old = self.h + 1
        h = torch.tanh(self.layer(x) + self.h)
        last = old * self.h + h
        self.h.copy_(h)
        return last, h


def test_state_that_is_read_after_its_last_change_is_not_overwritten() -> None:
    model = ReadsOn().eval()
    eager = copy.deepcopy(model)
    fast, results = _optimised(model, torch.randn(2, 4), "optimize"), []
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(2, 4)
            results.append((fast(x), eager(x)))
    assert_close(*zip(*results, strict=True))  # earlier results are as they were


@pytest.mark.parametrize("kind", ["Assigned", "Written", "Pair"])
def test_measuring_does_not_advance_the_state(kind: str) -> None:
    model, x = PROGRAMS[kind]().eval(), torch.randn(2, 4)
    with torch.no_grad():
        model(x)
    eager = copy.deepcopy(model)
    fast = _optimised(model, x, "optimize", tuning="measure")
    assert_close(_held(model), _held(eager))
    with torch.no_grad():
        assert_close(fast(x), eager(x))


def test_tensors_keep_their_identity_as_in_eager() -> None:
    written, given, x = Written().eval(), Given().eval(), torch.randn(2, 4)
    h, version = written.h, written.h._version
    with torch.no_grad():
        _optimised(written, x, "optimize")(x)
        assert written.h is h and h._version > version and h.any()
        before = given.h
        result = _optimised(given, x, "optimize")(x)
    assert given.h is result and result is not before and not before.any()


def test_results_are_apart_from_state_that_is_written_to() -> None:
    model, x = Written().eval(), torch.randn(2, 4)
    fast = _optimised(model, x, "optimize")
    with torch.no_grad():
        first = fast(x)
        kept = first.clone()
        fast(x)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("way", WAYS)
def test_state_of_another_form_runs_eagerly_and_goes_on(way: str) -> None:
    model, x = Assigned().eval(), torch.randn(2, 4)
    eager = copy.deepcopy(model)
    fast = _optimised(model, x, way)
    with torch.no_grad():
        for each in (model, eager):
            each.h = torch.zeros(4)  # type: ignore[assignment]  # of other sizes: the first call makes them the usual ones
        for _ in range(3):
            assert_close(fast(x), eager(x))
        for each in (model, eager):
            each.h = each.h.double()  # type: ignore[operator, assignment]
        for _ in range(2):
            assert_close(fast(x), eager(x))


def test_memory_that_state_shares_runs_eagerly() -> None:
    class Twice(Written):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("g", torch.zeros(2, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.g.add_(x)
            return super().forward(x) + self.g

    model, x = Twice().eval(), torch.randn(2, 4)
    eager = copy.deepcopy(model)
    fast = _optimised(model, x, "optimize")
    with torch.no_grad():
        for call in range(4):
            if call == 2:
                for each in (model, eager):
                    each.g = each.h  # type: ignore[assignment]
            assert_close(fast(x), eager(x))


def test_other_sizes_have_programs_that_share_the_state() -> None:
    model = Decaying().eval()
    model.h = torch.zeros(4)
    eager = copy.deepcopy(model)
    fast = _optimised(model, torch.randn(4), "optimize")
    mean = Mean().eval()
    eager_mean = copy.deepcopy(mean)
    fast_mean = _optimised(mean, torch.randn(2, 4), "optimize")
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(4)
            assert_close(fast(x), eager(x))
        for rows in (2, 3, 5, 3):
            x = torch.randn(rows, 4)
            assert_close(fast_mean(x), eager_mean(x))
            assert_close(mean.h, eager_mean.h)


class Mean(Written):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.mul_(0.9).add_(x.mean(0))
        return self.layer(x) - self.h[0]


def test_state_in_reduced_precision_stays_as_it_is() -> None:
    model, x = Assigned().eval(), torch.randn(2, 4)
    fast = drystone.optimize(model, x, capture="whole", tuning="estimate", dtype=torch.bfloat16)
    with torch.no_grad():
        fast(x)
    assert model.h.dtype is torch.float32


def test_an_artefact_says_that_it_holds_no_state(tmp_path: Path) -> None:
    fast = _optimised(Assigned().eval(), torch.randn(2, 4), "optimize")
    with pytest.raises(UnsupportedError, match="keeps 'h' between calls"):
        drystone.save(fast, tmp_path / "model")


class Input(Base):
    """Writes to a cache that it is given."""

    def forward(self, x: torch.Tensor, cache: torch.Tensor, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cache.index_copy_(1, at, self.layer(x)[:, None])
        return cache.sum(1), cache


@pytest.mark.filterwarnings("ignore:.*operators run on ATen")
@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("form", ["dense", "strided", "shared"])
@pytest.mark.parametrize("tuning", ["estimate", "measure"])
def test_an_input_is_written_to(way: str, form: str, tuning: Any) -> None:
    model, x, at = Input().eval(), torch.randn(2, 4), torch.tensor([0])
    eager = copy.deepcopy(model)
    example = (x, torch.zeros(2, 5, 4), at)
    if way == "optimize":
        fast: nn.Module = drystone.optimize(model, example, capture="whole", tuning=tuning)
    else:
        fast = drystone.optimize_(model, example, capture="whole", tuning=tuning)
    assert not example[1].any()
    caches = [torch.zeros(4, 5, 4)[::2] if form == "strided" else torch.zeros(2, 5, 4) for _ in range(2)]
    with torch.no_grad():
        for call in range(3):
            x, at = torch.randn(2, 4), torch.tensor([call])
            given = [(cache[:, 0] if form == "shared" else x, cache, at) for cache in caches]
            results = [module(*args) for module, args in zip((fast, eager), given, strict=True)]
            assert_close(*results)
            assert_close(*caches)
            assert results[0][1] is caches[0]


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
    with pytest.warns(DrystoneWarning, match="changes 'seen', though"):
        fast = drystone.optimize(model, x, tuning="estimate")
    assert isinstance(fast, OptimizedModule) and model.calls == 0 and model.last is None and not model.seen
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        fast(2 * x)
        torch.testing.assert_close(model.last, model.layer(2 * x))  # kept for others to see, beside what calls add to
    assert model.calls == 3
    with pytest.raises(UnsupportedError, match="'seen'"):
        drystone.optimize(model, x, tuning="estimate", strict=True)


class Appends(Base):
    def forward(self, x: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        features.append(self.layer(x))
        return features[-1].relu()


class Fills(Base):
    def forward(self, x: torch.Tensor, features: dict[str, torch.Tensor]) -> torch.Tensor:
        features["last"] = self.layer(x)
        return features["last"].relu()


@pytest.mark.parametrize("kind, given", [(Appends, []), (Fills, {}), (Fills, {"last": torch.zeros(2, 4)})])
def test_what_is_put_into_containers_of_the_caller_is_there(kind: type[nn.Module], given: Any) -> None:
    model, x = kind().eval(), torch.randn(2, 4)
    with pytest.raises(UnsupportedError, match="among its inputs has"):
        drystone.optimize(model, (x, given), tuning="estimate", capture="whole")
    with pytest.warns(DrystoneWarning, match="can't be captured whole"):
        fast = drystone.optimize(model, (x, given), tuning="estimate")
    mine, eager = copy.copy(given), copy.copy(given)
    with torch.no_grad():
        assert_close(fast(x, mine), model(x, eager))
    assert_close(mine, eager)


class Warms(Base):
    """Decides on a number that a few calls do not show."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layer(x).relu() if self.calls > 5 else self.layer(x)


class Gathers(Base):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.layer(x))
        return self.seen[-1].relu()


@pytest.mark.parametrize("kind, said", [(Warms, "'calls', and its result depends"), (Gathers, "the length of 'seen'")])
def test_counters_that_are_decided_upon_and_lists_that_grow_are_refused(kind: type[nn.Module], said: str) -> None:
    model, eager, x = kind().eval(), kind().eval(), torch.randn(2, 4)
    eager.load_state_dict(model.state_dict())
    with pytest.raises(UnsupportedError, match=said):
        drystone.optimize(model, x, tuning="estimate", capture="whole")
    drystone.optimize_(model, tuning="estimate")
    with torch.no_grad(), pytest.warns(DrystoneWarning):
        for _ in range(7):
            assert_close(model(x), eager(x))
    assert vars(model).get("calls") == vars(eager).get("calls")
    assert_close(vars(model).get("seen", []), vars(eager).get("seen", []))


class Updates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        return F.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True).relu()


@pytest.mark.parametrize("way", ["optimize", "optimize_"])
def test_running_statistics_go_on(way: str) -> None:
    torch.manual_seed(0)
    model, x = Updates().eval().requires_grad_(False), torch.randn(2, 3, 6, 6)
    eager = copy.deepcopy(model)
    with pytest.raises(UnsupportedError, match="running statistics"):
        drystone.optimize(model, x, tuning="estimate", capture="whole")
    with pytest.warns(DrystoneWarning, match="running statistics"):
        fast = (
            drystone.optimize_(model, x, tuning="estimate")
            if way == "optimize_"
            else drystone.optimize(model, x, tuning="estimate")
        )
    assert_close(list(model.buffers()), list(eager.buffers()))  # preparing has changed nothing
    for _ in range(3):
        assert_close(fast(x), eager(x))
    if way == "optimize_":  # else a copy has them
        assert_close(list(model.buffers()), list(eager.buffers()))


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
