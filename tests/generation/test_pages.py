"""The storage of caches, and the operator over it as torch has it."""

from __future__ import annotations

import pytest
import torch

from drystone.errors import InputError
from drystone.generation.cached_attention import cached_attention
from drystone.generation.pages import Layer, Pages, Rows, Sequence
from drystone.graph.cache_pages import PAGE, Page

HEADS, DEPTH, WIDTH = 2, 6, 4


def pages_of(window: int = 0, layers: int = 3, dtype: torch.dtype = torch.float32) -> Pages:
    return Pages([Layer(HEADS, DEPTH, WIDTH, window)] * layers, 10 * PAGE, dtype)


def write(sequence: Sequence, count: int) -> torch.Tensor:
    """New positions of all layers, as the operator writes them: values that tell where they belong. Gives them."""
    values = torch.randn(HEADS, count, WIDTH)
    sequence.reserve(count)
    pages, lengths = Rows([sequence]).tables()
    for layer, shape in enumerate(sequence.pages.layers):
        q = torch.randn(1, HEADS, count, DEPTH)
        cached_attention(q, q, values[None] + layer, pages, lengths, layer, 1.0, shape.window, 0.0, None, None, False, True)
    sequence.advance(count)
    return values


def read(sequence: Sequence, layer: int) -> torch.Tensor:
    parts = [Page.at(address).read(PAGE, torch.float32)[1] for address in sequence.table[layer].tolist() if address]
    return torch.cat(parts, 1)[:, : sequence.length]


def test_a_sequence_grows_without_moving() -> None:
    pages = pages_of()
    sequence = Sequence(pages)
    written, seen = [], []
    for count in (1, PAGE - 2, 1, 1, 3 * PAGE):
        written.append(write(sequence, count))
        seen.append(sequence.table.clone())
    for layer in range(3):
        assert torch.equal(read(sequence, layer), torch.cat(written, 1) + layer)
    for before in seen:
        assert torch.equal(torch.where(before != 0, sequence.table, 0), before)
    used = pages.used
    del sequence
    assert pages.used == 0 < used <= pages.bytes


def test_memory_is_used_again() -> None:
    pages = pages_of()
    for _ in range(3):
        sequence = Sequence(pages)
        write(sequence, 5 * PAGE)
        taken = pages.bytes
        del sequence
    assert pages.bytes == taken and pages.used == 0


@pytest.mark.parametrize("common", [PAGE, PAGE + 3])
def test_forks_share_until_one_writes(common: int) -> None:
    pages = pages_of()
    first = Sequence(pages)
    beginning = write(first, common)
    used = pages.used
    second = first.fork()
    assert pages.used == used
    ends = [write(sequence, 2) for sequence in (first, second)]
    assert torch.equal(first.table[:, 0], second.table[:, 0])
    for sequence, end in zip((first, second), ends, strict=True):
        assert torch.equal(read(sequence, 2), torch.cat([beginning, end], 1) + 2)
    third = second.fork(common - 1)
    del first, second
    assert torch.equal(read(third, 1), beginning[:, : common - 1] + 1)


def test_crop_gives_back_and_goes_on() -> None:
    pages = pages_of()
    sequence = Sequence(pages)
    kept = write(sequence, 3 * PAGE)[:, : PAGE + 1]
    sequence.crop(PAGE + 1)
    more = write(sequence, 5)
    assert torch.equal(read(sequence, 0), torch.cat([kept, more], 1))
    with pytest.raises(InputError, match="can't be cropped"):
        sequence.crop(PAGE + 7)


def test_pages_behind_the_window_are_given_back() -> None:
    pages = pages_of(window=PAGE)
    sequence = Sequence(pages)
    for _ in range(6):
        write(sequence, PAGE)
    assert (sequence.table[:, :3] == 0).all() and (sequence.table[:, 4:6] != 0).all()
    least = sequence.least_length()
    assert 3 * PAGE < least <= 6 * PAGE
    with pytest.raises(InputError, match="sliding window"):
        sequence.crop(least - 1)
    sequence.fork().crop(least)
    sequence.crop(0)
    assert pages.used == 0


def test_rows_in_another_order() -> None:
    pages = pages_of()
    rows = Rows([Sequence(pages) for _ in range(3)])
    for count, sequence in enumerate(rows.sequences):
        write(sequence, count + 1)
    before = [read(sequence, 1) for sequence in rows.sequences]
    rows.tables()
    rows.select([2, 0, 2])
    table, lengths = rows.tables()
    assert lengths.tolist() == [3, 1, 3]
    for row, (sequence, was) in enumerate(zip(rows.sequences, (2, 0, 2), strict=True)):
        assert torch.equal(table[:, row], sequence.table) and torch.equal(read(sequence, 1), before[was])
    rows.reserve(1)
    rows.advance([1, 0, 1])
    table, lengths = rows.tables()
    assert lengths.tolist() == [4, 1, 4]
    assert all(torch.equal(table[:, row], sequence.table) for row, sequence in enumerate(rows.sequences))


def test_what_does_not_fit_is_refused() -> None:
    sequence = Sequence(pages_of())
    with pytest.raises(InputError, match="do not fit into a cache of"):
        sequence.reserve(10 * PAGE + 1)
    with pytest.raises(InputError, match="not reserved"):
        sequence.advance(1)
    with pytest.raises(InputError, match=r"cache of torch.float16"):
        pages_of(dtype=torch.float16)


def test_in_and_out_of_inference_mode() -> None:
    pages = pages_of()
    with torch.inference_mode():
        rows = Rows([Sequence(pages) for _ in range(2)])
        rows.reserve(1)
        rows.tables()
    rows.advance(1)
    rows.reserve(PAGE)
    table, _ = rows.tables()
    assert (table[:, :, 1] != 0).all()
    del rows
    assert pages.used == 0
