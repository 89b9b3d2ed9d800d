"""Numbers that are computed from sizes, and replayed for others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from drystone.graph.tape import Computed, Number, Tape, computed, decided, mapped, tape_of


def value(tape: Tape, number: Number, *sizes: int) -> Any:
    """What ``number`` is for other sizes; None where the tape does not hold for them."""
    tape.close()
    found = tape.replay(sizes)
    return None if found is None else found[number.place]


def test_arithmetic_is_replayed() -> None:
    tape = Tape([6, 4])
    n, m = tape.numbers
    assert value(tape, -(-(3 * n + m - 1) // 2) % 5 + math.prod((n, m, 2)), 9, 5) == -(-(3 * 9 + 5 - 1) // 2) % 5 + 9 * 5 * 2


def test_what_changes_nothing_is_the_same_number() -> None:
    n = Tape([6]).numbers[0]
    assert n * 1 is n and 1 * n is n and n + 0 is n and 0 + n is n and n // 1 is n and n - 0 is n
    assert isinstance(n * 1.0, Number) and (n * 1.0).place != n.place


@pytest.mark.parametrize(
    "decide, holds, fails",
    [
        (lambda n, m: n == 1, 3, 1),
        (lambda n, m: n * m > 20, 6, 4),
        (lambda n, m: (n, 2) == (m, 2), 3, 4),
        (lambda n, m: max(n, m), 7, 3),
        (lambda n, m: bool(n - 2), 3, 2),
        (lambda n, m: 0 in (n, m), 3, 0),
        (lambda n, m: range(n), 6, 7),
        (lambda n, m: float(n), 6, 7),
        (lambda n, m: {n: 1}, 6, 7),
        (lambda n, m: [0] * n, 6, 7),
        (lambda n, m: torch.empty(n), 6, 7),
        (lambda n, m: decided(lambda numbers: numbers[0] % 2, (n, m)), 8, 7),
        (lambda n, m: len(computed(range, n)), 6, 7),
        (lambda n, m: computed(torch.arange, n)(), 6, 7),
    ],
)
def test_decisions_must_come_out_the_same(decide: Any, holds: int, fails: int) -> None:
    tape = Tape([6, 4])
    n, m = tape.numbers
    decide(n, m)
    tape.close()
    assert tape.replay([holds, 4]) is not None
    assert tape.replay([fails, 4]) is None


def test_a_failure_is_a_decision() -> None:
    def halved(n: int) -> int:
        if n % 2:
            raise ValueError("odd")
        return n // 2

    tape = Tape([5])
    with pytest.raises(ValueError, match="odd"):
        computed(halved, tape.numbers[0])
    tape.close()
    assert tape.replay([4]) is None and tape.replay([5]) is not None

    tape = Tape([4])
    half = computed(halved, tape.numbers[0])
    assert value(tape, half, 8) == 4 and tape.replay([7]) is None


def test_structures_and_tensors_are_computed() -> None:
    tape = Tape([3])
    n = tape.numbers[0]
    table = computed(lambda shape, scale: torch.arange(shape[0]) * scale, (n,), 2.0)
    assert isinstance(table, Computed) and tape_of({"a": [table]}) is tape and tape_of([1, "a"]) is None
    length = computed(len, table)
    first, nothing = computed(lambda data: [data[:1], None], table)
    assert nothing is None
    tape.close()
    found = tape.replay([5])
    assert found is not None and found[length.place] == 5 and torch.equal(found[table.place], torch.arange(5) * 2.0)
    assert torch.equal(mapped(lambda leaf: found[leaf.place] if isinstance(leaf, Computed) else leaf, [first])[0], torch.zeros(1))


def test_a_closed_tape_takes_no_more() -> None:
    tape = Tape([3])
    tape.close()
    with pytest.raises(AssertionError, match="closed"):
        tape.numbers[0] + 1
