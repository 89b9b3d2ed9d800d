"""Calls that do not wait for a program: eager answers them until a thread has made it."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from children import child
from drystone import DrystoneWarning, InputError, ShapeError, native
from drystone.preparer import programs_of
from drystone.runtime import background
from fresh_process import run

X = torch.randn(4, 8)


class Waits(nn.Module):
    """Its capture stops in its ``forward`` until ``go_on`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 64), nn.Linear(64, 8)
        self.scale = 1.0

    def forward(self, x: torch.Tensor, twice: bool = False) -> torch.Tensor:
        if type(x) is not torch.Tensor:
            INSIDE.set()
            assert GO_ON.wait(60)
        y = self.last(torch.relu(self.first(x))) * self.scale
        return y * 2 if twice else y


INSIDE, GO_ON = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def capture_goes_on() -> Iterator[None]:
    INSIDE.clear()
    GO_ON.set()
    with torch.no_grad():
        yield
    GO_ON.set()
    finished()


def finished() -> None:
    """Wait for the thread."""
    until = time.monotonic() + 60
    while background._worker is not None:
        assert time.monotonic() < until
        time.sleep(0.002)


def prepared(model: nn.Module, **options: Any) -> Any:
    return drystone.optimize(model, X, tuning="estimate", new_shapes="background", **options)


def runs_eager(model: nn.Module, call: Callable[[], Any]) -> bool:
    calls: list[int] = []
    with model.first.register_forward_hook(lambda *_: calls.append(1)):  # type: ignore[union-attr, operator]
        call()
    return bool(calls)


@pytest.fixture
def model() -> Waits:
    torch.manual_seed(0)
    return Waits().eval().requires_grad_(False)


def test_eager_answers_until_a_new_size_has_a_program(model: Waits) -> None:
    fast = prepared(model)
    GO_ON.clear()
    x = torch.randn(6, 8)
    for _ in range(3):
        assert torch.equal(fast(x), model(x))
    assert INSIDE.wait(60)
    assert torch.equal(fast(x), model(x)) and runs_eager(model, lambda: fast(x))
    assert not runs_eager(model, lambda: fast(X)), "known sizes do not wait either"
    assert fast.explain().preparing == ["inputs of [6, 8]"]
    assert "program is being made for inputs of [6, 8]" in str(fast.explain())
    GO_ON.set()
    finished()
    assert fast.explain().preparing == [] and len(programs_of(fast)) == 2
    torch.testing.assert_close(fast(x), model(x))
    assert not runs_eager(model, lambda: fast(x))


def test_random_numbers_do_not_come_again(model: Waits) -> None:
    fast = prepared(model)
    running, go_on = threading.Event(), threading.Event()

    def in_the_trial_run(*_: Any) -> None:
        if threading.current_thread().name == "drystone":
            running.set()
            assert go_on.wait(60)

    model.__class__ = type("Stops", (Waits,), {"forward": lambda self, *args: (in_the_trial_run(), Waits.forward(self, *args))[1]})
    fast(torch.randn(6, 8))
    assert running.wait(60)
    first = torch.randn(4)
    go_on.set()
    finished()
    assert not torch.equal(first, torch.randn(4))


def test_one_preparation_a_size_whichever_threads_ask(model: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, captures = prepared(model), []
    capture = drystone.sources.whole.capture_module
    monkeypatch.setattr("drystone.sources.whole.capture_module", lambda *args: captures.append(args) or capture(*args))
    GO_ON.clear()
    x = torch.randn(6, 8)
    want, got = model(x), []

    def work() -> None:
        with torch.no_grad():
            got.extend(fast(x) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    GO_ON.set()
    finished()
    fast(x)
    assert all(torch.equal(y, want) for y in got) and len(captures) == 1 and len(got) == 20


@pytest.mark.skipif(native.isa() == "none", reason="eager is faster")
def test_prepare_waits(model: Waits) -> None:
    fast = prepared(model)
    x = torch.randn(6, 8)
    fast(x)
    assert fast.prepare(x).steps and not runs_eager(model, lambda: fast(x))


def test_another_form_of_call(model: Waits) -> None:
    fast = prepared(model)
    GO_ON.clear()
    assert torch.equal(fast(X, twice=True), model(X, twice=True))
    assert fast.explain().preparing == ["calls of another form than the example's"]
    GO_ON.set()
    finished()
    torch.testing.assert_close(fast(X, twice=True), model(X, twice=True))
    assert not runs_eager(model, lambda: fast(X, twice=True))
    with pytest.raises(InputError, match="nothing"):
        fast(X, nothing=1)
    finished()


class Fixed(Waits):
    def forward(self, x: torch.Tensor, twice: bool = False) -> torch.Tensor:
        if type(x) is not torch.Tensor and x.shape[0] != 4:
            raise ValueError("four, and no other")
        return super().forward(x)


@pytest.mark.parametrize("place", [False, True])
def test_a_failure_is_warned_of_once_and_eager_goes_on(place: bool) -> None:
    model = Fixed().eval().requires_grad_(False)
    options: Any = {"tuning": "estimate", "new_shapes": "background"}
    fast = drystone.optimize_(copy.deepcopy(model), X, **options) if place else drystone.optimize(model, X, **options)
    with pytest.warns(DrystoneWarning, match=r"inputs of \[5, 8\].*'x' has 5 instead of 4.*four, and no other") as said:
        for rows in (5, 6, 5, 6):
            x = torch.randn(rows, 8)
            assert torch.equal(fast(x), model(x))
            finished()
    assert len(said) == 1 and Path(said[0].filename) == Path(__file__)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fast(torch.randn(4, 7))


def test_strict_raises_what_has_failed() -> None:
    fast = prepared(Fixed().eval(), strict=True)
    x = torch.randn(5, 8)
    with pytest.warns(DrystoneWarning, match="four"):
        fast(x)
        finished()
    with pytest.raises(ShapeError, match="four"):
        fast(x)


def test_declared_ranges_hold(model: Waits) -> None:
    fast = prepared(model, dynamic_shapes={"x": {0: torch.export.Dim("rows", min=2, max=6)}})
    with pytest.raises(ShapeError, match="rows from 2 to 6"):
        fast(torch.randn(7, 8))
    x = torch.randn(6, 8)
    fast(x), finished()
    assert not runs_eager(model, lambda: fast(x))


@pytest.fixture
def fast(model: Waits) -> Waits:
    return drystone.optimize_(copy.deepcopy(model), tuning="estimate", new_shapes="background")


def program_runs(fast: nn.Module, *args: Any) -> bool:
    state = vars(fast)["_drystone"]
    ran: list[int] = []
    own = type(fast).forward

    def forward(self: nn.Module, *given: Any, **named: Any) -> Any:
        ran.append(1)
        return own(self, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fast), "forward", forward)
        fast(*args)
    return not ran and bool(state.fast)


def test_the_first_call_in_place_does_not_wait(model: Waits, fast: Waits) -> None:
    GO_ON.clear()
    for _ in range(3):
        assert torch.equal(fast(X), model(X))
    assert INSIDE.wait(60) and torch.equal(fast(X), model(X))
    assert drystone.explain(fast).preparing == [""] and "being captured" in str(drystone.explain(fast))
    GO_ON.set()
    finished()
    for x in (X, torch.randn(5, 8), torch.randn(2, 3, 8)):
        assert torch.equal(fast(x), model(x)) or x is X
        finished()
        torch.testing.assert_close(fast(x), model(x))
        assert program_runs(fast, x)
    assert drystone.explain(fast).preparing == []


def test_what_is_done_while_eager_runs_is_not_done_again(fast: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    GO_ON.clear()
    fast(X)
    assert INSIDE.wait(60)
    own = Waits.forward

    def forward(self: Waits, *args: Any) -> Any:
        GO_ON.set()
        finished()
        return own(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Waits, "forward", forward)
        fast(X)
    finished()
    assert len(vars(fast)["_drystone"].fast) == 1 and program_runs(fast, X)


@pytest.mark.parametrize("what", ["weights", "attribute", "restored"])
def test_what_changes_while_it_is_captured(model: Waits, fast: Waits, what: str) -> None:
    GO_ON.clear()
    fast(X)
    assert INSIDE.wait(60)
    if what == "restored":
        drystone.restore(fast)
    for module in (model, fast):
        module.last.bias.add_(what == "weights")
        module.scale += what == "attribute"
    GO_ON.set()
    finished()
    for _ in range(3):
        torch.testing.assert_close(fast(X), model(X))
        finished()
    assert "forward" not in vars(fast) if what == "restored" else program_runs(fast, X)


class Counts(Waits):
    """Can't be captured whole, and changes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor, twice: bool = False) -> torch.Tensor:
        self.count += 1
        y = torch.relu(self.first(x))
        return y if y.sum() > 1e9 else self.last(y) + self.count


@pytest.mark.skipif(native.isa() == "none", reason="no part has a program")
@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_parts_in_place() -> None:
    model = Counts().eval().requires_grad_(False)
    fast = drystone.optimize_(copy.deepcopy(model), tuning="estimate", new_shapes="background")
    for calls in range(12):
        x = torch.randn(4 + calls // 4, 8)
        torch.testing.assert_close(fast(x), model(x))
        if calls == 2:
            finished()
    finished()
    assert fast.count == 12 and vars(fast)["_drystone"].parts
    state = vars(fast.last)["_drystone"]
    torch.testing.assert_close(fast(x), model(x))
    assert len(programs_of(state.fast[0])) == 3


def test_a_block_prepares_at_its_end(model: Waits) -> None:
    fast = copy.deepcopy(model)
    with drystone.optimizing(fast, tuning="estimate", new_shapes="background"):
        fast(X), fast(X[:2])
    assert program_runs(fast, X) and program_runs(fast, X[:2])


def test_programs_are_for_the_callers_threads(model: Waits) -> None:
    fast = prepared(model)
    for threads in (2, 1):
        torch.set_num_threads(threads)
        fast(X, twice=threads == 1)
        fast(torch.randn(6, 8))
    finished()
    assert [threads for (threads, sizes), _ in programs_of(fast).items() if sizes == ((6, 8),)] == [2, 1]
    assert [threads for (threads, _), _ in programs_of(fast._others[0]).items()] == [1]


def test_a_forked_child_prepares_itself(model: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    fast = prepared(model)
    reached, go_on = threading.Event(), threading.Event()
    lowered = drystone.sources.whole.lowered

    def stops(*args: Any) -> Any:
        reached.set()
        assert go_on.wait(60)
        return lowered(*args)

    x = torch.randn(6, 8)
    want = model(x)
    with monkeypatch.context() as patch:
        patch.setattr("drystone.sources.whole.lowered", stops)
        fast(x)
        assert reached.wait(60)

        def work() -> None:
            drystone.sources.whole.lowered = lowered
            assert fast.explain().preparing == []
            assert torch.equal(fast(x), want)
            finished()
            torch.testing.assert_close(fast(x), want)
            assert not runs_eager(model, lambda: fast(x))

        said = child(work)
        go_on.set()
        finished()
    assert said == "ok" and not runs_eager(model, lambda: fast(x))


def test_the_interpreter_ends() -> None:
    code = """
import torch, drystone, time
class Endless(torch.nn.Module):
    def forward(self, x):
        while type(x) is not torch.Tensor and x.shape[0] != 4:
            time.sleep(0.001)
        return x + 1
fast = drystone.optimize(Endless().eval(), torch.ones(4), tuning="estimate", new_shapes="background")
assert fast(torch.ones(5)).sum() == 10
time.sleep(0.1)
"""
    began = time.monotonic()
    ended = run(code)
    assert ended.returncode == 0 and not ended.stderr and time.monotonic() - began < 60


def test_a_capture_that_would_disturb_calls_is_waited_for(model: Waits) -> None:
    own = model.first.forward
    vars(model.first)["forward"] = lambda x: own(x)
    with pytest.warns(DrystoneWarning, match="new shapes wait"):
        fast = prepared(model)
    x = torch.randn(6, 8)
    torch.testing.assert_close(fast(x), model(x))
    assert len(programs_of(fast)) == 2 and background._worker is None


def test_too_much_is_not_put_off_forever(model: Waits) -> None:
    fast = prepared(model)
    GO_ON.clear()
    sizes = range(5, 5 + 2 * background.MOST)
    for rows in sizes:
        fast(torch.randn(rows, 8))
    assert len(fast.explain().preparing) <= background.MOST + 1
    GO_ON.set()
    finished()
    fast(torch.randn(sizes[-1], 8)), finished()
    assert not runs_eager(model, lambda: fast(torch.randn(sizes[-1], 8)))


def test_options_that_do_not_go_together(model: Waits) -> None:
    with pytest.raises(InputError, match="new_shapes"):
        drystone.optimize(model, X, new_shapes="sometimes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="leave out new_shapes"):
        prepared(model, capture="eager")
