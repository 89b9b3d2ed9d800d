"""What autotuning may spend, by a clock that the tests move."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import drystone
from drystone import InputError, native
from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Graph
from drystone.graph.ops import Conv, Linear
from drystone.inplace.explanation import explain
from drystone.inplace.state import FIRST_CALL_SECONDS
from drystone.passes import simplify
from drystone.plan.assembled import Assembled
from drystone.plan.autotune import Planner
from drystone.plan.budget import RUNS, SECONDS, Budget
from drystone.plan.candidates import MATTERS, Candidates
from drystone.plan.implementations.base import WeightStore
from drystone.plan.tuning_cache import TuningCache
from drystone.runtime.program import Program
from drystone.runtime.timing import against_eager, step_seconds

pytestmark = pytest.mark.usefixtures("no_tuning_cache")
requires_native = pytest.mark.skipif(native.isa() == "none", reason="there is nothing to choose")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def passing(self, seconds: float) -> Callable[[], None]:
        """A call that takes so long."""

        def call() -> None:
            self.now += seconds

        return call


def test_time_counts_while_it_is_spent() -> None:
    clock = Clock()
    budget = Budget(10, clock=clock)
    clock.now += 5
    with budget.spending(), budget.spending():
        clock.now += 4
        assert (budget.spent, budget.left) == (4, 6)
        assert budget.allows(5) and not budget.allows(6)
    clock.now += 5
    assert budget.spent == 4
    with pytest.raises(ValueError), budget.spending():
        clock.now += 7
        raise ValueError
    assert (budget.spent, budget.left) == (11, 0) and not budget.allows()


def test_runs_are_bounded_too() -> None:
    budget = Budget(10, runs=3)
    budget.ran = 3
    assert not budget.allows()


def test_a_share_is_charged_to_the_whole_and_has_its_own_runs() -> None:
    clock = Clock()
    whole = Budget(10, runs=5, clock=clock)
    share = whole.share(0.5)
    with share.share(0.5).spending():
        clock.now += 2
    share.ran = 5
    assert (whole.spent, share.spent, share.left) == (2, 2, 3)
    assert whole.allows() and not share.allows()
    assert whole.share(0.5).left == 4


# -- what is timed


class SlowProgram:
    def __init__(self, clock: Clock, *steps: float) -> None:
        self.clock, self.steps, self.runs = clock, steps, 0

    def time_steps(self, tensors: list[torch.Tensor], limit: float = math.inf) -> list[float]:
        self.runs += 1
        seconds: list[float] = []
        for step in self.steps:
            if sum(seconds) <= limit:
                self.clock.now += step
                seconds.append(step)
        return seconds


@pytest.mark.parametrize(("seconds", "given", "runs"), [(0.001, 10, 6), (1, 10, 2), (4, 10, 2), (60, 10, 1), (0.001, 0, 1)])
def test_runs_of_a_candidate_end_with_the_budget(seconds: float, given: float, runs: int) -> None:
    clock = Clock()
    budget, program = Budget(given, clock=clock), SlowProgram(clock, seconds)
    with budget.spending():
        found = step_seconds(program, [], budget)  # type: ignore[arg-type]
    assert program.runs == budget.ran == runs
    assert found == [[seconds]] * (runs if seconds >= 1 else max(1, runs - 1))  # a long one warms up, and counts


@pytest.mark.parametrize(("seconds", "fastest", "runs"), [(1, 0.4, 1), (1, 0.6, 2), (0.01, 0.001, 6)])
def test_a_long_candidate_that_is_far_slower_runs_once(seconds: float, fastest: float, runs: int) -> None:
    clock = Clock()
    program = SlowProgram(clock, seconds)
    step_seconds(program, [], Budget(10, clock=clock), fastest)  # type: ignore[arg-type]
    assert program.runs == runs


@pytest.mark.parametrize(
    ("fastest", "given", "steps"), [(math.inf, 10, 4), (1, 10, 3), (math.inf, 2.5, 3), (0.01, 10, 1), (1, 0.1, 1)]
)
def test_a_hopeless_run_ends_with_the_step_that_shows_it(fastest: float, given: float, steps: int) -> None:
    clock = Clock()
    budget, program = Budget(given, clock=clock), SlowProgram(clock, 1.0, 1.0, 1.0, 1.0)
    with budget.spending():
        found = step_seconds(program, [], budget, fastest)  # type: ignore[arg-type]
    assert len(found[0]) == steps and (len(found) == 1) == (steps < 4)


@pytest.mark.parametrize("aten", [False, True])
def test_the_steps_of_a_run_with_a_limit(aten: bool) -> None:
    layers = [nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64)]
    model = nn.Sequential(*layers, *([Rare()] if aten else [])).eval().requires_grad_(False)
    x = torch.randn(8, 64)
    tuned = planner_of(model, x)
    program = Program(tuned.assemble(tuned.best()), torch.get_num_threads())
    count = len(program.assembled.records)
    assert count > 2 and len(program.time_steps([x], 0.0)) == 1
    assert len(program.time_steps([x], 1e9)) == len(program.time_steps([x])) == count
    torch.testing.assert_close(program([x])[0], model(x))  # as before


class Rare(nn.Module):
    """An operator that only torch has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0e(x)


