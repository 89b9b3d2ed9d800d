"""Instances as processes: pinned to their cores, their output prefixed, signals passed on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from .instances import Instance

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Sink = Callable[[int, bytes], None]


def become(instance: Instance) -> None:
    """Replace this process by the instance: signals and the exit code are its own. Raises ``OSError`` where it can't be run."""
    sys.stdout.flush()
    _pin(instance)
    os.execvpe(instance.command[0], instance.command, os.environ | instance.environment)


def run_all(instances: Sequence[Instance], sink: Sink) -> list[int]:
    """Their exit codes, once all have ended; 128 and the signal's number where one ended it. ``sink`` takes each line of output.

    An instance that fails leaves the others alone. Raises ``OSError`` where the program can't be run.
    """
    processes: list[subprocess.Popen[bytes]] = []
    with _passing_on(processes):
        try:
            for instance in instances:
                processes.append(_start(instance))
        except OSError:
            for process in processes:
                process.kill()
                process.wait()
            raise
        readers = [
            threading.Thread(target=_read, args=(process.stdout, instance.rank, sink), daemon=True)
            for process, instance in zip(processes, instances, strict=True)
        ]
        for reader in readers:
            reader.start()
        codes = [process.wait() for process in processes]
        for reader in readers:
            reader.join()
    return [code if code >= 0 else 128 - code for code in codes]


def _start(instance: Instance) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        instance.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | instance.environment,
        start_new_session=True,  # a terminal's Ctrl-C reaches it once, through this process
        preexec_fn=lambda: _pin(instance),
    )


def _pin(instance: Instance) -> None:
    if instance.pinned:
        os.sched_setaffinity(0, {core.number for core in instance.cores})


def _read(stream: IO[bytes] | None, rank: int, sink: Sink) -> None:
    assert stream is not None
    for line in stream:
        sink(rank, line if line.endswith(b"\n") else line + b"\n")


@contextmanager
def _passing_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def prefixed(instances: Sequence[Instance], logs: Path | None = None, prefix: str = "run") -> Iterator[Sink]:
    """Lines on stdout with the instance's rank before them; with ``logs``, a folder, in a file for each instance as well."""
    lock = threading.Lock()
    with ExitStack() as stack:
        files: dict[int, IO[bytes]] = {}
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            for instance in instances:
                cores = "-".join(str(core.number) for core in (instance.cores[0], instance.cores[-1]))
                path = logs / f"{prefix}_instance_{instance.rank}_cores_{cores}.log"
                files[instance.rank] = stack.enter_context(path.open("wb", buffering=0))

        def sink(rank: int, line: bytes) -> None:
            with lock:
                sys.stdout.buffer.write(b"[%d] %b" % (rank, line))
                sys.stdout.buffer.flush()
                if rank in files:
                    files[rank].write(line)

        yield sink
