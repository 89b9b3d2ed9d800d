"""Another engine, in a process of its own: its threads wait by spinning."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

#: Of prompts (rows, prompt), after which so many tokens are generated: seconds of the prompts, and of a token of each row.
Engine = Callable[[Sequence[Sequence[int]], int], tuple[float, float]]
#: An engine from its model, for so many threads, rows, and positions of a row.
Open = Callable[[Path, int, int, int], Engine]

Make = Callable[..., Callable[..., Any]]


def by_lengths(seconds: Callable[[int], float], count: int) -> tuple[float, float]:
    """The two times of ``count`` tokens, where one can only time whole texts."""
    first = seconds(1)
    return first, (seconds(count) - first) / (count - 1)


def silently(open: Open, *arguments: Any) -> Engine:
    """An engine whose process writes nothing: engines tell of each text."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    return open(*arguments)


class Peer:
    """The function that ``make(*arguments)`` gives, in a process of its own.

    It is made at the first call. Calls raise what goes wrong in the process.
    """

    def __init__(self, make: Make, *arguments: Hashable) -> None:
        self._process = ProcessPoolExecutor(1, get_context("spawn"))
        self._made = make, arguments

    def __call__(self, *given: Any) -> Any:
        return self._process.submit(_call, *self._made, given).result()

    def close(self) -> None:
        self._process.shutdown()


def _call(make: Make, arguments: tuple[Hashable, ...], given: tuple[Any, ...]) -> Any:
    return _made(make, *arguments)(*given)


@cache
def _made(make: Make, *arguments: Hashable) -> Callable[..., Any]:
    return make(*arguments)
