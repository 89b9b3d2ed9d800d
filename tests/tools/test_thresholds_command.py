"""``drystone thresholds``: what follows from the ratios around a threshold, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drystone.cli import application
from drystone.eager import operators, thresholds
from drystone.tools.thresholds import search
from drystone.tools.thresholds.search import Found, sizes_around


@pytest.mark.parametrize(
    ("decides", "ratios", "measured"),
    [
        ("from", {2: 0.9, 4: 1.0, 8: 1.2}, 4),
        ("from", {2: 1.1, 4: 0.9, 8: 1.2}, 8),
        ("from", {2: 1.0, 4: 1.0, 8: 1.2}, 2),
        ("from", {2: 2.0, 4: 1.0, 8: 0.9}, None),
        ("up to", {2: 2.0, 4: 1.0, 8: 0.9}, 4),
        ("up to", {2: 0.9, 4: 1.0, 8: 1.0}, None),
    ],
)
def test_where_both_are_as_fast(decides: str, ratios: dict[int, float], measured: int | None) -> None:
    assert Found("name", "unit", decides, 4, ratios).measured == measured


def test_sizes() -> None:
    assert sizes_around(6, 1) == [1, 2, 3, 6, 12, 24, 48]
    assert sizes_around(64, 32) == [32, 64, 128, 256, 512]


@pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))
def test_shows_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROUNDS", 1)
    monkeypatch.setattr(search, "BURST_SECONDS", 0.0)
    before = {name: row.in_force for name, row in thresholds.table().items()}
    file = tmp_path / "thresholds.json"
    answer = CliRunner().invoke(
        application(), ["thresholds", "topk_count", "softmax_elements", "--threads", "1", "--json", str(file)]
    )
    assert answer.exit_code == 0, answer.output
    assert "topk_count" in answer.output and "softmax_elements" in answer.output
    kept = json.loads(file.read_text())
    assert [row["name"] for row in kept["thresholds"]] == ["topk_count", "softmax_elements"]
    for row in kept["thresholds"]:
        assert row["in_force"] == before[row["name"]] and str(row["in_force"]) in row["ratios"]
        assert len(row["ratios"]) > search.STEPS and min(row["ratios"].values()) > 0
    assert {name: row.in_force for name, row in thresholds.table().items()} == before


def test_an_unknown_name() -> None:
    answer = CliRunner().invoke(application(), ["thresholds", "topq"])
    assert answer.exit_code == 2 and "topq" in answer.output
