"""The sizes that decide whether drystone or torch serves a call: their table, other figures for a time, and what acts on them."""

from __future__ import annotations

import pytest
import torch

import drystone
from drystone import native
from drystone.eager import thresholds
from drystone.tools.ops.catalogue import PROBES
from drystone.tools.thresholds.search import sides

TABLE = thresholds.table()


def test_the_figures_in_force_are_those_of_this_class_of_cpu() -> None:
    column = {"none": "avx2"}.get(native.isa(), native.isa())
    assert all(row.in_force == getattr(row, column) > 0 for row in TABLE.values())
    assert {row.decides for row in TABLE.values()} == {"from", "up to", "within"}


def test_another_figure_for_a_time() -> None:
    before = TABLE["topk_count"].in_force
    with pytest.raises(KeyError), thresholds.threshold("topk_count", 7), thresholds.threshold("topk_count", 9):
        assert thresholds.table()["topk_count"].in_force == 9
        raise KeyError
    assert thresholds.table()["topk_count"].in_force == before
    with pytest.raises(ValueError, match="no threshold topq"), thresholds.threshold("topq", 1):
        pass


def test_each_has_its_probe() -> None:
    assert PROBES.keys() == TABLE.keys()


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.decides != "within"])
def test_it_decides_who_serves_a_call(name: str) -> None:
    row, probe = TABLE[name], PROBES[name]
    size = max(row.in_force, probe.least)
    drystones, torchs = sides(row)
    # Sizes come out a little below what was asked for, where a tensor has no such number of elements.
    low, high = size // 2, 2 * size
    for make in probe.calls.values():
        call = make(size)
        for value, served in (
            (drystones, True),
            (torchs, False),
            (low, row.decides == "from"),
            (high, row.decides == "up to"),
        ):
            with torch.inference_mode(), drystone.enabled(probe.operators), thresholds.threshold(name, value):
                before = native.calls_served()
                call()
                assert native.calls_served() - before == served, value
        before = native.calls_served()
        call()
        assert native.calls_served() == before
