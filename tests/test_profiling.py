"""``drystone.profile``: the steps of calls, and their names in torch's profiler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import drystone
from drystone import native
from drystone.cli import application
from drystone.cores import cores
from drystone.runtime.explain import ExplainedStep
from drystone.tools.profile.trace import write_trace

X = torch.randn(2, 8)

MODEL = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)), torch.ones(1, 3, 8, 8)
"""


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def test_calls_inside_count() -> None:
    original = model()
    fast, other = (drystone.optimize(original, (X,), tuning="estimate") for _ in range(2))
    fast(X)
    with drystone.profile(fast) as profile, torch.no_grad():
        results = [fast(X), fast(2 * X), other(X)]
        torch.testing.assert_close(results[1], original(2 * X))
    fast(X)
    (seen,) = profile.programs
    assert seen.calls == 2
    assert [step.name for step in seen.explained()] == [step.name for step in fast.explain().steps]
    assert sum(step.microseconds for step in seen.explained()) <= 1e6 * max(seen.seconds)
    assert "2 calls of inputs 2x8" in str(profile)
    assert profile.to_dict()[0]["calls"] == 2
    if native.isa() != "none":  # else torch reads the model's own
        assert seen.explanation().weights_bytes >= 4 * (8 * 16 + 16 * 4)


@pytest.mark.skipif(native.isa() == "none" or len(cores()) < 2, reason="torch computes, or one core")
def test_threads_that_wait_are_seen() -> None:
    class Steps(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.softmax(x, 1), torch.tanh(x[:1, :8]) * 2

    fast = drystone.optimize(Steps().eval(), (torch.randn(512, 512),), tuning="estimate")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        x = torch.randn(512, 512)
        fast(x)
        with drystone.profile(fast) as profile:
            expected = fast(x)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(expected[0], torch.softmax(x, 1))
    (seen,) = profile.programs
    steps = {step.op: step.idle for step in seen.explained()}
    assert steps["softmax"] is not None and 0 <= steps["softmax"] < 1
    assert "threads wait for each other" in str(profile) and "threads idle" in str(profile)


def test_without_a_model_all_programs_are_seen() -> None:
    fast = [drystone.optimize(model(), (X,), tuning="estimate") for _ in range(2)]
    with drystone.profile() as profile:
        for each in fast:
            each(X)
    assert [seen.calls for seen in profile.programs] == [1, 1]
    with drystone.profile() as nothing:
        pass
    assert str(nothing).startswith("No program was called.")


def test_steps_have_names_in_torchs_profiler() -> None:
    fast = drystone.optimize(model(), (X,), tuning="estimate")
    with torch.no_grad():
        expected = fast(X)
        with torch.profiler.profile() as profiler:
            result = fast(X)
    assert torch.equal(result, expected)
    names = {event.key for event in profiler.key_averages()}
    if native.isa() != "none":  # else torch computes, and its own operators are there
        assert {f"drystone::{step.name}" for step in fast.explain().steps} <= names


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_steps_around_what_torch_runs_have_names_too() -> None:
    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.last(torch.linalg.matrix_exp(self.first(x).view(-1, 4, 4)).flatten(1)))

    fast = drystone.optimize(Exponential().eval(), (X,), tuning="estimate")
    assert fast.explain().segments
    with torch.no_grad():
        expected = fast(X)
        with torch.profiler.profile() as profiler:
            result = fast(X)
    assert torch.equal(result, expected)
    names = {event.key for event in profiler.key_averages()}
    assert {f"drystone::{step.name}" for step in fast.explain().steps} <= names and "aten::linalg_matrix_exp" in names


def test_trace(tmp_path: Path) -> None:
    steps = [
        ExplainedStep("x", "linear", [1], "float32", "own", "plain", us, "node", module=name)
        for name, us in (("a.b", 1.0), ("a.c", 2.0), ("", 4.0))
    ]
    write_trace(tmp_path / "trace.json", {"fast": steps, "eager": steps[:1]})
    all_events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [event["args"]["name"] for event in all_events if event["ph"] == "M"] == ["fast", "eager"]
    assert [event["name"] for event in all_events if event["pid"] == 1 and event["ph"] == "X"] == ["linear", "b", "a"]
    events = [event for event in all_events if event["ph"] == "X" and event["pid"] == 0]
    modules = {event["name"]: (event["ts"], event["dur"]) for event in events if event["cat"] == "module"}
    assert modules == {"a": (0.0, 3.0), "b": (0.0, 1.0), "c": (1.0, 2.0)}
    assert [(event["ts"], event["dur"]) for event in events if event["cat"] == "node"] == [(0.0, 1.0), (1.0, 2.0), (3.0, 4.0)]


@pytest.mark.skipif(native.isa() == "none", reason="eager runs")
def test_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODEL)
    pytest.importorskip("matplotlib")
    files = [f"--{kind}={tmp_path / kind}" for kind in ("html", "json", "trace")]
    arguments = [f"{tmp_path / 'mine.py'}:build", "--threads", "1", "--seconds", "0.1", *files]
    answer = CliRunner().invoke(application("profile"), ["profile", *arguments], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    assert "Eager, as it is:" in answer.output
    if "runs eagerly" in answer.output:
        return
    assert "the steps add up to" in answer.output and "conv + relu" in answer.output
    written = json.loads((tmp_path / "json").read_text())
    assert written["limits"]["float32"] > 0 and written["explanation"]["steps"][0]["bytes"] > 0
    page = (tmp_path / "html").read_text()
    assert "<svg" in page and "conv + relu" in page and "://" not in page.split("<svg")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no model 'nothing'"),
        (["missing.py:build"], "no file"),
        (["resnet50", "--dtype", "int3"], "'int3' is none of"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    answer = CliRunner().invoke(application("profile"), ["profile", *arguments], env={"COLUMNS": "200"})
    assert answer.exit_code == 2 and message in " ".join(answer.output.split())
