"""What a profile finds out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from drystone.runtime.explain import Explanation
from drystone.tools.ops.results import READ


@dataclass
class EagerFigures:
    """Of a call of the model as it is. ``reorder_share``: of its steps' time, 0 to 1. ``saving``: milliseconds that a plan would
    save, estimated, by cause. ``references``: the operators that ran plain loops of oneDNN's.
    """

    milliseconds: float
    reorders: int
    reorder_share: float
    saving: dict[str, float]
    references: list[str]

    def __str__(self) -> str:
        share = f"{100 * self.reorder_share:.1f} % of its steps' time in {self.reorders} reorders and copies"
        return f"{self.milliseconds:.3f} ms, {share}; {len(self.references)} operators ran reference loops"

    def estimate(self) -> list[str]:
        lines = [
            f"Estimated, not measured: a plan would save {sum(self.saving.values()):.2f} of {self.milliseconds:.2f} ms of a call."
        ]
        lines += [f"  {milliseconds:.2f} ms: {name}" for name, milliseconds in self.saving.items()]
        return lines + [f"oneDNN ran reference loops for {name}." for name in self.references]


@dataclass
class Result:
    """``milliseconds``: of a plain call; ``observed_milliseconds``: of one whose steps were timed. Both are medians.

    ``explanation``: of the program, or of the model as it is. ``eager``: the latter's figures, where there is a
    model. ``limits``: the machine's GFLOP/s by dtype, and GB/s of reading.
    """

    model: str
    dtype: str
    shapes: list[list[int]]
    threads: int
    calls: int
    milliseconds: float
    observed_milliseconds: float
    explanation: Explanation
    eager: EagerFigures | None
    limits: dict[str, float]
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        """GFLOP/s."""
        return self.limits[self.dtype]

    @property
    def read(self) -> float:
        """GB/s."""
        return self.limits[READ]

    def conditions(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        explained = self.explanation
        return f"{self.dtype}, inputs {shapes}, {self.threads} threads, {explained.isa}, oneDNN {explained.onednn}"

    def text(self) -> str:
        explained, eager = self.explanation, self.eager
        lines = [self.conditions()]
        if eager is not None and explained.runs == "eager":
            between = f"between the steps {explained.between_microseconds / 1e3:.3f} ms"
            lines += [f"Eager, as it is: {eager}; {between}.", *explained.costliest(), "", *explained.tree(), "", explained.table()]
            lines += ["", *eager.estimate()]
        else:
            lines.append(explained.text())
            if eager is not None:
                lines.append(f"\nEager, as it is: {eager}. Drystone: {100 * explained.reorder_share:.1f} %.")
        steps, whole = explained.microseconds / 1e3, self.milliseconds
        lines.append(
            f"\nA call takes {whole:.3f} ms; the steps add up to {100 * steps / whole:.1f} % of it; "
            f"timing them makes it {100 * (self.observed_milliseconds / whole - 1):+.1f} % longer."
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "explanation": self.explanation.to_dict()}
