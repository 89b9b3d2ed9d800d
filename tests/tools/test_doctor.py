"""``drystone doctor``: what it finds in processes that are set up badly, and that it says how to mend it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info
from typer.testing import CliRunner

import fresh_process
from drystone import native
from drystone.cli import application
from drystone.cores import cores
from drystone.eager import enable, operators
from drystone.tools.doctor.command import findings
from drystone.tools.doctor.finding import Finding

CGROUPS = Path("/sys/fs/cgroup")

COMMAND = """
import sys
from drystone.cli import application
application("doctor")(["doctor", "--json", "--no-measure"])
"""


def found() -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings()}


def elsewhere(before: str = "", **environment: str) -> tuple[dict[str, dict[str, Any]], int]:
    """The findings, by topic, and the exit code of the command in a process of its own."""
    ended = fresh_process.run(before + COMMAND, check=False, filter="ignore", **environment)
    assert ended.stdout.startswith("{"), ended.stderr
    return {finding["topic"]: finding for finding in json.loads(ended.stdout)["findings"]}, ended.returncode


def test_all_topics_and_nothing_stays_changed() -> None:
    before = enable.state()
    topics = found()
    own = {"instructions", "bfloat16", "oneDNN", "drystone.enable()", "reuse of pages"}
    assert topics.keys() >= own | {"processor", "cores", "threads", "memory", "huge pages", "torch", "OpenMP", "allocator"}
    assert enable.state() == before
    assert {native.isa(), *native.features()} == set(re.findall(r"\w+", topics["instructions"].state))
    assert bool(topics["bfloat16"].advice) != native.multiplies_bfloat16()
    assert torch.__version__ in topics["torch"].state


@pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))
def test_pages_and_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_PAGES", "77")
    topics = found()
    assert "77 MB" in topics["reuse of pages"].state and not topics["reuse of pages"].advice
    assert topics["drystone.enable()"].state == f"{len(operators.names())} of {len(operators.names())} operators"
    monkeypatch.setenv("DRYSTONE_PAGES", "0")
    assert "DRYSTONE_PAGES=0" in found()["reuse of pages"].advice


def test_too_many_threads() -> None:
    usable = len(cores())
    torch.set_num_threads(usable + 1)
    assert f"torch.set_num_threads({usable})" in found()["threads"].advice


def test_threads_beyond_the_affinity() -> None:
    topics, code = elsewhere("import os, torch; torch.set_num_threads(2); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})")
    assert topics["threads"]["state"] == "2 on 1 cores" and topics["threads"]["bad"]
    assert code == 1


@pytest.fixture
def group_of_one_cpu() -> Iterator[Path]:
    """A cgroup with the time of one CPU: its file of processes."""
    first = CGROUPS / "cpu" if (CGROUPS / "cpu").is_dir() else CGROUPS
    folder = first / f"drystone-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text("100000 100000")
        else:
            (folder / "cpu.cfs_quota_us").write_text("100000")
        yield folder / "cgroup.procs"
    except OSError as error:
        pytest.skip(f"no cgroup can have a quota: {error}")
    finally:
        folder.rmdir()


@pytest.mark.skipif(len(cores()) < 2, reason="one core")
def test_threads_beyond_the_quota(group_of_one_cpu: Path) -> None:
    enter = f"import os\nwith open({str(group_of_one_cpu)!r}, 'w') as file: file.write(str(os.getpid()))\n"
    topics, code = elsewhere(f"{enter}import torch; torch.set_num_threads(2)\n")
    assert topics["threads"]["state"] == "2 on 1 cores" and topics["threads"]["bad"]
    assert "the CPU quota of its cgroup is 1" in topics["threads"]["advice"] and "CPU quota 1" in topics["cores"]["state"]
    assert code == 1


def test_openmp_pinned_to_one_core() -> None:
    topics, code = elsewhere("import torch; torch.set_num_threads(2)\n", GOMP_CPU_AFFINITY="0")
    assert "2 threads share 1 core: unset GOMP_CPU_AFFINITY" in topics["GOMP_CPU_AFFINITY"]["advice"]
    assert code == 1
    topics, _ = elsewhere("import torch; torch.set_num_threads(2)\n", GOMP_CPU_AFFINITY="0-2:2")
    assert not topics["GOMP_CPU_AFFINITY"]["advice"]


def test_two_openmp_runtimes(tmp_path: Path) -> None:
    path = next(Path(pool["filepath"]) for pool in threadpool_info() if pool["user_api"] == "openmp")
    copied = str(shutil.copy(path, tmp_path / "libgomp.so"))
    topics, code = elsewhere(f"import ctypes; ctypes.CDLL({copied!r})\n")
    assert "libgomp.so" in topics["OpenMP"]["state"] and "fight for the cores" in topics["OpenMP"]["advice"]
    assert str(tmp_path) not in topics["OpenMP"]["advice"], "a report names no folder of the user's"
    assert code == 1


def test_capped_instructions() -> None:
    topics, _ = elsewhere(ONEDNN_MAX_CPU_ISA="AVX2", DRYSTONE_MAX_ISA="none")
    assert topics["caps on instructions"]["state"] == "DRYSTONE_MAX_ISA=none, ONEDNN_MAX_CPU_ISA=AVX2"
    assert "unset them" in topics["caps on instructions"]["advice"]
    assert topics["instructions"]["state"] == "none"


@pytest.mark.parametrize("name", ["DRYSTONE_MAX_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "DNNL_MAX_CPU_ISA"])
def test_each_cap_is_seen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "avx2")
    assert f"{name}=avx2" in found()["caps on instructions"].state


@pytest.mark.parametrize("content", [None, b"no library"])
def test_a_onednn_that_does_not_load(tmp_path: Path, content: bytes | None) -> None:
    library = tmp_path / "libdnnl.so.3"
    if content is not None:
        library.write_bytes(content)
    topics, code = elsewhere(DRYSTONE_ONEDNN=str(library))
    assert "oneDNN could not be loaded" in topics["drystone's core"]["advice"]
    assert topics["OpenMP"] and code == 1, "the rest is said all the same"


def test_a_preloaded_allocator(tmp_path: Path) -> None:
    """Any library of that name that is mapped into the process."""
    path = next(Path(pool["filepath"]) for pool in threadpool_info() if pool["user_api"] == "openmp")
    copied = str(shutil.copy(path, tmp_path / "libjemalloc.so.2"))
    topics, _ = elsewhere(f"import ctypes; ctypes.CDLL({copied!r})\n", MALLOC_CONF="x", LD_PRELOAD=copied)
    assert topics["allocator"]["state"] == "jemalloc"
    assert not topics["MALLOC_CONF"]["advice"] and "before all others" in topics["LD_PRELOAD"]["state"]
    topics, _ = elsewhere(MALLOC_CONF="x")
    assert topics["allocator"]["state"] == "the C library's" and "nothing reads it" in topics["MALLOC_CONF"]["advice"]


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    result = CliRunner().invoke(application(), ["doctor"], env={"COLUMNS": "200"})
    assert result.exit_code == any(finding.bad for finding in findings())
    assert "reuse of pages" in result.output and "GFLOP/s" in result.output and "channels_last" in result.output
    assert os.getcwd() not in result.output
    monkeypatch.setenv("DRYSTONE_PAGES", "some")
    result = CliRunner().invoke(application(), ["doctor", "--no-measure"])
    assert result.exit_code == 1 and "DRYSTONE_PAGES" in result.output
