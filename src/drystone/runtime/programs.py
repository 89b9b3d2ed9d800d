"""Programs by what they were made for: one table, one limit, and one thread at a time that makes what is missing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from drystone.forks import Lock

# Entries of a table; the least recently used goes first.
MAX_PROGRAMS = 16

Key = TypeVar("Key", bound=Hashable)
Entry = TypeVar("Entry")


class ProgramTable(Generic[Key, Entry]):
    """The ``MAX_PROGRAMS`` entries last used. A known one is found without waiting for another that is being made."""

    def __init__(self, making: Lock) -> None:
        """``making``: held by whoever makes an entry; tables may share it."""
        self.making = making
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
                while len(self._entries) > MAX_PROGRAMS:
                    self._entries.popitem(last=False)
            return entry

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def _used(self, key: Key, entry: Entry) -> None:
        """With the lock held."""
        self._entries.move_to_end(key)
