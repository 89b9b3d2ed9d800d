"""What autotuning may spend. One budget a preparation: all that is run to be timed asks it first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SECONDS = 10.0
RUNS = 200


class Budget:
    """Seconds, and runs of one program. A run that has begun is finished: it ends at most one run late.

    Time counts while ``spending`` is open. A ``share`` is for one of several programs, or part of a model: its runs are its own,
    its seconds come out of the whole.
    """

    def __init__(
        self,
        seconds: float = SECONDS,
        runs: float = RUNS,
        clock: Callable[[], float] = time.perf_counter,
        whole: Budget | None = None,
    ) -> None:
        self.seconds, self.runs, self.clock, self._whole = seconds, runs, clock, whole
        self.ran = 0
        self._spent = 0.0
        self._since: float | None = None  # begin of what is not in ``_spent`` yet

    @property
    def spent(self) -> float:
        return self._spent + (self.clock() - self._since if self._since is not None else 0.0)

    @property
    def left(self) -> float:
        return max(0.0, self.seconds - self.spent)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Seconds count; may be nested."""
        if self._since is not None:
            yield
            return
        self._since = self.clock()
        try:
            yield
        finally:
            began, self._since = self._since, None
            self._charge(self.clock() - began)

    def _charge(self, seconds: float) -> None:
        self._spent += seconds
        if self._whole is not None:
            self._whole._charge(seconds)

    def allows(self, seconds: float = 0.0) -> bool:
        """Whether so many more seconds may be spent, and another run."""
        return self.left > seconds and self.ran < self.runs

    def report(self, operators: int, estimated: int, estimated_share: float) -> Spent:
        return Spent(self.spent, self.seconds, self.ran, operators, estimated, estimated_share)

    def share(self, part: float) -> Budget:
        """A budget of this part of the seconds that are left."""
        return Budget(part * self.left, self.runs, self.clock, self)


@dataclass(frozen=True)
class Spent:
    """What autotuning took, for ``explain()``. ``estimated`` of ``operators``, with this share of the time (0 to 1), have
    implementations that were not measured: they were left over, or make up so little that it does not matter."""

    seconds: float
    budget_seconds: float
    runs: int
    operators: int
    estimated: int
    estimated_share: float

    def __str__(self) -> str:
        of = "" if math.isinf(self.budget_seconds) else f" of {self.budget_seconds:.3g}"
        text = f"Autotuning took {self.seconds:.1f}{of} s, {self.runs} runs. "
        if not self.estimated:
            return text + f"All {self.operators} operators were measured."
        share = f"{100 * self.estimated_share:.1f} % of the time"
        return text + f"Of {self.estimated} of {self.operators} operators ({share}) not all implementations were measured."
