"""What runs where, in which format, for how long: the answer of ``fast.explain()``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from drystone.console import rendered
from drystone.plan.budget import Spent


@dataclass
class ExplainedStep:
    """One step of the program. ``kind``: "node", "reorder", "copy" or "aten"; ``microseconds`` as autotuned."""

    name: str
    op: str
    shape: list[int]
    dtype: str
    implementation: str
    format: str
    microseconds: float
    kind: str
    reason: str = ""


@dataclass
class Explanation:
    """``print()`` gives a table, ``to_dict()`` what JSON can hold."""

    steps: list[ExplainedStep]
    runs: str  # "drystone" or "eager": what a call does
    arena_bytes: int
    weights_bytes: int
    plan_milliseconds: float
    eager_milliseconds: float | None
    threads: int
    isa: str
    onednn: str
    preparing: list[str] = field(default_factory=list)  # the calls for which programs are being made in the background
    autotuning: Spent | None = None  # where times were measured for it

    @property
    def microseconds(self) -> float:
        return sum(step.microseconds for step in self.steps)

    @property
    def reorders(self) -> list[ExplainedStep]:
        return [step for step in self.steps if step.kind in ("reorder", "copy")]

    @property
    def reorder_share(self) -> float:
        """The share of the time spent between formats, 0 to 1."""
        return sum(step.microseconds for step in self.reorders) / self.microseconds if self.microseconds else 0.0

    @property
    def segments(self) -> list[ExplainedStep]:
        """The steps that torch runs."""
        return [step for step in self.steps if step.kind == "aten"]

    def to_dict(self) -> dict[str, Any]:
        summary = {
            "microseconds": self.microseconds,
            "reorders": len(self.reorders),
            "reorder_share": self.reorder_share,
            "aten_segments": [{"name": s.name, "op": s.op, "reason": s.reason} for s in self.segments],
        }
        return {**asdict(self), **summary}

    def __str__(self) -> str:
        total = self.microseconds or 1.0
        table = Table(title=None, show_edge=False, pad_edge=False)
        for heading, justify in (("step", "left"), ("op", "left"), ("shape", "left"), ("dtype", "left")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for heading in ("implementation", "format"):
            table.add_column(heading)
        table.add_column("µs", justify="right")
        table.add_column("share", justify="right")
        for step in self.steps:
            shape = "x".join(map(str, step.shape))
            share = f"{100 * step.microseconds / total:.1f} %"
            table.add_row(
                step.name, step.op, shape, step.dtype, step.implementation, step.format, f"{step.microseconds:.1f}", share
            )
        lines = [rendered(table), ""]
        lines.append(
            f"{len(self.steps)} steps, {total / 1e3:.3f} ms in the steps; {len(self.reorders)} reorders and copies take "
            f"{100 * self.reorder_share:.1f} %. "
            f"Arena {self.arena_bytes / 2**20:.1f} MB, packed weights {self.weights_bytes / 2**20:.1f} MB. "
            f"{self.threads} threads, {self.isa}, oneDNN {self.onednn}."
        )
        for step in self.segments:
            lines.append(f"ATen runs {step.op} ({step.name}): {step.reason}")
        if self.autotuning:
            lines.append(str(self.autotuning))
        if self.eager_milliseconds is not None:
            lines.append(f"Whole call: drystone {self.plan_milliseconds:.3f} ms, eager {self.eager_milliseconds:.3f} ms.")
        if self.runs == "eager":
            lines.append("Eager was faster in autotuning, so calls run eagerly.")
        lines += [f"In the background a program is being made for {purpose}." for purpose in self.preparing]
        return "\n".join(lines)


@dataclass
class ExplainedPart:
    """One part of a model that is not captured whole. ``runs``: "drystone" or "eager", the latter with its ``reason``."""

    name: str  # qualified, "" for the model itself
    module: str  # its class
    runs: str
    reason: str = ""
    programs: list[Explanation] = field(default_factory=list)  # one for each way in which the part is called


@dataclass
class PartedExplanation:
    """``print()`` gives the parts and then each part's own explanation, ``to_dict()`` what JSON can hold."""

    parts: list[ExplainedPart]
    runs: str  # "drystone": the parts that have programs run them; "eager": all is eager, for this reason:
    reason: str
    plan_milliseconds: float | None
    eager_milliseconds: float | None

    @property
    def steps(self) -> list[ExplainedStep]:
        """The steps of all programs, part after part."""
        return [step for part in self.parts for program in part.programs for step in program.steps]

    @property
    def segments(self) -> list[ExplainedStep]:
        """The steps that torch runs inside the programs."""
        return [step for step in self.steps if step.kind == "aten"]

    def to_dict(self) -> dict[str, Any]:
        parts = [{**asdict(part), "programs": [program.to_dict() for program in part.programs]} for part in self.parts]
        return {**asdict(self), "parts": parts, "steps": [asdict(step) for step in self.steps]}

    def __str__(self) -> str:
        table = Table(title=None, show_edge=False, pad_edge=False)
        for heading in ("part", "class", "runs", "because"):
            table.add_column(heading, overflow="fold")
        for part in self.parts:
            table.add_row(part.name or "(the model)", part.module, part.runs, part.reason)
        lines = [rendered(table)]
        if self.plan_milliseconds is not None and self.eager_milliseconds is not None:
            lines.append(f"Whole call: drystone {self.plan_milliseconds:.3f} ms, eager {self.eager_milliseconds:.3f} ms.")
        if self.runs == "eager":
            lines.append(f"Calls run eagerly: {self.reason}.")
        for part in self.parts:
            for program in part.programs:
                lines.append(f"\n{part.name} ({part.module}):\n{program}")
        return "\n".join(lines)
