"""Work in a process of its own, so that a crash or an endless loop ends that work and nothing else."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

# Forked from a server that has imported what all need: a process then costs milliseconds, not the seconds of these imports.
_context = multiprocessing.get_context("forkserver")

Send = Callable[[Any], None]
_DONE = "done"  # the last message of work that ended well


def preload(*modules: str) -> None:
    """Modules that the server imports at its start; call it before ``run``."""
    _context.set_forkserver_preload(list(modules))


def run(work: Callable[..., None], *arguments: Any, seconds: float) -> tuple[list[Any], str | None]:
    """What ``work(send, *arguments)`` sent, and how it ended where it did not end well.

    ``work`` is a function of a module; ``seconds`` is its limit for each message and for the end after the last.
    """
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_work, args=(work, sender, arguments), daemon=True)
    process.start()
    sender.close()
    messages: list[Any] = []
    late = False
    end = time.monotonic() + seconds
    try:
        while not late:
            late = not receiver.poll(max(0.0, end - time.monotonic()))
            if not late:
                messages.append(receiver.recv())
                end = time.monotonic() + seconds
    except EOFError:
        pass
    if late:
        process.kill()
    process.join()
    if messages and messages[-1] == _DONE:  # the exit code may have been read by another thread's cleaning up
        return messages[:-1], None
    if late:
        return messages, f"no answer within {seconds:.0f} s"
    code = process.exitcode or 0
    if code < 0:
        return messages, f"ended by {signal.Signals(-code).name}"
    return messages, f"ended with code {code}"


def _work(work: Callable[..., None], sender: Connection, arguments: tuple[Any, ...]) -> None:
    work(sender.send, *arguments)
    sender.send(_DONE)
    sender.close()
