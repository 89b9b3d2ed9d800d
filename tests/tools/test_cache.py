"""``drystone cache``: what it shows and what it removes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drystone.cli import application
from drystone.plan.tuning_cache import TuningCache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRYSTONE_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def keep(environment: dict[str, str], entries: int = 1) -> None:
    cache = TuningCache(environment)
    for i in range(entries):
        cache.put(f"step {i}", 1e-6)
    cache.save()


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(application(), ["cache", *args])
    return result.exit_code, result.output


def test_show_has_a_row_for_each_file(folder: Path) -> None:
    keep({"cpu": "Some [bold] CPU", "threads": "2", "isa": "avx2", "drystone": "1", "torch": "2"}, 3)
    keep({"cpu": "another", "threads": "4"})
    (folder / "tuning-0000.json").write_text("no JSON")
    code, text = run("show")
    assert code == 0
    assert "Some [bold] CPU" in text and "another" in text and "tuning-0000.json" in text
    assert next(line for line in text.splitlines() if "Some" in line).split()[-4] == "3"


def test_show_without_any(folder: Path) -> None:
    assert run("show") == (0, f"no times are kept in {folder}\n")


def test_clear_removes_what_is_ours_alone(folder: Path) -> None:
    keep({"cpu": "a"})
    (folder / ".tuning-1.json.2.tmp").touch()  # of a killed process
    (folder / "notes.json").touch()
    code, text = run("clear")
    assert code == 0 and text.startswith("2 files removed")
    assert os.listdir(folder) == ["notes.json"]
    assert run("clear")[0] == 0


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_CACHE", "off")
    assert run("show")[0] == run("clear")[0] == 1
