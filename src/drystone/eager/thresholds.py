"""The sizes at which torch's kernels and drystone's are as fast as each other, for those who measure and test both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from drystone import native

#: In place of a threshold that no size reaches.
NEVER = (1 << 63) - 1


def table() -> dict[str, native.Threshold]:
    """All thresholds, by name, with the figure of each class of CPU and the one that is in force when asked."""
    return {threshold.name: threshold for threshold in native.thresholds()}


@contextmanager
def threshold(name: str, value: int) -> Iterator[None]:
    """Another figure is in force in the whole process until the block ends.

    Raises:
        ValueError: there is no such threshold.
    """
    before = {row.name: row.in_force for row in native.thresholds()}
    native.set_threshold(name, value)
    try:
        yield
    finally:
        native.set_threshold(name, before[name])
