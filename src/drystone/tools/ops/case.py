"""A case: one operator at one size and dtype, with the work in it and the contenders that do that work."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

import drystone

from ..bench.worker import shorten

#: Runs the operator on copy i of the cold operands and gives its output, which the next call may overwrite.
Call = Callable[[int], torch.Tensor]
Sizes = dict[str, int | str]

#: Where /sys does not tell.
USUAL_CACHE_BYTES = 32 << 20


@dataclass
class Contest:
    """The contenders of a case on the same operands. Making one may fail: it is then left out, with the reason.

    ``exact`` computes what all of them approximate, in float64, from the operands as they were rounded to the case's dtype.
    ``within`` gives what some contenders are made and called in: ``drystone.enabled``, for what is called by torch's name.
    """

    contenders: dict[str, Callable[[], Call]]
    exact: Callable[[], torch.Tensor]
    within: dict[str, Callable[[], AbstractContextManager[None]]] = field(default_factory=dict)

    @classmethod
    def enabled_or_not(cls, make: Callable[[], Call], exact: Callable[[], torch.Tensor]) -> Contest:
        """The same call of torch's with ``drystone.enable()`` and without."""
        return cls({"drystone": make, "torch": make}, exact, {"drystone": drystone.enabled})

    def around(self, name: str) -> AbstractContextManager[None]:
        """What a contender is called in."""
        return self.within.get(name, nullcontext)()

    def prepare(self) -> tuple[dict[str, Call], dict[str, str]]:
        """The calls, each called once, and why the others are left out."""
        calls: dict[str, Call] = {}
        reasons: dict[str, str] = {}
        for name, make in self.contenders.items():
            try:
                with self.around(name):
                    call = make()
                    call(0)
            except (ImportError, RuntimeError, ValueError) as error:
                reasons[name] = shorten(f"{type(error).__name__}: {error}")
            else:
                calls[name] = call
        return calls, reasons


@dataclass(frozen=True)
class Work:
    """What is computed.

    ``sizes`` are for the table, by their usual names; results are summed up and drawn over the one named ``axis`` and by ``group``.
    ``flops`` and ``bytes`` are the least that an implementation computes, and reads and writes.

    ``copies``: so many of the cold operands exist, and each call takes the next; 1 where all operands stay in the caches.
    """

    operator: str
    tag: str
    dtype: str
    sizes: Sizes
    axis: str
    group: str
    flops: int
    bytes: int
    copies: int


@dataclass(frozen=True)
class Case(Work):
    """The work, and what makes its contenders."""

    make: Callable[[], Contest]

    @property
    def labels(self) -> frozenset[str]:
        """What the case can be chosen by: its tag, and each size as ``M=128``."""
        return frozenset({self.tag, *(f"{name}={value}" for name, value in self.sizes.items())})

    @property
    def name(self) -> str:
        return " ".join([self.operator, self.dtype, self.tag, *(f"{name}={value}" for name, value in self.sizes.items())])


def copies_to_be_cold(size: int, cache: int) -> int:
    """How many copies of ``size`` bytes are four times as large as ``cache``; two at least: no call meets the last one's."""
    return max(2, math.ceil(4 * cache / size))


def last_level_cache_bytes(cpus: Path = Path("/sys/devices/system/cpu")) -> int:
    """The last level caches of the machine together: each holds its threads' share of the operands."""
    levels: dict[int, dict[str, int]] = {}
    try:
        for size in cpus.glob("cpu[0-9]*/cache/index*/size"):
            level = int((size.parent / "level").read_text())
            shared_by = (size.parent / "shared_cpu_list").read_text()
            levels.setdefault(level, {})[shared_by] = int(size.read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return USUAL_CACHE_BYTES
    return sum(levels[max(levels)].values()) if levels else USUAL_CACHE_BYTES
