"""``drystone.profile``: the steps of programs, timed while they serve calls."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from torch import nn

from drystone import native
from drystone.preparer import explained, programs_of
from drystone.runtime import program as running
from drystone.runtime.explain import ExplainedStep, Explanation, Level
from drystone.runtime.module import OptimizedModule
from drystone.runtime.program import Program


@dataclass
class ProfiledProgram:
    """The calls of one program: ``seconds`` of each, and ``steps``, of each the seconds of all steps; ``idle``: those of them that
    threads waited for each other, below 0 where that is not seen."""

    program: Program
    seconds: list[float] = field(default_factory=list)
    steps: list[list[float]] = field(default_factory=list)
    idle: list[list[float]] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return len(self.seconds)

    def explained(self) -> list[ExplainedStep]:
        """The steps, with the medians over the calls."""
        found = []
        for record, times, idle in zip(
            self.program.assembled.records, zip(*self.steps, strict=True), zip(*self.idle, strict=True), strict=True
        ):
            step = explained(record, statistics.median(times))
            if min(idle) >= 0:
                step.idle = min(
                    1.0, statistics.median(lost / took if took else 0.0 for lost, took in zip(idle, times, strict=True))
                )
            found.append(step)
        return found

    def explanation(self) -> Explanation:
        assembled = self.program.assembled
        return Explanation(
            steps=self.explained(),
            runs="drystone",
            arena_bytes=assembled.arena_bytes,
            weights_bytes=assembled.constant_bytes,
            plan_milliseconds=1e3 * statistics.median(self.seconds),
            eager_milliseconds=None,
            threads=self.program.threads,
            isa=native.isa(),
            onednn=native.onednn_version(),
        )


class Profile:
    """``with profile(fast) as p:`` times the steps of each call inside; then ``print(p)``, ``p.to_dict()``.

    Calls of other threads count too. A call is about one in a hundred slower, as the clock is read between the steps.
    """

    def __init__(self, fast: nn.Module | None = None) -> None:
        """``fast``: what to look at; None: all programs, those of parts and of modules optimised in place among them."""
        self._fast = fast
        self._seen: dict[int, ProfiledProgram] = {}

    def __enter__(self) -> Profile:
        running.observers.append(self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        running.observers.remove(self._note)

    def _note(self, program: Program, steps: list[float], idle: list[float], seconds: float) -> None:
        seen = self._seen.get(id(program)) or self._seen.setdefault(id(program), ProfiledProgram(program))
        seen.steps.append(steps)
        seen.idle.append(idle)
        seen.seconds.append(seconds)

    @property
    def programs(self) -> list[ProfiledProgram]:
        """Those that were called, the one with the most time first."""
        found = list(self._seen.values())
        if isinstance(self._fast, OptimizedModule):
            own = {id(entry.program) for _, entry in programs_of(self._fast).items()}
            found = [seen for seen in found if id(seen.program) in own]
        return sorted(found, key=lambda seen: -sum(seen.seconds))

    def text(self, level: Level = "steps") -> str:
        """As ``Explanation.text``, for each program."""
        shown = []
        for seen in self.programs:
            sizes = ", ".join("x".join(map(str, place.desc.shape)) for place in seen.program.assembled.inputs)
            median = 1e3 * statistics.median(seen.seconds)
            shown.append(f"{seen.calls} calls of inputs {sizes}, {median:.3f} ms (median).\n{seen.explanation().text(level)}")
        return "\n\n".join(shown) or "No program was called. What an eager model spends its time on: drystone profile --eager"

    def __str__(self) -> str:
        return self.text()

    def to_dict(self) -> list[dict[str, Any]]:
        return [{"calls": seen.calls, **seen.explanation().to_dict()} for seen in self.programs]


profile = Profile
