"""From a graph to a program, wherever the graph comes from.

A ``Source`` gives graphs: a model that is captured whole, or a part of one; a graph of Dynamo's; an artefact. ``Programs`` are
those of one source. A ``Preparer`` makes them, and owns what they share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from drystone import native
from drystone.capture.export import Captured
from drystone.capture.signature import Signature
from drystone.capture.state import State
from drystone.errors import DrystoneError, UnsupportedError, warn
from drystone.factories import on_cpu
from drystone.forks import Lock
from drystone.graph.build import build
from drystone.graph.graph import Graph, Node, mark_accurate
from drystone.graph.ops import Aten, Operator, QuantisedLinear
from drystone.options import Options
from drystone.passes import simplify
from drystone.passes.in_precision import in_precision
from drystone.passes.quantise_weights import BITS, allow_rounding, keep_codes, mark_stored, quantise_weights, quantised_weights
from drystone.plan.assembled import Assembled, Ends, StepRecord
from drystone.plan.autotune import Planner
from drystone.plan.budget import Budget
from drystone.plan.environment import environment
from drystone.plan.implementations import Option
from drystone.plan.implementations.base import WeightStore
from drystone.plan.tuning_cache import TuningCache
from drystone.runtime.agreement import relative_error
from drystone.runtime.background import Background, waits
from drystone.runtime.explain import ExplainedStep, Explanation, Rounding
from drystone.runtime.memory import Memory
from drystone.runtime.module import OptimizedModule, Prepared, supply_of
from drystone.runtime.program import Program
from drystone.runtime.programs import ProgramTable, budget
from drystone.runtime.proxy import threads_in_force
from drystone.runtime.timing import AUTOTUNE_SECONDS, against_eager, step_seconds
from drystone.runtime.weights import Named, Weights, released
from drystone.spinner import spinner

# What a graph is for, beside the thread count: the shapes of its inputs, and numbers that it has as constants.
Sizes = tuple[Any, ...]
Choice = dict[Node, Option]

# Runs for the times of steps that are shown.
EXPLAINED_RUNS = 3


class Eager:
    """A call of the model, run by torch on what no one else has. ``renew`` undoes what it has changed."""

    def __init__(self, make: Callable[[], Callable[[], Any]], stateful: bool) -> None:
        self._make, self._stateful, self._call = make, stateful, make()

    def __call__(self) -> Any:
        return self._call()

    def renew(self) -> None:
        if self._stateful:
            self._call = self._make()


class Source:
    """Gives the graphs that programs are made of. The weights are constants of them."""

    timed = True  # programs are run when they are made, for ``explain()``
    singles = math.inf  # captures for one size alone that may be made yet
    while_making: Callable[[], AbstractContextManager[None]] = staticmethod(nullcontext)

    def capture(self) -> Iterable[Named]:
        """Take the weights as they are now; gives those that are to be watched, with their names."""
        return ()

    def graph_for(self, sizes: Sizes, tensors: list[torch.Tensor]) -> tuple[Graph, Signature]:
        """The graph for inputs like ``tensors``, and how results are put together."""
        raise NotImplementedError

    def eager(self, sizes: Sizes, tensors: list[torch.Tensor]) -> Eager:
        """The same, run by torch, to be timed beside a program; of a source that is timed."""
        raise NotImplementedError

    def choice(self, planner: Planner, threads: int) -> Choice | None:
        """What was chosen already for the planner's graph."""
        return None

    def check(self, assembled: Assembled) -> None:
        """Raises where a program must not run."""

    def describe(self, explanation: Explanation) -> None:
        """Add what is known of the graph itself."""


class Times:
    """Measured seconds, a cache a thread count, each read from its file once."""

    def __init__(self) -> None:
        self._caches: dict[int, TuningCache] = {}
        self.contended = 0.0  # the share of the cores' time that other work took from the worst of what was measured

    def of(self, threads: int) -> TuningCache:
        if threads not in self._caches:
            self._caches[threads] = TuningCache(environment(threads))
        return self._caches[threads]

    def keep(self) -> None:
        """Save what was measured, for the next preparation; not what was measured beside other work, which is said."""
        contended, self.contended = self.contended, 0.0
        if not contended:
            for cache in self._caches.values():
                cache.save()
            return
        self._caches.clear()
        warn(
            f"other work took {contended:.0%} of the cores' time while candidates were measured, so the plan may not be the "
            "fastest, and its times are not kept; prepare(*inputs) measures again",
        )


