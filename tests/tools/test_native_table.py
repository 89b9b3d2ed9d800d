"""The table of native operators: of all there are, and as docs/native_operators.md has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from drystone import native
from drystone.cli import application
from drystone.plan.implementations import IMPLEMENTATIONS
from drystone.tools import native_table

PAGE = Path(__file__).parents[2] / "docs" / "native_operators.md"


def section(heading: str) -> str:
    """A section of the page, from its heading to the next."""
    text = PAGE.read_text()
    start = text.index(f"{heading}\n")
    end = text.find("\n## ", start)
    return text[start:] if end < 0 else text[start:end]


def test_every_operator_has_a_sample() -> None:
    assert {type(sample().op) for sample in native_table.SAMPLES.values()} == {each.op for each in IMPLEMENTATIONS}


@pytest.mark.skipif(native.isa() == "amx", reason="no such machine was at hand to write it")
def test_the_page_has_what_this_cpu_does() -> None:
    table = native_table.markdown()
    assert section(table.splitlines()[0]) == table, "write what `drystone doctor --table` prints to the page"


@pytest.mark.skipif(native.isa() != "avx512", reason="the kernels of another CPU")
def test_the_page_has_what_such_a_cpu_does_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "multiplies_bfloat16", lambda: False)
    table = native_table.markdown()
    assert "without bfloat16" in table and section(table.splitlines()[0]) == table


@pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")
def test_nothing_runs_on_aten() -> None:
    assert not [row for row in native_table.rows() if "ATen" in row]


def test_command() -> None:
    result = CliRunner().invoke(application(), ["doctor", "--table"])
    assert result.exit_code == 0 and result.output == native_table.markdown()
