"""A model that is quantised here, as a source of graphs: ``optimize(…, dtype=torch.int8)``."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from drystone.capture.export import Captured
from drystone.errors import ShapeError, warn
from drystone.graph.graph import Graph
from drystone.options import Options
from drystone.preparer import Eager, Preparer, Sizes, lowered, programs_of
from drystone.quantisation.recipes import Quantised, quantise
from drystone.quantisation.samples import samples_of
from drystone.runtime.explain import Explanation, Floats, Quantisation
from drystone.runtime.module import Example, OptimizedModule
from drystone.runtime.weights import Named
from drystone.sources.whole import WholeModel, optimize_whole
from drystone.spinner import spinner

# Calls of each, in turn, that decide between the program of codes and that of floats.
RACES = 7
# What measuring the program of codes may take of the budget; that of floats has what is left.
CODES_SHARE = 0.6
# A program of floats that is planned by estimates loses less than this against one that is measured.
ESTIMATED = 1.5


class QuantisedModel(WholeModel):
    """Captured, quantised from calibration data, and captured again as a graph of codes. Shapes vary as is declared alone."""

    any_shape = False
    quantised: Quantised
    captured: Captured  # in floats

    def __init__(
        self,
        example: Example,
        options: Options,
        calibration: Any,
        kept: Collection[str],
        max_error: float | None,
        dynamic_shapes: Any = None,
    ) -> None:
        super().__init__(example, options, dynamic_shapes)
        self.floats = self.example
        self.kept, self.max_error = kept, max_error
        self.samples = samples_of(calibration, self.example.args, self.example.kwargs, varying=dynamic_shapes is not None)

    def capture(self) -> list[Named]:
        self.example = self.floats
        captured = self.captured = self._captured()
        with spinner("preparing") as say:
            self.quantised = quantise(captured, self.samples, self.kept, self.max_error, say)
        self.example = replace(self.floats, model=self.quantised.module)
        super().capture()
        self.signature = replace(self.signature, parameters=captured.signature.parameters)
        self.resizable = False
        return captured.originals

    def _graph(self, captured: Captured) -> Graph:
        return lowered(captured, self.options, self.kept)

    def graph_for(self, sizes: Sizes, tensors: list[Any]) -> tuple[Graph, Any]:
        if self.dynamic_shapes is None and sizes != tuple(value.shape for value in self.inputs):
            raise ShapeError(
                f"a quantised model takes the shapes of its example, and others as dynamic_shapes declares: "
                f"{self._differing(sizes)}"
            )
        return super().graph_for(sizes, tensors)

    def eager(self, sizes: Sizes, tensors: list[Any]) -> Eager:
        quantised, self.example = self.example, self.floats
        try:
            return super().eager(sizes, tensors)
        finally:
            self.example = quantised

    def describe(self, explanation: Explanation) -> None:
        found = self.quantised
        explanation.quantisation = Quantisation(found.recipe, len(self.samples), found.error, found.noise, found.kept)


class FloatModel(WholeModel):
    """The model that was captured to be quantised."""

    def __init__(self, example: Example, options: Options, dynamic_shapes: Any, captured: Captured) -> None:
        super().__init__(example, options, dynamic_shapes)
        self._first: Captured | None = captured

    def _captured(self) -> Captured:
        captured, self._first = self._first, None  # a refresh captures anew
        return captured or super()._captured()


def optimize_quantised(
    example: Example,
    options: Options,
    preparer: Preparer,
    calibration: Any,
    max_error: float | None,
    kept: Collection[str],
    dynamic_shapes: Any = None,
) -> OptimizedModule:
    """The program of codes; that of floats where it is faster."""
    source = QuantisedModel(example, options, calibration, kept, max_error, dynamic_shapes)
    budget = options.budget()
    fast = optimize_whole(example, options, preparer, dynamic_shapes, source=source, budget=budget.share(CODES_SHARE))
    if not options.measures:
        return fast
    captured = source.captured
    del source.captured

    def in_floats(options: Options) -> OptimizedModule:
        other = FloatModel(example, options, dynamic_shapes, captured)
        return optimize_whole(example, options, Preparer(), dynamic_shapes, quiet=True, source=other, budget=budget.share(1.0))

    floats = in_floats(replace(options, tuning="estimate"))
    codes_seconds, floats_seconds = _race(example, fast, floats)
    estimated = floats_seconds > ESTIMATED * codes_seconds
    if not estimated:
        floats = in_floats(options)
        codes_seconds, floats_seconds = _race(example, fast, floats)
    if codes_seconds > floats_seconds:
        warn(
            f"dtype=torch.int8: the program of codes takes {1e3 * codes_seconds:.2f} ms and that of floats "
            f"{1e3 * floats_seconds:.2f} ms on this CPU, so calls run in floats"
        )
        return floats
    current = programs_of(fast).current
    assert current is not None
    current[1].explanation.floats = Floats(1e3 * floats_seconds, estimated)
    return fast


def _race(example: Example, *modules: OptimizedModule) -> list[float]:
    """The least seconds of a call of each."""
    least = [float("inf")] * len(modules)
    for _ in range(RACES):
        for index, module in enumerate(modules):
            began = time.perf_counter()
            module(*example.args, **example.kwargs)
            least[index] = min(least[index], time.perf_counter() - began)
    return least