class Preparer:
    """Makes programs of graphs, and owns what these share: packed weights, the memory of calls, measured times, a lock."""

    def __init__(self, beside: Preparer | None = None) -> None:
        """``beside``: shares all with it but the packed weights."""
        self.weights = WeightStore()
        self.memory: Memory = beside.memory if beside else Memory()
        self.lock: Lock = beside.lock if beside else Lock(reentrant=True)  # of whoever has something made
        self.times: Times = beside.times if beside else Times()

    def renew(self) -> None:
        """The weights have changed: nothing that was packed is used again. Measured times hold."""
        self.weights = WeightStore()

    def program(
        self,
        graph: Graph,
        threads: int,
        tensors: Sequence[torch.Tensor] = (),
        budget: Budget | None = None,
        *,
        held_format: str | None = None,
        ends: Ends | None = None,
        kin: Planner | None = None,
        choice: Callable[[Planner, int], Choice | None] = lambda planner, threads: None,
        say: Callable[[str, float | None], None] = lambda text, left: None,
    ) -> tuple[Program, Planner]:
        """The program of ``graph``, and what planned it: by measuring on ``tensors`` within ``budget``, or without at once."""
        native.set_threads(threads)
        planner = Planner(graph, self.weights, self.times.of(threads), held_format, kin, ends)
        if budget is None:
            assembled = planner.assemble(choice(planner, threads) or planner.kept() or planner.best())
        else:
            given = list(tensors)

            def measure(candidate: Assembled) -> list[list[float]]:
                return step_seconds(Program(candidate, threads), given, budget, planner.fastest)

            assembled = planner.autotune(measure, say, budget)
            self.times.contended = max(self.times.contended, planner.contended)
        return Program(assembled, threads, self.memory), planner


