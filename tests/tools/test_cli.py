"""The command ``drystone`` as a program: what goes wrong is one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from drystone.cli import main

MODEL = """
import torch
from torch import nn

class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("this model\\nraises")

def build():
    return Raises(), torch.ones(1, 4)

def none():
    raise OSError("no weights here")
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["drystone", *arguments])
    monkeypatch.setenv("COLUMNS", "300")  # messages in a line, as in a wide terminal
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("function", "message"), [("build", "RuntimeError: this model raises"), ("none", "OSError: no weights here")]
)
def test_a_model_that_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], function: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(MODEL)
    target = f"{tmp_path / 'mine.py'}:{function}"
    assert run(monkeypatch, "profile", target, "--threads", "1") == 2
    told = capsys.readouterr().err
    assert f"drystone profile: {message}" in told and "Traceback" not in told
    with pytest.raises((RuntimeError, OSError)):
        run(monkeypatch, "--debug", "profile", target, "--threads", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--", "no-program-of-this-name"], "no-program-of-this-name: No such file"),
        (["run", "--ninstances", "0", "--", "true"], "greater than or equal to 1"),
        (["run", "--core-list", "9999", "--", "true"], "no core 9999"),
        (["bench", "missing.py:build"], "no file"),
        (["bench", "resnet50", "--json", "/"], "drystone bench: IsADirectoryError"),
        (["nothing"], "No such command"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    told = capfd.readouterr().err
    assert message in " ".join(told.split()) and "Traceback" not in told
