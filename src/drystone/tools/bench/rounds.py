"""The measurement: contenders prepared one after the other, then timed in bursts in turn, A B C A B C …

A machine's speed drifts by half within minutes; within one round of bursts it hardly does. So each round gives a ratio of its
own, and only their median is believed.
"""

from __future__ import annotations

import contextlib
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from drystone.cores import cores, divide, within_quota

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
    instances: int = 1,
    outputs: Path | None = None,
) -> Result:
    """Run ``workload`` in every contender for ``rounds`` rounds.

    With ``instances`` above 1, so many processes of a contender run at the same time, each on cores of its own.

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
        running: dict[str, list[WorkerProcess]] = {}
        places = _places(instances, workload.threads)
        for name in contenders:
            announce(f"{workload.name}: preparing {name}")
            cache = folder / name
            cache.mkdir()
            workers: list[WorkerProcess] = []
            try:
                if again:
                    with WorkerProcess(workload.threads, cache, places[0]) as worker:
                        outcomes[name].prepare_seconds = _prepare(worker, name, workload, reference, outputs)["prepare_seconds"]
                for place in places:
                    workers.append(stack.enter_context(WorkerProcess(workload.threads, cache, place)))
                    answer = _prepare(workers[-1], name, workload, reference, outputs)
                    if len(workers) == 1:
                        outcomes[name].relative_error = answer["relative_error"]
                        if again:
                            outcomes[name].prepare_again_seconds = answer["prepare_seconds"]
                        else:
                            outcomes[name].prepare_seconds = answer["prepare_seconds"]
            except WorkerFailed as failure:
                outcomes[name].reason = str(failure)
                for worker in workers:
                    worker.close()
            else:
                running[name] = workers

        busy = busy_percent()
        for i in range(rounds):
            announce(f"{workload.name}: round {i + 1} of {rounds}")
            for name in list(running):
                time.sleep(PAUSE_SECONDS)
                _burst(name, running, outcomes[name], workload.batch)
        busy = max(busy, busy_percent())
        for name, workers in running.items():
            with contextlib.suppress(WorkerFailed):
                outcomes[name].percentiles = workers[0].ask(BURST_TIMEOUT, do="percentiles")["percentiles"]
                outcomes[name].details = workers[0].ask(BURST_TIMEOUT, do="details")["details"]

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
        instances=instances,
    )


def _places(instances: int, threads: int) -> list[tuple[int, ...]]:
    """The cores of each instance; a single one is held to none."""
    if instances == 1:
        return [()]
    return [tuple(core.number for core in place) for place in divide(within_quota(cores()), instances, threads)]


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
    reference.shapes = reference.shapes or answer["shapes"]
    if reference.fingerprint not in (None, answer["fingerprint"]):
        raise WorkerFailed("its process built other weights or inputs than the reference's: the model is not deterministic")
    return answer


def _burst(name: str, running: dict[str, list[WorkerProcess]], outcome: Outcome, batch: int) -> None:
    """One burst; a contender that fails leaves the race, as its rounds could not be paired with the others'."""
    try:
        for worker in running[name]:
            worker.send(do="burst", seconds=BURST_SECONDS)
        answers = [worker.receive(BURST_TIMEOUT) for worker in running[name]]
    except WorkerFailed as failure:
        outcome.reason = str(failure)
        outcome.rounds.clear()
        outcome.per_second.clear()
        for worker in running.pop(name):
            worker.close()
    else:
        outcome.rounds.append(statistics.median(answer["milliseconds"] for answer in answers))
        outcome.per_second.append(round(batch * sum(answer["per_second"] for answer in answers), 3))
        outcome.peak_rss = sum(answer["peak_rss"] for answer in answers)
