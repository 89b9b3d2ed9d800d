"""What a run finds out, the figures that follow from it, and its JSON file.

Only what was measured is kept as it came: the rounds. Ratios, rates and means are computed from them each time.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..bench.environment import key_of
from ..bench.results import geometric_mean, median_ratio, write_json
from .case import Work

FORMAT = 1
OWN = "drystone"
READ = "read"  # among the limits


@dataclass
class Run:
    """One call of the command. ``limits``: the machine's GFLOP/s by dtype, and GB/s of reading."""

    date: str
    threads: int
    environment: dict[str, Any]
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def conditions(self) -> tuple[int, str]:
        """Equal for runs whose results may stand side by side."""
        return self.threads, key_of(self.environment)

    def raise_limits(self, found: dict[str, float]) -> None:
        """A machine that has become faster meanwhile could do it all along."""
        self.limits = {name: max(rate, self.limits.get(name, 0.0)) for name, rate in found.items()}


@dataclass
class Timing:
    """One contender on one case. ``rounds`` holds the median microseconds of each burst; ``reason`` why there are none."""

    contender: str
    reason: str | None = None
    relative_error: float | None = None
    rounds: list[float] = field(default_factory=list)

    @property
    def microseconds(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds) if self.rounds else math.nan


@dataclass(frozen=True)
class Measurement(Work):
    """All contenders on one case."""

    timings: list[Timing]
    run: Run

    def __getitem__(self, contender: str) -> Timing:
        for timing in self.timings:
            if timing.contender == contender:
                return timing
        raise KeyError(contender)

    @property
    def others(self) -> list[str]:
        return [timing.contender for timing in self.timings if timing.contender != OWN]

    def ratio(self, contender: str) -> float | None:
        """How many times as long as drystone's a call takes; None where one of the two was not measured."""
        rounds, own = self[contender].rounds, self[OWN].rounds
        return median_ratio(rounds, own) if rounds and own else None

    @property
    def best_other_over_own(self) -> float | None:
        """The least of the ratios to what is not drystone in another way: above 1, drystone is the fastest."""
        others = [name for name in self.others if not name.startswith(OWN)]
        return min((ratio for name in others if (ratio := self.ratio(name)) is not None), default=None)

    @property
    def arithmetic_share(self) -> float:
        """Of the machine's arithmetic limit, how much drystone reaches."""
        return 1e-3 * self.flops / self[OWN].microseconds / self.run.limits[self.dtype]

    @property
    def reading_share(self) -> float:
        """Of the rate at which the machine reads, how much drystone reaches."""
        return 1e-3 * self.bytes / self[OWN].microseconds / self.run.limits[READ]

    @property
    def axis_size(self) -> int:
        return int(self.sizes[self.axis])

    @property
    def identity(self) -> tuple[Any, ...]:
        """Two measurements of the same identity are of the same thing."""
        return self.operator, self.tag, self.dtype, tuple(self.sizes.items()), self.run.conditions


@dataclass
class Mean:
    """The geometric mean of the best other contender's time over drystone's, over ``cases`` cases."""

    operator: str
    dtype: str
    threads: int
    environment: str
    over: str
    cases: int
    best_other_over_own: float


def summary(measurements: Sequence[Measurement]) -> list[Mean]:
    """Means by operator, dtype and conditions: over each group, then over each size of the axis."""
    means: list[Mean] = []
    for (operator, dtype, (threads, key)), some in _by(measurements, lambda m: (m.operator, m.dtype, m.run.conditions)):
        parts = [*_by(some, lambda m: m.group), *sorted(_by(some, lambda m: m.axis_size))]
        for part, members in parts:
            over = part if isinstance(part, str) else f"{members[0].axis} = {part}"
            ratios = [ratio for m in members if (ratio := m.best_other_over_own) is not None]
            mean = geometric_mean(ratios)
            if mean is not None:
                means.append(Mean(operator, dtype, threads, key, over, len(ratios), mean))
    return means


def _by(measurements: Sequence[Measurement], key: Any) -> Iterator[tuple[Any, list[Measurement]]]:
    groups: dict[Any, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(key(measurement), []).append(measurement)
    yield from groups.items()


@dataclass
class ResultFile:
    """The JSON file: runs by their date, and measurements that name theirs."""

    measurements: list[Measurement] = field(default_factory=list)

    def add(self, measurement: Measurement) -> None:
        """Put ``measurement`` in, in place of an earlier one of the same identity."""
        for i, earlier in enumerate(self.measurements):
            if earlier.identity == measurement.identity:
                self.measurements[i] = measurement
                return
        self.measurements.append(measurement)

    @classmethod
    def read(cls, path: Path) -> ResultFile:
        """Raises ``ValueError`` where the file is not one that ``write`` wrote."""
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, expected {FORMAT}")
            runs = {date: Run(**run) for date, run in data["runs"].items()}
            return cls(
                [
                    Measurement(**row | {"timings": [Timing(**timing) for timing in row["timings"]], "run": runs[row["run"]]})
                    for row in data["measurements"]
                ]
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a file of operators' results: {error}") from error

    def write(self, path: Path) -> None:
        data = {
            "format": FORMAT,
            "summary": [asdict(mean) for mean in summary(self.measurements)],
            "runs": {m.run.date: asdict(m.run) for m in self.measurements},
            "measurements": [asdict(m) | {"run": m.run.date} for m in self.measurements],
        }
        write_json(path, data)
