"""What runs where, in which format, for how long: the answer of ``fast.explain()``."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.table import Table

from drystone.console import rendered
from drystone.plan.budget import Spent


@dataclass
class ExplainedStep:
    """One step of the program. ``kind``: "node", "finish" (a second step of a node), "reorder", "copy", "guard" or "aten".
    ``microseconds``: as autotuned.

    ``module``: of the model, that it comes from, by qualified name. ``fused``: what its epilogue does to each result.
    ``operations``: multiplications and additions of a product, 0 of what is none. ``bytes``: of operands and results, weights too.
    ``idle``: the share of its time, 0 to 1, that threads waited for each other; None where it was not seen, as inside of oneDNN.
    """

    name: str
    op: str
    shape: list[int]
    dtype: str
    implementation: str
    format: str
    microseconds: float
    kind: str
    reason: str = ""
    module: str = ""
    fused: list[str] = field(default_factory=list)
    operations: int = 0
    bytes: int = 0
    idle: float | None = None

    @property
    def gflops(self) -> float | None:
        """10⁹ operations a second; None of what is no product."""
        return self.operations / self.microseconds / 1e3 if self.operations and self.microseconds else None


@dataclass
class Rounding:
    """Of ``activations="int8"``: how many of the ``products`` with weights in codes round x. ``error``: what that costs, the
    greatest relative L2 error of a result on the inputs that the program was made with, against the same program in floats."""

    rounded: int
    products: int
    error: float


@dataclass
class Quantisation:
    """Of a model that was quantised here. ``error``: relative, of the results on the calibration data. ``signal_to_noise``: in
    decibel, by the name of each module with a product, that of its own results; "" is the whole model. ``kept``: modules that stay
    float32 for ``max_error``."""

    recipe: str
    samples: int
    error: float
    signal_to_noise: dict[str, float]
    kept: list[str]


@dataclass
class Floats:
    """The program of floats that was raced with one of codes. ``estimated``: its plan was, as that was clear enough."""

    milliseconds: float
    estimated: bool


Level = Literal["summary", "modules", "steps"]

# Modules that take a smaller share of the time are not shown.
LEAST_SHARE = 0.005
# Of the costliest modules, as many are in the summary.
COSTLIEST = 5


@dataclass
class Explanation:
    """``print()`` gives a summary, a tree of the model's modules, and a table of steps; ``text(level)`` the first of these;
    ``to_dict()`` what JSON can hold."""

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
    quantised: list[str] = field(default_factory=list)  # which weights are codes of few bits, in words
    rounding: Rounding | None = None
    quantisation: Quantisation | None = None
    floats: Floats | None = None  # where one was raced with this program

    @property
    def microseconds(self) -> float:
        return sum(step.microseconds for step in self.steps)

    @property
    def between_microseconds(self) -> float:
        """What a call takes beside its steps."""
        return max(0.0, 1e3 * self.plan_milliseconds - self.microseconds)

    @property
    def modules(self) -> dict[str, float]:
        """Microseconds of each of the model's modules, with those inside it; "" is the model itself."""
        found: dict[str, float] = {}
        for step in self.steps:
            name = step.module
            while name:
                found[name] = found.get(name, 0.0) + step.microseconds
                name = name.rpartition(".")[0]
            found[""] = found.get("", 0.0) + step.microseconds
        return found

    @property
    def reorders(self) -> list[ExplainedStep]:
        return [step for step in self.steps if step.kind in ("reorder", "copy")]

    @property
    def reorder_share(self) -> float:
        """The share of the time spent between formats, 0 to 1."""
        return sum(step.microseconds for step in self.reorders) / self.microseconds if self.microseconds else 0.0

    @property
    def idle_share(self) -> float | None:
        """Of the steps in which that was seen: the share of their time that threads waited for each other, 0 to 1."""
        seen = [(step.microseconds, step.idle) for step in self.steps if step.idle is not None]
        whole = sum(microseconds for microseconds, _ in seen)
        return sum(microseconds * idle for microseconds, idle in seen) / whole if whole else None

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
        return self.text()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def text(self, level: Level = "steps") -> str:
        """``"summary"``; with ``"modules"`` the tree too, with ``"steps"`` all."""
        shown = self._summary()
        if level in ("modules", "steps"):
            shown += ["", *self.tree()]
        if level == "steps":
            shown += ["", self.table(), ""]
            shown += [f"ATen runs {step.op} ({step.name}): {step.reason}" for step in self.segments]
        return "\n".join(shown)

    def share(self, microseconds: float) -> str:
        """Milliseconds, and of how much of the steps' time."""
        return f"{microseconds / 1e3:.3f} ms ({100 * microseconds / (self.microseconds or 1.0):.1f} %)"

    def _codes(self) -> list[str]:
        found, lines = self.quantisation, list[str]()
        if found is not None:
            kept = f"; in float32 for max_error: {', '.join(found.kept)}" if found.kept else ""
            lines.append(
                f"int8 by the recipe {found.recipe!r} from {found.samples} samples: relative error {found.error:.3g}, "
                f"signal to noise {found.signal_to_noise['']:.1f} dB{kept}."
            )
        if self.floats is not None:
            planned = ", planned by estimates," if self.floats.estimated else ""
            lines.append(f"The program of floats{planned} takes {self.floats.milliseconds:.3f} ms.")
        return lines

    def _summary(self) -> list[str]:
        lines = []
        if self.eager_milliseconds is not None:
            faster = self.eager_milliseconds / (self.plan_milliseconds or 1.0)
            whole = f"Whole call: drystone {self.plan_milliseconds:.3f} ms, eager {self.eager_milliseconds:.3f} ms"
            lines.append(f"{whole}: {faster:.2f} times as fast.")
        if self.runs == "eager":
            lines.append("Eager was faster in autotuning, so calls run eagerly.")
        lines += self._codes()
        aten = sum(step.microseconds for step in self.segments)
        lines.append(
            f"{len(self.steps)} steps, {self.microseconds / 1e3:.3f} ms: {len(self.segments)} on ATen take {self.share(aten)}, "
            f"{len(self.reorders)} reorders and copies {self.share(self.reorder_share * self.microseconds)}; "
            f"between the steps {self.between_microseconds / 1e3:.3f} ms."
        )
        if self.idle_share is not None:
            lines.append(f"In drystone's own steps, threads wait for each other {percent(self.idle_share)} of the time.")
        lines += self.costliest()
        lines.append(
            f"Arena {self.arena_bytes / 2**20:.1f} MB, packed weights {self.weights_bytes / 2**20:.1f} MB. "
            f"{self.threads} threads, {self.isa}, oneDNN {self.onednn}."
        )
        lines += self.quantised
        if (rounding := self.rounding) is not None:
            lines.append(
                f"{rounding.rounded} of {rounding.products} products with them round x to int8, which costs a relative error of "
                f"{rounding.error:.2g}."
            )
        if self.autotuning:
            lines.append(str(self.autotuning))
        lines += [f"In the background a program is being made for {purpose}." for purpose in self.preparing]
        return lines

    def costliest(self) -> list[str]:
        """The modules whose own steps take the most, a line each."""
        leaves: dict[str, float] = {}
        for step in self.steps:
            leaves[step.module] = leaves.get(step.module, 0.0) + step.microseconds
        costliest = sorted(leaves.items(), key=lambda item: -item[1])[:COSTLIEST]
        return [f"  {name or '(the model)'}: {self.share(microseconds)}" for name, microseconds in costliest]

    def tree(self) -> list[str]:
        """Modules below each other, indented."""
        lines = []
        for name, microseconds in self.modules_in_order():
            if microseconds >= LEAST_SHARE * self.microseconds:
                depth = name.count(".") + 1 if name else 0
                lines.append(f"{'  ' * depth}{name.rpartition('.')[2] or '(the model)'}: {self.share(microseconds)}")
        return lines

    def modules_in_order(self) -> list[tuple[str, float]]:
        """``modules``, each before those inside it, in the order of their steps."""
        return sorted(self.modules.items(), key=lambda item: self._first_step(item[0]))

    def _first_step(self, module: str) -> tuple[int, str]:
        inside = f"{module}." if module else ""
        first = (i for i, step in enumerate(self.steps) if step.module == module or step.module.startswith(inside))
        return next(first), module

    def table(self) -> str:
        """The steps, a line each."""
        table = Table(title=None, show_edge=False, pad_edge=False)
        for heading in ("step", "module", "op", "shape", "dtype", "implementation", "format"):
            table.add_column(heading)
        noise = {} if self.quantisation is None else self.quantisation.signal_to_noise
        watched = any(step.idle is not None for step in self.steps)
        for heading in ("µs", "share", "GFLOP/s", *(["threads idle"] if watched else []), *(["dB"] if noise else [])):
            table.add_column(heading, justify="right")
        total = self.microseconds or 1.0
        for step in self.steps:
            op = " + ".join([step.op, *step.fused])
            times = f"{step.microseconds:.1f}", f"{100 * step.microseconds / total:.1f} %"
            ratio = [f"{noise[step.module]:.1f}" if step.operations and step.module in noise else ""] if noise else []
            rate = "" if step.gflops is None else f"{step.gflops:.0f}"
            shape = "x".join(map(str, step.shape))
            numbers = [*times, rate, *([percent(step.idle)] if watched else []), *ratio]
            table.add_row(step.name, step.module, op, shape, step.dtype, step.implementation, step.format, *numbers)
        return rendered(table)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


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
