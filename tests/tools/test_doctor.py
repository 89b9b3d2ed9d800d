"""``drystone doctor``: what it finds, and that it says how to mend it."""

from __future__ import annotations

import os
import re

import psutil
import pytest
import torch
from typer.testing import CliRunner

from drystone import native
from drystone.cli import application
from drystone.eager import enable, operators
from drystone.tools import doctor


def found() -> dict[str, doctor.Finding]:
    return {finding.topic: finding for finding in doctor.findings()}


def test_all_topics_and_nothing_stays_changed() -> None:
    before = enable.state()
    topics = found()
    assert {"instructions", "bfloat16", "oneDNN", "threads", "OpenMP", "huge pages", "drystone.enable()", "reuse of pages"} == set(
        topics
    )
    assert enable.state() == before
    assert {native.isa(), *native.features()} == set(re.findall(r"\w+", topics["instructions"].state))
    assert bool(topics["bfloat16"].advice) != native.multiplies_bfloat16()
    assert bool(topics["instructions"].advice) == (native.isa() == "none" or "DRYSTONE_MAX_ISA" in os.environ)


@pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))
def test_pages_and_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_PAGES", "77")
    topics = found()
    assert "77 MB" in topics["reuse of pages"].state and not topics["reuse of pages"].advice
    assert topics["drystone.enable()"].state == f"{len(operators.names())} of {len(operators.names())} operators"
    monkeypatch.setenv("DRYSTONE_PAGES", "0")
    assert "DRYSTONE_PAGES=0" in found()["reuse of pages"].advice


def test_too_many_threads_are_said() -> None:
    cores = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    torch.set_num_threads(cores + 1)
    assert f"torch.set_num_threads({cores})" in found()["threads"].advice


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(application(), ["doctor"])
    assert result.exit_code == 0 and "reuse of pages" in result.output
    monkeypatch.setenv("DRYSTONE_PAGES", "some")
    result = CliRunner().invoke(application(), ["doctor"])
    assert result.exit_code == 2 and "DRYSTONE_PAGES" in result.output
