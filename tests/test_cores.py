"""The cores of this process: lists as Linux writes them, hyper-threads, nodes, quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drystone import cores
from drystone.cores import Core


def test_lists_of_cores() -> None:
    assert cores.numbers("0-3,8\n") == [0, 1, 2, 3, 8]
    assert cores.written([Core(4, 4, 0), Core(6, 6, 0)]) == "4,6"
    for text in ("", "a", "3-1", "1;2"):
        with pytest.raises(ValueError):
            cores.numbers(text)


def machine(folder: Path) -> tuple[Path, Path]:
    """Two nodes of two cores of two hyper-threads, numbered as Linux does: the second threads come last."""
    for number in range(8):
        topology = folder / "cpu" / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    for node, text in enumerate(("0-1,4-5", "2-3,6-7")):
        (folder / "node" / f"node{node}").mkdir(parents=True)
        (folder / "node" / f"node{node}" / "cpulist").write_text(text + "\n")
    return folder / "cpu", folder / "node"


def test_one_hyper_thread_of_each_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpus, nodes = machine(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert [(core.number, core.node) for core in cores.cores(False, cpus, nodes)] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert [core.number for core in cores.cores(True, cpus, nodes)] == [0, 1, 4, 5, 2, 3, 6, 7]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5, 6, 7})
    assert [core.number for core in cores.cores(False, cpus, nodes)] == [5, 6, 7]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "c/cpu.max": "100 100"}, 3.0),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text("0::/a/b\n4:cpu,cpuacct:/\n")
    assert cores.quota(tmp_path, tmp_path / "own") == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"memory.max": "max"}, None),
        ({"memory.max": "1073741824"}, 1 << 30),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({"memory/memory.limit_in_bytes": "4096"}, 4096),
    ],
)
def test_memory_limit(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cores.memory_limit(tmp_path, tmp_path / "none") == expected
