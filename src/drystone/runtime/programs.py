"""Programs by what they were made for: one table, one limit, and one thread at a time that makes what is missing."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from drystone.errors import InputError
from drystone.forks import Lock

# Entries of a table that does not know what they take; the least recently used goes first.
MAX_PROGRAMS = 16

_USUAL_BUDGET = 256 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

Key = TypeVar("Key", bound=Hashable)
Entry = TypeVar("Entry")


def budget() -> int:
    """Bytes that a model's programs may take beside its weights: ``DRYSTONE_MEMORY`` ("500M", "2G"), 256 MB if that is not set."""
    said = os.environ.get("DRYSTONE_MEMORY", "")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", said.strip().upper())
    if said and found is None:
        raise InputError(f"DRYSTONE_MEMORY={said!r}: expected a number of bytes, or of K, M or G, such as 500M")
    return int(float(found[1]) * _UNITS[found[2]]) if found else _USUAL_BUDGET


class ProgramTable(Generic[Key, Entry]):
    """The entries last used, within a limit. A known one is found without waiting for another that is being made."""

    def __init__(self, making: Lock, limit: int = MAX_PROGRAMS) -> None:
        """``making``: held by whoever makes an entry; tables may share it. ``limit``: of what the entries cost together."""
        self.making, self.limit = making, limit
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._lock = Lock()  # of the entries, for a moment

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> list[tuple[Key, Entry]]:
        with self._lock:
            return list(self._entries.items())

    def get(self, key: Key) -> Entry | None:
        """The entry of ``key``, from now on the last used; None where there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._used(key, entry)
            return entry

    def find(self, key: Key, make: Callable[[], Entry], again: bool = False) -> Entry:
        """The entry of ``key``, made where there is none, or ``again``. Other threads that want it meanwhile wait."""
        if not again and (known := self.get(key)) is not None:
            return known
        with self.making:
            if not again and (known := self.get(key)) is not None:
                return known
            entry = make()
            with self._lock:
                self._entries[key] = entry
                self._used(key, entry)
                left = self.limit - sum(map(self._cost, self._entries.values()))
                while left < 0 and len(self._entries) > 1:
                    left += self._cost(self._entries.popitem(last=False)[1])
            return entry

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def _cost(self, entry: Entry) -> int:
        return 1

    def _used(self, key: Key, entry: Entry) -> None:
        """With the lock held."""
        self._entries.move_to_end(key)
