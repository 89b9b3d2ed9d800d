"""The search for the best division of the cores, for a program that prints a figure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drystone.cores import Core, divide

from .instances import Instance
from .launch import run_all


@dataclass(frozen=True)
class Trial:
    """``figures``: of each instance, the last that it printed; empty where one failed or printed none, with the ``reason``."""

    instances: int
    cores: int
    figures: tuple[float, ...] = ()
    reason: str = ""

    @property
    def total(self) -> float:
        return sum(self.figures)


def divisions(cores: int) -> list[tuple[int, int]]:
    """(instances, cores each): powers of two of cores, and all of them, each with as many instances as fit."""
    each = sorted({min(1 << power, cores) for power in range(cores.bit_length() + 1)})
    return [(cores // size, size) for size in each]


def trial(cores: Sequence[Core], division: tuple[int, int], pattern: re.Pattern[str], make: Callable[..., list[Instance]]) -> Trial:
    """``make`` takes the cores of each instance and gives the instances."""
    count, each = division
    output: dict[int, list[str]] = {rank: [] for rank in range(count)}
    try:
        codes = run_all(make(divide(cores, count, each)), lambda rank, line: output[rank].append(line.decode(errors="replace")))
    except OSError as error:
        return Trial(count, each, reason=str(error))
    figures = []
    for rank, code in enumerate(codes):
        text = "".join(output[rank])
        found = pattern.findall(text)
        if code:
            last = text.strip().splitlines()[-1:] or [""]
            return Trial(count, each, reason=f"instance {rank} ended with code {code}: {last[0]}")
        if not found:
            return Trial(count, each, reason=f"instance {rank} printed nothing like {pattern.pattern!r}")
        figures.append(float(found[-1]))
    return Trial(count, each, tuple(figures))
