"""What a profile finds out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from drystone.runtime.explain import Explanation
from drystone.tools.ops.results import READ


@dataclass
class Result:
    """``milliseconds``: of a plain call; ``observed_milliseconds``: of one whose steps were timed. Both are medians.

    ``limits``: the machine's GFLOP/s by dtype, and GB/s of reading.
    """

    model: str
    dtype: str
    shapes: list[list[int]]
    threads: int
    calls: int
    milliseconds: float
    observed_milliseconds: float
    explanation: Explanation
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

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "explanation": self.explanation.to_dict()}
