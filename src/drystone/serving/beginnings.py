"""Texts of late, in the cache: a new one that begins as one of them shares its pages, as the next turn of a chat does."""

from __future__ import annotations

from collections import deque

import numpy as np

from drystone.generation.pages import Pages, Sequence


class Beginnings:
    """The last texts, of ``most`` tokens together."""

    def __init__(self, pages: Pages, most: int) -> None:
        self._pages, self._most = pages, most
        self._kept: deque[tuple[np.ndarray, Sequence]] = deque()

    def keep(self, tokens: list[int], sequence: Sequence) -> None:
        """``sequence`` holds the first of ``tokens``."""
        self._kept.append((np.array(tokens[: sequence.length]), sequence))
        while sum(len(tokens) for tokens, _ in self._kept) > self._most:
            self._kept.popleft()

    def begin(self, prompt: list[int]) -> Sequence:
        """A sequence for ``prompt`` that holds as much of its beginning as is known, but for the last token."""
        wanted, longest, found = np.array(prompt[:-1]), 0, None
        for tokens, sequence in self._kept:
            count = min(len(tokens), len(wanted))
            differs = np.flatnonzero(tokens[:count] != wanted[:count])
            common = int(differs[0]) if len(differs) else count
            if common > longest and common >= sequence.least_length():
                longest, found = common, sequence
        return Sequence(self._pages) if found is None else found.fork(longest)

    def clear(self) -> None:
        self._kept.clear()
