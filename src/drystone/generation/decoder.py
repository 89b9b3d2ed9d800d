"""Runs new tokens of some sequences through programs: all rows' single tokens at once, longer texts in chunks."""

from __future__ import annotations

from functools import cache

import torch

from drystone.generation.pages import Rows, Sequence
from drystone.preparer import Programs
from drystone.runtime.program import Program
from drystone.runtime.proxy import threads_in_force

# Tokens of a chunk. Each size is a program of its own, made when it is needed.
CHUNKS = (8, 32, 128, 512)
# What reading all weights takes, in the time that a token's arithmetic takes.
READING = 24


@cache
def cut(length: int) -> tuple[int, ...]:
    """The chunks for ``length`` tokens that take the least time; the last may be longer than what is left."""
    most = CHUNKS[-1]
    if length > 2 * most:
        return (most, *cut(length - most))
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for count in range(1, length + 1):
        choices = ((best[max(count - chunk, 0)], chunk) for chunk in CHUNKS)
        best.append(min((before[0] + max(chunk, READING) + READING, (*before[1], chunk)) for before, chunk in choices))
    return tuple(sorted(best[length][1], reverse=True))


@cache
def _all(count: int) -> torch.Tensor:
    """The positions that are kept, where all are."""
    return torch.arange(count)


class Decoder:
    """The programs of a model, by the sizes of a step."""

    def __init__(self, programs: Programs, limit: int) -> None:
        """``limit``: the positions that the model has."""
        self.programs, self.limit = programs, limit
        self._last: tuple[tuple[int, ...], Program] | None = None

    def run(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, vocabulary) of a step on tokens, positions, positions that are kept, lengths and pages."""
        batch, count = inputs[0].shape
        key = (threads_in_force(), batch, count, inputs[2].shape[0])
        last = self._last
        if last is None or last[0] != key:
            sizes = tuple(tuple(tensor.shape) for tensor in inputs)
            last = self._last = key, self.programs.at(sizes, list(inputs), key[0]).program
        return last[1](list(inputs))[0]

    def tokens(self, rows: Rows, ids: torch.Tensor, positions: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, vocabulary) of the T new tokens that each row has. ``more``: further inputs of the step."""
        count = ids.shape[1]
        rows.reserve(count)
        pages, lengths = rows.tables()
        logits = self.run(ids.contiguous(), positions.contiguous(), _all(count), lengths, pages, *more)
        rows.advance(count)
        return logits

    def text(self, sequence: Sequence, ids: torch.Tensor, positions: torch.Tensor, asked: int, *more: torch.Tensor) -> torch.Tensor:
        """Logits (asked, vocabulary) of the last ``asked`` of the new tokens ``ids`` (T) of one sequence."""
        rows, length, found = Rows([sequence]), ids.shape[0], list[torch.Tensor]()
        begin = 0
        for chunk in self._chunks(length, sequence.length):
            end = min(begin + chunk, length)
            # What a chunk is filled up with is overwritten by what follows, and hidden till then.
            padded = torch.arange(begin, begin + chunk).clamp_(max=length - 1)
            wanted = end - max(length - asked, begin)
            keep = torch.arange(chunk) if wanted > 1 else torch.tensor([end - begin - 1])
            rows.reserve(chunk)
            pages, lengths = rows.tables()
            logits = self.run(ids[padded][None], positions[padded][None], keep, lengths, pages, *more)[0]
            rows.advance(end - begin)
            if wanted > 0:
                found.append(logits[end - begin - wanted : end - begin] if wanted > 1 else logits)
            begin = end
        return found[0] if len(found) == 1 else torch.cat(found)

    def _chunks(self, length: int, past: int) -> tuple[int, ...]:
        """For ``length`` tokens after ``past``: the last ones by themselves, where there are no positions to fill a chunk up."""
        chunks = cut(length)
        if past + sum(chunks) > self.limit:
            chunks = (*chunks[:-1], *(1,) * (length - sum(chunks[:-1])))
        return chunks
