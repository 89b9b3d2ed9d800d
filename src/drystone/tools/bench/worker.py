"""One contender in a process of its own: reads requests as JSON lines on stdin, answers each with one line on stdout.

``{"do": "reference", "workload": {…}, "save": path}`` runs the model eagerly in float64 and saves the output.
``{"do": "prepare", "contender": name, "workload": {…}, "reference": path or null, "save": path or null}``
``{"do": "burst", "seconds": s}`` times calls for ``s`` seconds and answers their median, and how many there were in a second.
``{"do": "percentiles"}`` answers those of all calls of the bursts, in milliseconds.
``{"do": "details"}`` answers what the contender tells of itself.

Between requests the process sleeps in a read, so it takes nothing from the contender whose turn it is.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch

from drystone.serving.statistics import percentiles

from .burst import burst
from .contenders import CONTENDERS, Prepared
from .targets import Call
from .workload import DTYPES, Workload, fingerprint, first_tensor, shapes_of

MINIMUM_CALLS = 3


def peak_rss() -> int:
    """Peak resident memory of this process in bytes.

    From VmHWM and not from getrusage, whose figure starts at what the parent process had when it started this one.
    """
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def relative_error(output: torch.Tensor, reference: np.ndarray) -> float:
    """‖output − reference‖₂ / ‖reference‖₂; infinite where the shapes differ."""
    if tuple(output.shape) != reference.shape:
        return float("inf")
    difference = output.double().numpy() - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def shorten(reason: str, limit: int = 200) -> str:
    """``reason`` cut to ``limit`` characters, and absolute paths to file names: results tell nothing of the machine's disks."""
    text = re.sub(r"(?:/[\w.+@-]+)+/([\w.+@-]+)", r"\1", reason)
    return text if len(text) <= limit else text[: limit - 2] + " …"


class Worker:
    """Answers the requests; holds the prepared contender between them."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = None
        self.seconds: list[float] = []

    def reference(self, workload: dict[str, Any], save: str) -> dict[str, Any]:
        module, call = _load(workload)
        facts = {"fingerprint": fingerprint(module, call), "shapes": shapes_of(call)}
        module, call = module.double(), call.map(_double)
        np.save(save, first_tensor(call(module)).numpy())
        return facts

    def prepare(self, contender: str, workload: dict[str, Any], reference: str | None, save: str | None) -> dict[str, Any]:
        module, call = _load(workload)
        checksum = fingerprint(module, call)
        start = time.perf_counter()
        self.prepared = CONTENDERS[contender].prepare(module, call, DTYPES[workload["dtype"]], workload["threads"])
        result = self.prepared.call()
        seconds = time.perf_counter() - start
        output = self.prepared.output(result).float()
        if save is not None:
            np.save(save, output.numpy())
        error = relative_error(output, np.load(reference)) if reference is not None else None
        return {"fingerprint": checksum, "shapes": shapes_of(call), "prepare_seconds": seconds, "relative_error": error}

    def burst(self, seconds: float) -> dict[str, Any]:
        assert self.prepared is not None
        call = self.prepared.call
        _warm(call)
        times = burst(call, seconds, MINIMUM_CALLS)
        self.seconds += times
        return {
            "milliseconds": round(statistics.median(times) * 1e3, 5),
            "calls": len(times),
            "per_second": len(times) / sum(times),
        }

    def percentiles(self) -> dict[str, Any]:
        return {"percentiles": {f"p{percent}": round(value, 5) for percent, value in percentiles(self.seconds).items()}}

    def details(self) -> dict[str, Any]:
        assert self.prepared is not None
        return {"details": self.prepared.details()}


def _warm(call: Callable[[], Any]) -> None:
    """Two untimed calls, so that caches and branch predictors are the contender's own; one where it takes long."""
    start = time.perf_counter()
    call()
    if time.perf_counter() - start < 0.1:
        call()


def _load(workload: dict[str, Any]) -> tuple[torch.nn.Module, Call]:
    size, inputs = workload.pop("size", None), workload.pop("inputs", ())
    torch.set_num_threads(workload["threads"])
    return Workload(**workload, size=tuple(size) if size else None, inputs=tuple(inputs)).load()


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer every line of ``requests`` until it ends."""
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        try:
            # Freezing requires no_grad; all contenders get the same.
            with torch.no_grad():
                answer = getattr(worker, request.pop("do"))(**request)
            answer |= {"ok": True, "peak_rss": peak_rss()}
        except Exception as error:
            traceback.print_exc()
            message = str(error).strip().splitlines()
            answer = {"ok": False, "reason": shorten(f"{type(error).__name__}: {message[0] if message else ''}")}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    # Exporters print to stdout: the answers keep the real one, everything else goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