@requires_native
def test_a_hopeless_candidate_is_not_tried_again_for_what_it_did_not_come_to() -> None:
    tuned, plain = planner(), []

    def measure(plan: Assembled) -> list[list[float]]:
        if plan.choice[first][1].output != "plain":
            return [[1e-3] * len(plan.records)]
        plain.append(plan)
        reached = [record.node for record in plan.records].index(first)
        return [[1e-3] * reached + [1.0]]

    first, linear = tuned.graph.nodes[0], tuned.graph.nodes[-1]
    most = max(len([option for option in found if option[1].output == "plain"]) for found in tuned.options.values())
    plan = tuned.autotune(measure)
    assert 1 <= len(plain) <= most
    assert all(tuned.seconds(first, ended.choice[first]) == 1.0 for ended in plain)
    assert plan.choice[first][1].output != "plain" and tuned.took is not None and tuned.took < 1
    assert all(tuned.seconds(linear, option) is not None for option in tuned.options[linear]), "other formats told"


@pytest.mark.parametrize(
    ("known", "eager", "spent"),
    [(1, 2.5, 2.5), (1, 1.5, 5), (1, 0.5, 3), (0.1, 2.5, 5.2), (None, 2.5, 7)],
    ids=["far slower", "slower", "faster", "short", "not timed"],
)
def test_the_race_takes_the_time_of_a_long_program_from_autotuning(known: float | None, eager: float, spent: float) -> None:
    clock = Clock()
    budget, ours = Budget(10, clock=clock), known or 1.0
    assert against_eager(clock.passing(ours), clock.passing(eager), budget, known=known) == pytest.approx((ours, eager))
    assert budget.spent == pytest.approx(spent)


@pytest.mark.parametrize(("eager", "given", "calls"), [(1, 10, 2), (0.02, 10, 34), (5, 10, 1), (5, 0, 1), (0.02, 0, 2)])
def test_the_race_ends_with_the_budget(eager: float, given: float, calls: int) -> None:
    """Where eager wins narrowly it is doubted for a second."""
    clock = Clock()
    budget, ours = Budget(given, clock=clock), 1.01 * eager if eager < 1 else 1.0
    pair = against_eager(clock.passing(ours), clock.passing(eager), budget)
    assert pair == (pytest.approx(ours), pytest.approx(eager))
    assert budget.spent == pytest.approx(calls * (ours + eager), rel=0.3)


# -- what autotuning takes of it


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.c, self.d = nn.Conv2d(32, 32, 1), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.d(self.c(torch.relu(self.b(torch.relu(self.a(x))))).mean((2, 3)))
        return y


def planner_of(model: nn.Module, x: torch.Tensor) -> Planner:
    graph: Graph = simplify(build(capture(model.eval(), (x,))))
    return Planner(graph, WeightStore(), TuningCache({}))


def planner() -> Planner:
    return planner_of(Net(), torch.randn(1, 3, 20, 20))


def measuring(clock: Clock, seconds: float) -> tuple[list[Assembled], Callable[[Assembled], list[list[float]]]]:
    """A measure that takes so many seconds, and the programs that it was given."""
    timed: list[Assembled] = []

    def measure(plan: Assembled) -> list[list[float]]:
        clock.now += seconds
        timed.append(plan)
        return [[seconds / len(plan.records)] * len(plan.records)]

    return timed, measure


@requires_native
@pytest.mark.parametrize(("seconds", "most"), [(0.01, 20), (1.5, 6), (2.5, 3), (4, 1), (25, 1)])
def test_autotuning_keeps_within_its_seconds(seconds: float, most: int) -> None:
    clock, tuned = Clock(), planner()
    budget = Budget(10, clock=clock)
    timed, measure = measuring(clock, seconds)
    tuned.autotune(measure, budget=budget)
    assert 1 <= len(timed) <= most
    assert budget.spent <= max(10, seconds)
    estimated, share = tuned.untold
    assert bool(estimated) == (seconds > 0.01) and (share > 0) == bool(estimated)


@requires_native
def test_autotuning_keeps_within_its_runs() -> None:
    budget, tuned = Budget(math.inf, runs=7), planner()

    def measure(plan: Assembled) -> list[list[float]]:
        budget.ran += 6
        return [[1e-4] * len(plan.records)]

    tuned.autotune(measure, budget=budget)
    assert budget.ran == 12 and tuned.untold[0]


@requires_native
def test_without_budget_the_estimate_chooses() -> None:
    tuned = planner()
    timed, measure = measuring(Clock(), 1)
    plan = tuned.autotune(measure, budget=Budget(0))
    expected = planner()
    assert not timed
    assert [plan.choice[node] for node in tuned.graph] == [
        expected.assemble(expected.best()).choice[node] for node in expected.graph
    ]


