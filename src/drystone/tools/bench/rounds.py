"""The measurement: contenders prepared one after the other, then timed in bursts in turn, A B C A B C …

A machine's speed drifts by half within minutes; within one round of bursts it hardly does. So each round gives a ratio of its
own, and only their median is believed.
"""

from __future__ import annotations

import contextlib
import datetime
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .process import WorkerFailed, WorkerProcess
from .results import Outcome, Result
from .workload import Workload

BURST_SECONDS = 0.2
#: Thread pools spin for a while after their last task; a burst starts when the ones before have gone to sleep.
PAUSE_SECONDS = 0.02
PREPARE_TIMEOUT = 1200.0
BURST_TIMEOUT = 300.0

Announce = Callable[[str], None]


def steps(contenders: Sequence[str], rounds: int) -> int:
    """How often ``measure`` announces something."""
    return 1 + len(contenders) + rounds


def measure(
    workload: Workload,
    contenders: Sequence[str],
    rounds: int,
    environment: str,
    announce: Announce = lambda _: None,
    *,
    again: bool = False,
    outputs: Path | None = None,
) -> Result:
    """Run ``workload`` in every contender for ``rounds`` rounds.

    ``announce`` is told what comes next, ``steps`` times. With ``again`` each is prepared a second time in a new process, on the
    caches of the first. With ``outputs``, a folder, each contender's first output tensor is saved there as ``<contender>.npy``
    in float32, and eager's in float64 as ``reference.npy``. A contender that fails has its reason in its outcome, and the
    others go on.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drystone-bench-")))
        announce(f"{workload.name}: the reference, eager in float64")
        reference = _Reference.compute(workload, folder, outputs)

        outcomes = {name: Outcome(name) for name in contenders}
        running: dict[str, WorkerProcess] = {}
        for name in contenders:
            announce(f"{workload.name}: preparing {name}")
            cache = folder / name
            cache.mkdir()
            try:
                for attempt in range(1 + again):
                    worker = stack.enter_context(WorkerProcess(workload.threads, cache))
                    answer = _prepare(worker, name, workload, reference, outputs)
                    if attempt == 0:
                        outcomes[name].prepare_seconds = answer["prepare_seconds"]
                        outcomes[name].relative_error = answer["relative_error"]
                    else:
                        outcomes[name].prepare_again_seconds = answer["prepare_seconds"]
                    if attempt < again:
                        worker.close()
            except WorkerFailed as failure:
                outcomes[name].reason = str(failure)
                worker.close()
            else:
                running[name] = worker

        busy = busy_percent()
        for i in range(rounds):
            announce(f"{workload.name}: round {i + 1} of {rounds}")
            for name in list(running):
                time.sleep(PAUSE_SECONDS)
                _burst(name, running, outcomes[name])
        busy = max(busy, busy_percent())
        for name, worker in running.items():
            with contextlib.suppress(WorkerFailed):
                outcomes[name].details = worker.ask(BURST_TIMEOUT, do="details")["details"]

    return Result(
        model=workload.name,
        dtype=workload.dtype,
        batch=workload.batch,
        threads=workload.threads,
        shapes=reference.shapes,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        environment=environment,
        outcomes=[outcomes[name] for name in contenders],
        busy_percent=busy,
    )


def busy_percent() -> float:
    """How busy the processors are while every worker sleeps: what else runs here, or a thread pool that never stops spinning."""
    time.sleep(10 * PAUSE_SECONDS)
    return psutil.cpu_percent(interval=0.5)


@dataclass
class _Reference:
    """Eager's float64 output (a file), the checksum of weights and inputs, the inputs' shapes; empty where that can't run."""

    path: Path | None = None
    fingerprint: int | None = None
    shapes: list[list[int]] = field(default_factory=list)

    @classmethod
    def compute(cls, workload: Workload, folder: Path, outputs: Path | None) -> _Reference:
        path = (outputs or folder) / "reference.npy"
        with WorkerProcess(workload.threads, folder) as worker:
            try:
                answer = worker.ask(PREPARE_TIMEOUT, do="reference", workload=asdict(workload), save=str(path))
            except WorkerFailed:
                return cls()
        return cls(path, answer["fingerprint"], answer["shapes"])


def _prepare(worker: WorkerProcess, name: str, workload: Workload, reference: _Reference, outputs: Path | None) -> dict[str, Any]:
    answer = worker.ask(
        PREPARE_TIMEOUT,
        do="prepare",
        contender=name,
        workload=asdict(workload),
        reference=str(reference.path) if reference.path else None,
        save=str(outputs / f"{name}.npy") if outputs else None,
    )
    if reference.fingerprint not in (None, answer["fingerprint"]):
        raise WorkerFailed("its process built other weights or inputs than the reference's: the model is not deterministic")
    return answer


def _burst(name: str, running: dict[str, WorkerProcess], outcome: Outcome) -> None:
    """One burst; a contender that fails leaves the race, as its rounds could not be paired with the others'."""
    try:
        answer = running[name].ask(BURST_TIMEOUT, do="burst", seconds=BURST_SECONDS)
    except WorkerFailed as failure:
        outcome.reason = str(failure)
        outcome.rounds.clear()
        running.pop(name).close()
    else:
        outcome.rounds.append(answer["milliseconds"])
        outcome.peak_rss = answer["peak_rss"]