class Programs(ProgramTable[tuple[int, Sizes], Prepared]):
    """The programs of one source, by thread count and sizes. What a new size takes, and how many are kept, is decided here."""

    def __init__(
        self,
        preparer: Preparer,
        source: Source,
        options: Options,
        originals: Iterable[Named] = (),
        usual: Sizes | None = None,
        quiet: bool = False,
    ) -> None:
        """``originals``: the weights that graphs are made from. ``usual``: the sizes of the example. ``quiet``: no warning of what
        runs on ATen."""
        super().__init__(preparer.lock, budget())
        self.preparer, self.source, self.options, self.quiet = preparer, source, options, quiet
        self.originals, self.usual = Weights(originals), usual
        self.released = False  # the model has no weights any more
        self.current: tuple[int, Prepared] | None = None  # the last used for the example's shapes, and its threads
        self.kin: Planner | None = None  # the first program's
        self.background = Background(options.strict) if options.new_shapes == "background" else None
        self.verdict: str | None = None  # whether eager was faster then: what was not compared follows it

    def at(self, sizes: Sizes, tensors: list[torch.Tensor], threads: int, budget: Budget | None = None) -> Prepared:
        """The program for these sizes and so many threads, those in force; a ``budget`` makes it again, by measuring."""
        return self.find((threads, sizes), lambda: self._make(sizes, tensors, threads, budget), budget is not None)

    def budget(self) -> Budget:
        return self.options.budget()

    def leaves_to_eager(self, sizes: Sizes, threads: int) -> bool:
        goes_on = self.verdict == "eager" or (self.background is not None and not waits())
        return goes_on and self.get((threads, sizes)) is None

    def ask(self, sizes: Sizes, tensors: list[torch.Tensor], threads: int) -> None:
        if self.background is None or self.verdict == "eager":
            return

        def make(tensors: list[torch.Tensor], _: Any) -> None:
            try:
                self.at(sizes, tensors, threads)
            except DrystoneError:
                self.source.singles -= 1
                raise

        self.background.ask((threads, sizes), f"inputs of {', '.join(map(str, map(list, sizes)))}", tensors, {}, make)

    def refresh(self) -> None:
        """Take over the weights as they are now. Programs are made again when they are called for."""
        threads_in_force()
        with self.making:
            if self.released:
                released()
            captured = self.source.capture()
            self.preparer.renew()
            self.clear()  # first: no call may find the new weights in order, and then an old program
            self.originals.take(captured)

    def clear(self) -> None:
        super().clear()
        self.current = None

    def adopt(self, others: Programs) -> None:
        """Take over the programs of the same model for calls of the same form."""
        for key, entry in others.items():
            self.find(key, lambda entry=entry: entry)  # type: ignore[misc]

    def _cost(self, entry: Prepared) -> int:
        return entry.bytes

    def _used(self, key: tuple[int, Sizes], entry: Prepared) -> None:
        super()._used(key, entry)
        threads, sizes = key
        if sizes == self.usual:
            self.current = threads, entry

    def _make(self, sizes: Sizes, tensors: list[torch.Tensor], threads: int, budget: Budget | None) -> Prepared:
        preparer = self.preparer
        with on_cpu(), self.source.while_making(), spinner("preparing") as say:
            graph, signature = self.source.graph_for(sizes, tensors)
            tensors = [tensor.detach().resolve_neg().resolve_conj().contiguous() for tensor in tensors]
            if (state := signature.state) is not None:
                # Measuring changes copies.
                tensors = [tensor.clone() if index in state.written else tensor for index, tensor in enumerate(tensors)]
                tensors += [torch.zeros(form.shape, dtype=form.dtype) for form in state.hidden]
            if self.released:
                budget = None
            program, planner = preparer.program(
                graph,
                threads,
                tensors,
                budget,
                held_format=self.options.formats,
                kin=self.kin,
                choice=self.source.choice,
                say=say,
            )
            if budget:
                preparer.times.keep()
            self.source.check(program.assembled)
            self.kin = self.kin or planner
            self._report_segments(program.assembled)
            say("comparing with eager")
            eager = self.source.eager(sizes, tensors) if budget and self.source.timed else None
            # A call of other sizes does not wait for times that nobody looks at.
            timed = self.source.timed and (budget is not None or self.usual in (None, sizes))
            seconds = self._timed(program, tensors, eager, budget, signature.state, planner.took) if timed else _Seconds()
            runs = seconds.verdict or self.verdict or "drystone"
            self.verdict = self.verdict or runs
            rounding = self._rounding(program, planner, tensors, signature.state) if timed else None
            explain = partial(self._explain, program, planner, seconds, runs, budget, rounding)
            return Prepared(program, runs == "eager", explain, graph, signature)

    def _report_segments(self, assembled: Assembled) -> None:
        segments = [record for record in assembled.records if record.kind == "aten"]
        if not segments or native.isa() == "none":
            return
        named = {(_named(r.node.op) if r.node else "?"): r.reason for r in segments}
        text = "; ".join(f"{name}: {reason}" for name, reason in named.items())
        if self.options.strict:
            raise UnsupportedError(f"strict=True, and {len(segments)} operators have no native implementation: {text}")
        if not self.quiet:
            self.quiet = True
            warn(f"{len(segments)} operators run on ATen: {text}")

    def _timed(
        self,
        program: Program,
        tensors: list[torch.Tensor],
        model: Eager | None,
        budget: Budget | None,
        state: State | None,
        known: float | None,
    ) -> _Seconds:
        """``model`` is timed beside the program, where there is one. ``known``: what the program took in autotuning."""
        ours = eager = None
        if model and budget:
            # State stays as it is: a counter that went on would leave its cache at last.
            copies = {} if state is None else {index: torch.empty_like(tensors[index]) for index in state.written}

            def call() -> None:
                outputs = program(tensors)
                if state is not None:
                    own = {id(output) for output in outputs}
                    written = [tensor if id(tensor) in own else copies.get(i, tensor) for i, tensor in enumerate(tensors)]
                    state.write(written, outputs)

            ours, eager = against_eager(call, model, budget, model.renew, known)
        count = EXPLAINED_RUNS if model and (ours or 0.0) < AUTOTUNE_SECONDS else 1
        if not (budget is None or budget.allows(count * (ours or 0.0))):
            return _Seconds(ours, eager)
        runs = [program.time_steps(tensors) for _ in range(count)]
        return _Seconds(ours, eager, [min(times) for times in zip(*runs, strict=True)])

    def _rounding(self, program: Program, planner: Planner, tensors: list[torch.Tensor], state: State | None) -> Rounding | None:
        """What products that round x cost, on ``tensors``."""
        if not (rounded := planner.rounding()):
            return None
        exact = Program(planner.assemble_exact(), program.threads, self.preparer.memory)
        # What a call changes is changed in copies.
        results = (run(tensors if state is None else [tensor.clone() for tensor in tensors]) for run in (exact, program))
        want, got = ([result for result in each if result.is_floating_point()] for each in results)
        products = sum(isinstance(node.op, QuantisedLinear) for node in planner.graph)
        return Rounding(len(rounded), products, relative_error(got, want))

    def _explain(
        self,
        program: Program,
        planner: Planner,
        seconds: _Seconds,
        runs: str,
        budget: Budget | None,
        rounding: Rounding | None,
    ) -> Explanation:
        assembled = program.assembled
        steps = seconds.steps or planner.known_seconds(assembled)
        explanation = Explanation(
            steps=[explained(record, each) for record, each in zip(assembled.records, steps, strict=True)],
            runs=runs,
            arena_bytes=assembled.arena_bytes,
            weights_bytes=self.preparer.weights.bytes,
            plan_milliseconds=1e3 * (sum(steps) if seconds.ours is None else seconds.ours),
            eager_milliseconds=None if seconds.eager is None else 1e3 * seconds.eager,
            threads=program.threads,
            isa=native.isa(),
            onednn=native.onednn_version(),
            autotuning=budget.report(len(planner.graph.nodes), *planner.untold) if budget else None,
            quantised=quantised_weights(planner.graph),
            rounding=rounding,
        )
        self.source.describe(explanation)
        return explanation