@requires_native
def test_what_a_budget_did_not_reach_is_measured_next_time() -> None:
    cache, shares = TuningCache({}), []
    graph = planner().graph
    for _ in range(8):
        clock = Clock()
        tuned = Planner(graph, WeightStore(), cache)
        tuned.autotune(measuring(clock, 2.5)[1], budget=Budget(10, clock=clock))
        shares.append(tuned.untold[1])
    assert shares[0] > 0.1 and shares[-1] < MATTERS


# -- which programs are timed


@requires_native
@pytest.mark.parametrize("format", ["plain", "channels_last", native.blocked().name])
def test_what_costs_most_is_measured_first(format: str) -> None:
    """The format in which the large convolution has no time comes before those in which only the others have none."""
    tuned = planner()
    large = max(tuned.graph, key=lambda node: tuned.node_cost(node, tuned.options[node][0]))
    assert isinstance(large.op, Conv)
    for option in tuned.options[large]:
        if option[1].output != format:
            tuned.cache.put(tuned.key(large, option), 1e-3)
    found = Candidates(tuned).next()
    assert found and found[0][large][1].output == format


@requires_native
def test_equal_layers_take_turns() -> None:
    layers = [layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.LayerNorm(64))]
    tuned = planner_of(nn.Sequential(*layers), torch.randn(8, 64))
    found = Candidates(tuned).next()
    assert found
    linears = [node for node in tuned.graph if isinstance(node.op, Linear)]
    assert len({tuned.signature(node) for node in linears}) == 1
    assert {found[0][node] for node in linears} >= set(tuned.options[linears[0]]) and len(tuned.options[linears[0]]) > 1


@requires_native
def test_what_takes_next_to_no_time_is_not_measured() -> None:
    tuned = planner_of(nn.Sequential(nn.Linear(2048, 2048), nn.Linear(2048, 1), nn.Linear(1, 1)), torch.randn(64, 2048))
    large = next(iter(tuned.graph))
    for option in tuned.options[large]:
        tuned.cache.put(tuned.key(large, option), 1.0)
    assert Candidates(tuned).next() is None
    estimated, share = Candidates(tuned).untold()
    assert estimated == len(tuned.graph.nodes) - 1 and 0 < share < 0.01


@requires_native
def test_an_option_without_a_time_is_no_bargain() -> None:
    """The cost model may be far off: what is measured says how far."""
    tuned = planner()
    node = next(iter(tuned.graph))
    known, *others = tuned.options[node]
    tuned.cache.put(tuned.key(node, known), 1.0)
    assert all(tuned.node_cost(node, option) > 0.1 for option in others)


# -- the option


@requires_native
def test_explain_says_what_was_spent() -> None:
    x = torch.randn(1, 3, 20, 20)
    fast = drystone.optimize(Net().eval(), x, tuning=1e-9)
    spent = fast.explain().autotuning  # type: ignore[union-attr]
    assert spent and spent.runs == 0 and spent.estimated > 0 and spent.seconds > 0
    assert "not all implementations were measured" in str(fast.explain())
    assert fast.explain().to_dict()["autotuning"]["estimated"] == spent.estimated


@requires_native
def test_each_preparation_has_a_budget_of_its_own() -> None:
    model, x = nn.Linear(8, 8).eval(), torch.randn(2, 8)
    fast = drystone.optimize(model, x)
    spent = fast.prepare(x).autotuning  # type: ignore[union-attr]
    assert spent and spent.budget_seconds == SECONDS and spent.runs <= RUNS and spent.estimated == 0
    assert "were measured" in str(spent)
    assert drystone.optimize(model, x, tuning="estimate").explain().autotuning is None  # type: ignore[union-attr]


@requires_native
def test_a_first_call_that_waits_has_less() -> None:
    model, x = Net().eval(), torch.randn(1, 3, 20, 20)
    for example, seconds in ((None, FIRST_CALL_SECONDS), (x, SECONDS)):
        drystone.optimize_(model, example)
        with torch.inference_mode():
            model(x)
        spent = explain(model).modules[""][0].autotuning  # type: ignore[union-attr]
        assert spent and spent.budget_seconds == seconds


@pytest.mark.parametrize("given", [0, -1.0, True, math.nan, "10", None, (10,)])
@pytest.mark.parametrize("face", ["optimize", "optimize_", "compile"])
def test_a_wrong_value_is_refused(given: Any, face: str) -> None:
    model, x = nn.Linear(2, 2).eval(), torch.ones(1, 2)
    error = BackendCompilerFailed if face == "compile" else InputError
    with pytest.raises(error, match="tuning: expected 'measure', 'estimate' or a positive number of seconds"):
        if face == "compile":
            torch.compile(model, backend="drystone", options={"tuning": given})(x)
        else:
            getattr(drystone, face)(model, x, tuning=given)
