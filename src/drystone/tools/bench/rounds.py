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
from dataclasses import asdict
from pathlib import Path

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
    outputs: Path | None = None,
) -> Result:
    """Run ``workload`` in every contender for ``rounds`` rounds.

    ``announce`` is told what comes next, ``steps`` times. With ``outputs``, a folder, each contender's first output tensor is
    saved there as ``<contender>.npy`` in float32, and eager's in float64 as ``reference.npy``. A contender that fails has its
    reason in its outcome, and the others go on.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drystone-bench-")))
        announce("the reference, eager in float64")
        reference, checksum, shapes = _reference(workload, folder, outputs)

        outcomes = {name: Outcome(name) for name in contenders}
        running: dict[str, WorkerProcess] = {}
        for name in contenders:
            announce(f"preparing {name}")
            worker = stack.enter_context(WorkerProcess(workload.threads, folder))
            request = {
                "do": "prepare",
                "contender": name,
                "workload": asdict(workload),
                "reference": str(reference) if reference else None,
                "save": str(outputs / f"{name}.npy") if outputs else None,
            }
            try:
                answer = worker.ask(PREPARE_TIMEOUT, **request)
                if checksum is not None and answer["fingerprint"] != checksum:
                    raise WorkerFailed(
                        "its process built other weights or inputs than the reference's: the model is not deterministic"
                    )
            except WorkerFailed as failure:
                outcomes[name].reason = str(failure)
                worker.close()
                continue
            outcomes[name].prepare_seconds = answer["prepare_seconds"]
            outcomes[name].relative_error = answer["relative_error"]
            running[name] = worker

        for i in range(rounds):
            announce(f"round {i + 1} of {rounds}")
            _round(running, outcomes)

    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return Result(
        workload.name,
        workload.dtype,
        workload.batch,
        workload.threads,
        shapes,
        date,
        environment,
        [outcomes[name] for name in contenders],
    )


def _round(running: dict[str, WorkerProcess], outcomes: dict[str, Outcome]) -> None:
    """One burst of each; a contender that fails leaves the race with what it had."""
    for name, worker in list(running.items()):
        time.sleep(PAUSE_SECONDS)
        try:
            answer = worker.ask(BURST_TIMEOUT, do="burst", seconds=BURST_SECONDS)
        except WorkerFailed as failure:
            outcomes[name].reason = str(failure)
            outcomes[name].rounds.clear()
            running.pop(name).close()
            continue
        outcomes[name].rounds.append(answer["milliseconds"])
        outcomes[name].peak_rss = answer["peak_rss"]


def _reference(workload: Workload, folder: Path, outputs: Path | None) -> tuple[Path | None, int | None, list[list[int]]]:
    """Eager's output in float64, the weights' checksum and the input shapes; no output where the model can't run in float64."""
    path = (outputs or folder) / "reference.npy"
    with WorkerProcess(workload.threads, folder) as worker:
        try:
            answer = worker.ask(PREPARE_TIMEOUT, do="reference", workload=asdict(workload), save=str(path))
        except WorkerFailed:
            return None, None, []
    return path, answer["fingerprint"], answer["shapes"]
