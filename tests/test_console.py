"""Names are printed as they are, also those that rich would take for markup."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import drystone
from drystone.cli import application
from drystone.runtime.explain import ExplainedPart, ExplainedStep, Explanation, PartedExplanation
from drystone.runtime.explain_packed_layers import ExplainedLayer, PackedLayersExplanation
from drystone.tools.bench.progress import progress_bar
from drystone.tools.bench.report import show_result, show_summary
from drystone.tools.bench.results import Outcome, Result
from drystone.tools.doctor import command as doctor
from drystone.tools.doctor.finding import Finding

NAMES = ("[/]", "[bold]", "[/red]", "x[0]", ":x:", "a\\[b]")


@pytest.mark.parametrize("name", NAMES)
def test_explanations(name: str) -> None:
    step = ExplainedStep(name, name, [1], name, name, name, 1.0, "aten", name)
    program = Explanation([step], "drystone", 0, 0, 1.0, 1.0, 1, "avx2", "3")
    assert str(program).count(name) == 5 + 3
    parted = PartedExplanation([ExplainedPart(name, name, name, name, [program])], "eager", name, 1.0, 1.0)
    assert str(parted).count(name) == 4 + 1 + 2 + 8
    layers = PackedLayersExplanation(
        [ExplainedLayer(name, name, name, name, [name], name)], "eager", name, name, {name: 1.0}, 1.0, 0, {name: 1}, 1, 0
    )
    assert str(layers).count(name) == 6 + 3


@pytest.mark.parametrize("capture", ["whole", "auto", "eager"])
def test_models_whose_modules_are_named_so(capture: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("[/]", nn.Sequential(nn.Linear(4, 4), nn.Softplus()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = getattr(self, "[/]")(x)
            return y if capture == "whole" or y.sum() > 0 else -y

    with pytest.warns(drystone.DrystoneWarning) if capture == "auto" else pytest.MonkeyPatch.context():
        fast = drystone.optimize(Odd().eval(), torch.zeros(1, 4), tuning="estimate", capture=capture)
    assert "[/]" in str(fast.explain()) or capture == "whole"


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_the_tools(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [Outcome(name, reason=name), Outcome("eager", rounds=[1.0])]
    result = Result(name, name, 1, 1, [[1]], "", "", outcomes)
    shown = io.StringIO()
    console = Console(file=shown, width=300, emoji=False)
    show_result(result, console)
    show_summary([result, result], console)
    with progress_bar(1, Console(file=shown, force_terminal=True, width=300, emoji=False)) as announce:
        announce(name)
    assert shown.getvalue().count(name) >= 4 + 3 + 1
    monkeypatch.setattr(doctor, "findings", lambda: [Finding(name, name, name)])
    assert CliRunner().invoke(application(), ["doctor", "--no-measure"]).output.count(name) == 3


@pytest.mark.parametrize("command", ["bench", "ops"])
def test_errors_of_the_tools(command: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(application(), [command, "[/]"])
    assert done.exit_code == 2 and "[/]" in done.output


def test_version() -> None:
    assert CliRunner().invoke(application(""), ["--version"]).output == f"drystone {drystone.__version__}\n"
    helped = CliRunner().invoke(application(""), [], env={"COLUMNS": "200"}).output
    assert "time between the arithmetic" in helped and "Start a program" in helped
