"""The share of a test function's cases that a run tries, where they are very many; each run draws others.

``DRYSTONE_TEST_SEED`` draws the same again, and ``DRYSTONE_TEST_SEED=all`` runs every case.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

# Cases of one function up to which all run, and the share of more than those: as the machine is, and again under a lower cap.
FULL = (200, 1 / 3)
CAPPED = (6, 1 / 6)


class Case(Protocol):
    nodeid: str


T = TypeVar("T", bound=Case)


def seed() -> str:
    """Set for the workers of this run too."""
    return os.environ.setdefault("DRYSTONE_TEST_SEED", str(random.SystemRandom().randrange(10**6)))


def draw(cases: Sequence[T], whole: Callable[[T], bool]) -> set[T]:
    """Those that run. ``whole``: whether all of a case's function do, whatever their number."""
    if seed() == "all":
        return set(cases)
    limit, share = CAPPED if "DRYSTONE_MAX_ISA" in os.environ else FULL
    functions: dict[str, list[T]] = {}
    for case in cases:
        functions.setdefault(case.nodeid.partition("[")[0], []).append(case)
    chosen: set[T] = set()
    for name, group in functions.items():
        count = len(group) if whole(group[0]) else max(limit, round(share * len(group)))
        chosen.update(group if count >= len(group) else random.Random(seed() + name).sample(group, count))
    return chosen
