"""Times that other work has spoilt are seen, measured again and not kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import drystone
from agreement import assert_close
from drystone import native
from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.passes import simplify
from drystone.plan.assembled import Assembled
from drystone.plan.autotune import Planner
from drystone.plan.contention import contention
from drystone.plan.implementations.base import WeightStore
from drystone.plan.tuning_cache import TuningCache

requires_native = pytest.mark.skipif(native.isa() == "none", reason="nothing native to measure below AVX2")


CONTENDED = 0.1


@pytest.fixture(autouse=True)
def contention_counts(tests_may_share_the_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drystone.plan.autotune.CONTENDED", CONTENDED)


@pytest.fixture
def busy() -> Iterator[None]:
    """Other processes want every core, twice."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    time.sleep(0.2)
    yield
    for other in others:
        other.kill()
        other.wait()


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_other_work_is_seen(busy: None) -> None:
    with contention(1) as found:
        spin(0.3)
    assert found.share > CONTENDED


def test_sleep_is_no_contention() -> None:
    with contention(1) as found:
        time.sleep(0.3)
    assert found.share < CONTENDED


@requires_native
def test_times_beside_other_work_are_said_and_not_kept(busy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_CACHE", str(tmp_path))
    x = torch.randn(8, 3, 64, 64)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3)).eval()
    with pytest.warns(drystone.DrystoneWarning, match="other work took"):
        fast = drystone.optimize(model, x)
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        assert_close(fast(x), model(x))


@requires_native
def test_what_is_out_of_proportion_is_measured_again() -> None:
    sizes = [nn.Conv2d(64, 64, 1), nn.Conv2d(64, 80, 1), nn.Conv2d(80, 96, 1), nn.Conv2d(96, 112, 1), nn.Conv2d(112, 128, 1)]
    graph = simplify(build(capture(nn.Sequential(*sizes).eval(), (torch.randn(1, 64, 32, 32),))))
    disturbed = graph.nodes[2]
    calls = 0

    def measure(plan: Assembled) -> list[list[float]]:
        """The first program is measured while something else runs beside one of its steps."""
        nonlocal calls
        calls += 1
        steps = [1e-4 * (100 if calls == 1 and record.node is disturbed else 1) for record in plan.records]
        return [steps, steps]

    planner = Planner(graph, WeightStore(), TuningCache({}))
    planner.autotune(measure)
    times = [
        planner.cache.get(f"{planner.signature(disturbed)}|{option[0].name}|{option[1]}") for option in planner.options[disturbed]
    ]
    assert max(seconds for seconds in times if seconds is not None) <= 1e-4 * len(graph.nodes)


@requires_native
def test_a_quiet_preparation_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_CACHE", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error", drystone.DrystoneWarning)
        drystone.optimize(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(2, 4), tuning="estimate")
