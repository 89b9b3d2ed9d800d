"""A measurement that is ended early keeps what it has: Ctrl-C and SIGTERM stop it between two steps of Python, and no more."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rich.console import Console


@dataclass
class Ending:
    """``code``: what the command exits with; 0 where nothing ended it early."""

    code: int = 0


@contextmanager
def until_interrupted(console: Console) -> Iterator[Ending]:
    """What runs inside stops at the first Ctrl-C or SIGTERM, which is said; the code after it goes on with what was measured."""
    ending = Ending()

    def stop(number: int, frame: FrameType | None) -> None:
        ending.code = 128 + number
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ending
    except KeyboardInterrupt:
        console.print("Ended early: what follows was measured before.", style="red")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
