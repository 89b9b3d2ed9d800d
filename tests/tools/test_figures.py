"""Published figures: the tables are those of the files, and say what the files hold."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from drystone.tools.bench.environment import environment, microarchitecture
from drystone.tools.bench.results import Outcome, Result, ResultFile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, made anew: it keeps what it has read."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "figures", raising=False)
    return importlib.import_module("figures")


@pytest.mark.parametrize("page", ["README.md", "docs/measurements.md", "docs/tuning.md"])
def test_pages_hold_what_the_files_say(figures: ModuleType, page: str) -> None:
    text = (ROOT / page).read_text()
    assert "<!-- figures: " in text
    assert figures.filled(text) == text, "run: python benchmarks/figures.py --tables"


def keep(folder: Path, part: str, times: dict[str, dict[str, float]]) -> None:
    file = ResultFile()
    for model, by_contender in times.items():
        outcomes = [Outcome(name, rounds=[ms] * 3) if ms else Outcome(name, reason="no") for name, ms in by_contender.items()]
        file.add(Result(model, "float32", 1, 2, [], "2026-01-01", "key", outcomes, 0.0), {"cpu": "x"})
    file.write(folder / f"{part}.json")


@pytest.fixture
def two_cpus(figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    for cpu, ours in (("amd-a", 1.0), ("intel-b", 2.0)):
        (tmp_path / cpu).mkdir()
        net, other = {"drystone": ours, "eager": 4.0, "openvino": 2.0}, {"drystone": ours, "eager": 16.0, "openvino": 0.0}
        keep(tmp_path / cpu, "cnns_float32", {"net": net, "other": other} if cpu == "amd-a" else {"net": net})
    return figures


def test_a_column_for_each_cpu(two_cpus: ModuleType) -> None:
    table = two_cpus.written("cnns_float32").splitlines()
    assert (
        table[0]
        == "| model | amd-a: best engine | amd-a: eager | amd-a: ms | intel-b: best engine | intel-b: eager | intel-b: ms |"
    )
    assert table[2] == "| net | 2.00 (openvino) | 4.00 | 1.0 | 1.00 (openvino) | 2.00 | 2.0 |"
    assert table[3] == "| other | - | 16.00 | 1.0 |  |  |  |"
    assert table[4] == "| geometric mean | **2.00** | **8.00** |  | **1.00** | **2.00** |  |"


def test_the_headline_is_the_least(two_cpus: ModuleType) -> None:
    text = two_cpus.written("headline")
    assert "PyTorch models on CPUs 2.0 times as fast as eager PyTorch and 1.00 times as fast as the best of OpenVINO" in text
    assert "over 1 convolutional networks, float32, batch 1, on intel-b" in text


def test_a_bar_for_each_kind_and_cpu(two_cpus: ModuleType) -> None:
    found = {(bar.kind, bar.cpu): (round(bar.drystone, 6), round(bar.best, 6)) for bar in two_cpus.bars()}
    kind = "Convolutional networks, float32"
    assert found == {(kind, "amd-a"): (8.0, 4.0), (kind, "intel-b"): (2.0, 2.0)}


def test_settings_have_a_row_where_they_were_measured(two_cpus: ModuleType, tmp_path: Path) -> None:
    settings = [{"name": name, "group": "threads"} for name in ("one thread", "many threads")]
    kept = {"settings": settings, "speeds": {"net": {"one thread": 0.5}}}
    (tmp_path / "amd-a" / "tuning.json").write_text(json.dumps(kept))
    assert two_cpus.written("tuning_threads").splitlines()[2:] == ["| one thread | 0.50 |"]


def test_pools_have_a_row_for_each_number_of_clients(two_cpus: ModuleType, tmp_path: Path) -> None:
    row = {"model": "net", "clients": 4, "pool": "2 streams", "per_second": 30.0, "p50_ms": 1.0, "p99_ms": 2.0}
    (tmp_path / "amd-a" / "serving.json").write_text(json.dumps({"streams": [row]}))
    assert two_cpus.written("serving_streams").splitlines()[2:] == ["| net | 4 | 2 streams | 30.0 | 1.0 | 2.0 |"]
    assert two_cpus.written("serving_batching") == two_cpus.NOT_YET


def test_blocks_are_replaced_and_nothing_else(two_cpus: ModuleType) -> None:
    text = "a\n<!-- figures: overview -->\nold\n<!-- end -->\nb\n"
    filled = two_cpus.filled(text)
    assert filled.startswith("a\n<!-- figures: overview -->\n| ") and filled.endswith(" |\n<!-- end -->\nb\n")
    assert "old" not in filled and two_cpus.filled(filled) == filled


@pytest.mark.parametrize(
    ("vendor", "family", "model", "name"),
    [
        ("AuthenticAMD", 25, 1, "amd-zen3"),
        ("AuthenticAMD", 25, 17, "amd-zen4"),
        ("AuthenticAMD", 25, 33, "amd-zen3"),
        ("AuthenticAMD", 25, 97, "amd-zen4"),
        ("AuthenticAMD", 26, 2, "amd-zen5"),
        ("GenuineIntel", 6, 85, "intel-skylake-sp"),
        ("GenuineIntel", 6, 143, "intel-sapphire-rapids"),
        ("GenuineIntel", 6, 207, "intel-emerald-rapids"),
        ("GenuineIntel", 6, 151, "some-r-cpu-3"),
        ("Another", 1, 1, "some-r-cpu-3"),
    ],
)
def test_microarchitecture(vendor: str, family: int, model: int, name: str) -> None:
    text = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: Some(R) CPU @3\n"
    assert microarchitecture(text) == name


def test_the_environment_names_it() -> None:
    name = environment()["microarchitecture"]
    assert re.fullmatch(r"[a-z0-9-]+", name) and json.dumps(name)
