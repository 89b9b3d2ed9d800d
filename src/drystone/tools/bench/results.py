"""What a benchmark finds out, the figures that follow from it, and its JSON file.

Only what was measured is kept as it came: the rounds. Ratios and means are computed from them each time.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .contenders import PEERS

FORMAT = 1


@dataclass
class Outcome:
    """One contender on one workload. ``rounds`` holds the median milliseconds of each burst; ``reason`` why there are none.
    ``per_second``: of each round, inputs of all instances; ``percentiles``: of all calls of the first one, "p50" and so on, in
    milliseconds.

    ``prepare_seconds`` is with empty caches, ``prepare_again_seconds`` in a second process with the caches that the first left.
    """

    contender: str
    reason: str | None = None
    prepare_seconds: float | None = None
    prepare_again_seconds: float | None = None
    peak_rss: int | None = None
    relative_error: float | None = None
    rounds: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    percentiles: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.reason is None

    @property
    def milliseconds(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds) if self.rounds else math.nan


@dataclass
class Result:
    """All contenders on one workload, on one machine (``environment`` is a key of the file's environments).

    ``busy_percent`` is how much of all processors something else took while every contender slept. ``instances``: processes that
    ran at the same time, with ``threads`` each.
    """

    model: str
    dtype: str
    batch: int
    threads: int
    shapes: list[list[int]]
    date: str
    environment: str
    outcomes: list[Outcome]
    busy_percent: float = 0.0
    instances: int = 1

    def __getitem__(self, contender: str) -> Outcome:
        for outcome in self.outcomes:
            if outcome.contender == contender:
                return outcome
        raise KeyError(contender)

    def ratio(self, contender: str, base: str) -> float | None:
        """How many times as long as ``base`` a call of ``contender`` takes: the median over the rounds of the ratio in a round."""
        try:
            a, b = self[contender], self[base]
        except KeyError:
            return None
        if not (a.ok and b.ok):
            return None
        return median_ratio(a.rounds, b.rounds)

    @property
    def base(self) -> str:
        """What the others are compared with: drystone, else eager, else the first that ran."""
        running = [outcome.contender for outcome in self.outcomes if outcome.ok]
        return next((name for name in ("drystone", "eager", *running) if name in running), "drystone")

    def best_peer(self) -> tuple[str, float] | None:
        """The whole-model engine that comes closest to drystone or beats it, and its time over drystone's."""
        ratios = {peer: ratio for peer in PEERS if (ratio := self.ratio(peer, "drystone")) is not None}
        return min(ratios.items(), key=lambda item: item[1]) if ratios else None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Two results of the same identity are two measurements of the same thing."""
        return self.model, self.dtype, self.batch, self.threads, str(self.shapes), self.instances, self.environment


def median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(x / y for x, y in zip(times, base, strict=True))


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else None


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Geometric means over the results: the best engine's time and eager's time over drystone's; and the least of the first."""
    peers = {result.model: best[1] for result in results if (best := result.best_peer())}
    eager = [ratio for result in results if (ratio := result.ratio("eager", "drystone")) is not None]
    return {
        "models": len(results),
        "best_peer_over_drystone": geometric_mean(peers.values()),
        "least_best_peer_over_drystone": min(peers.items(), key=lambda item: item[1]) if peers else None,
        "eager_over_drystone": geometric_mean(eager),
    }


def summaries(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A ``summary`` for each set of results that were measured under the same conditions."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault((result.dtype, result.batch, result.threads, result.environment), []).append(result)
    names = ("dtype", "batch", "threads", "environment")
    return [dict(zip(names, key, strict=True)) | summary(group) for key, group in groups.items()]


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Indented, in place of what was there; whoever interrupts it finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(_lists_on_one_line(json.dumps(data, indent=1)) + "\n")
    partial.replace(path)


def _lists_on_one_line(text: str) -> str:
    """Indented JSON with every list of plain values on one line."""
    # A line break is never inside a JSON string.
    return re.sub(r"\[\n([^\[\]{}]*?)\n\s*\]", lambda found: "[" + re.sub(r"\n\s*", " ", found[1].strip()) + "]", text)


@dataclass
class ResultFile:
    """The JSON file: environments by key, and results that name theirs."""

    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def add(self, result: Result, environment: dict[str, Any]) -> None:
        """Put ``result`` in, in place of an earlier one of the same identity."""
        self.environments[result.environment] = environment
        for i, earlier in enumerate(self.results):
            if earlier.identity == result.identity:
                self.results[i] = result
                return
        self.results.append(result)

    @classmethod
    def read(cls, path: Path) -> ResultFile:
        """Raises ``ValueError`` where the file is not one that ``write`` wrote."""
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, expected {FORMAT}")
            results = [
                Result(**(row | {"outcomes": [Outcome(**outcome) for outcome in row["outcomes"]]})) for row in data["results"]
            ]
            return cls(data["environments"], results)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a file of benchmark results: {error}") from error

    def write(self, path: Path) -> None:
        used = {result.environment for result in self.results}
        data = {
            "format": FORMAT,
            "summaries": summaries(self.results),
            "environments": {key: facts for key, facts in self.environments.items() if key in used},
            "results": [asdict(result) for result in self.results],
        }
        write_json(path, data)
