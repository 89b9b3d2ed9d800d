"""Another engine that generates text, in a process of its own: its threads wait by spinning."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

#: Of prompts (rows, prompt), after which so many tokens are generated: seconds of the prompts, and of a token of each row.
Engine = Callable[[Sequence[Sequence[int]], int], tuple[float, float]]
#: An engine from its model, for so many threads, rows, and positions of a row.
Open = Callable[[Path, int, int, int], Engine]


def by_lengths(seconds: Callable[[int], float], count: int) -> tuple[float, float]:
    """The two times of ``count`` tokens, where one can only time whole texts."""
    first = seconds(1)
    return first, (seconds(count) - first) / (count - 1)


class Peer:
    def __init__(self, open: Open, path: Path, threads: int, rows: int, positions: int) -> None:
        self._process = ProcessPoolExecutor(1, get_context("spawn"), _open, (open, path, threads, rows, positions))

    def times(self, ids: Sequence[Sequence[int]], count: int) -> tuple[float, float]:
        return self._process.submit(_times, ids, count).result()

    def close(self) -> None:
        self._process.shutdown()


_engine: Engine


def _open(open: Open, *arguments: object) -> None:
    global _engine
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # engines tell of each text
        os.dup2(silent, stream)
    _engine = open(*arguments)  # type: ignore[arg-type]


def _times(ids: Sequence[Sequence[int]], count: int) -> tuple[float, float]:
    return _engine(ids, count)
