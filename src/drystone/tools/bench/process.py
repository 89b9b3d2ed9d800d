"""The benchmark's end of a worker: starts it, asks, and turns every way it can fail into ``WorkerFailed``."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .worker import shorten


class WorkerFailed(Exception):
    """The worker answered that it can't, died, or took too long; the text says which."""


class WorkerProcess:
    """A ``drystone.tools.bench.worker``. Use as a context manager; ``ask`` sends a request and waits for its answer."""

    def __init__(self, threads: int, cache: Path, cores: Sequence[int] = ()) -> None:
        """``cache``: the folder where contenders keep what a later preparation can use. ``cores``: to which it is held, if any."""
        caches = {name: str(cache) for name in ("DRYSTONE_CACHE", "TORCHINDUCTOR_CACHE_DIR")}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "drystone.tools.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | caches | {"OMP_NUM_THREADS": str(threads)},
        )
        if cores:
            os.sched_setaffinity(self._process.pid, cores)  # before it has threads of its own
        self._pending = b""

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
        """Send ``request`` and return the answer. Raises ``WorkerFailed``, after ``timeout`` seconds at the latest."""
        self.send(**request)
        return self.receive(timeout)

    def send(self, **request: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._cause_of_death()) from None

    def receive(self, timeout: float) -> dict[str, Any]:
        answer = json.loads(self._read_line(timeout))
        if not answer.pop("ok"):
            raise WorkerFailed(answer["reason"])
        return answer

    def close(self) -> None:
        """End the process; it is idle between requests, and killed if it is not."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def log(self) -> str:
        """What the worker wrote to stderr."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _read_line(self, timeout: float) -> bytes:
        assert self._process.stdout is not None
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, end - time.monotonic())):
                    self._process.kill()
                    raise WorkerFailed(f"no answer within {timeout:.0f} s")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    raise WorkerFailed(self._cause_of_death())
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"the process was ended by {signal.Signals(-code).name}"
        lines = self.log().strip().splitlines()
        return shorten(f"the process ended with code {code}: {lines[-1] if lines else ''}")