@dataclass(frozen=True)
class _Seconds:
    """What a program and the model took, and each step, as far as they were timed."""

    ours: float | None = None
    eager: float | None = None
    steps: list[float] | None = None

    @property
    def verdict(self) -> str | None:
        """What is faster, where both were timed."""
        if self.ours is None or self.eager is None:
            return None
        return "eager" if self.eager < self.ours else "drystone"


def programs_of(fast: OptimizedModule) -> Programs:
    programs = supply_of(fast)
    assert isinstance(programs, Programs)
    return programs


def lowered(
    captured: Captured, options: Options, float32: Collection[str] = (), kept: Collection[str] = (), within: str = ""
) -> Graph:
    """The graph of what was captured, ready to be planned. By name: the modules that stay ``float32``, and those whose weights are
    ``kept`` from being quantised. ``within``: where the model is in what was captured; names are the model's own."""
    graph = build(captured)
    for node in graph:
        node.module = node.module.removeprefix(within).removeprefix(".")
        if node.module in float32:
            node.float32 = True
    mark_stored(graph, kept, options.grouped)
    simplify(graph)
    if options.weights in BITS:
        quantise_weights(graph, options.weights, options.group_size)
    keep_codes(graph, options.grouped)
    if options.activations is not None:
        allow_rounding(graph)
    if options.accuracy == "strict":
        mark_accurate(graph)
    return in_precision(graph, options.dtype)


def explained(record: StepRecord, seconds: float) -> ExplainedStep:
    node, value = record.node, record.value
    of = node or value.producer
    return ExplainedStep(
        name=record.name,
        op=_named(node.op) if node else record.kind,
        shape=list(value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        implementation=record.implementation,
        format=record.layout,
        microseconds=1e6 * seconds,
        kind=record.kind,
        reason=record.reason,
        module=of.module if of else "",
        fused=[op.kind for op in node.epilogue] if node else [],
        operations=node.op.operations(node.inputs, node.output) if node and record.kind == "node" else 0,
        bytes=sum(place.desc.bytes for place in [*record.places, *record.call_inputs, *record.call_outputs] if place),
    )


def _named(op: Operator) -> str:
    return str(op.target if isinstance(op, Aten) else op)
