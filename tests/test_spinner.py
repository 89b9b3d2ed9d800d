"""What is said while a model is prepared: on a terminal or in a notebook to it, elsewhere to a logger; nothing is printed there."""

from __future__ import annotations

import io
import logging
import sys

import pytest
import torch
from torch import nn

import drystone
from drystone.spinner import spinner


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_for(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called by the test itself: pytest puts a stderr of its own in place between fixtures and the test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def test_elsewhere_it_is_logged_and_not_printed(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO, "drystone")
    with spinner("preparing") as say:
        say("capturing")
        say("autotuning", 12.4)
        say("choosing", 0.4)
    said = [record.getMessage() for record in caplog.records]
    assert said[:-1] == ["capturing", "autotuning, about 12 s left", "choosing, less than 1 s left"]
    assert said[-1].startswith("preparing took")
    assert capfd.readouterr() == ("", "")


def test_a_preparation_is_logged_from_beginning_to_end(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO, "drystone")
    drystone.optimize(nn.Linear(4, 4).eval(), torch.ones(2, 4), tuning="estimate")
    said = [record.getMessage() for record in caplog.records if record.name == "drystone"]
    assert said[0] == "capturing" and [text.startswith("preparing took") for text in said].count(True) == 1
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_it_and_how_long_it_may_take(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    terminal = terminal_for(monkeypatch)
    caplog.set_level(logging.INFO, "drystone")
    with spinner("preparing") as say:
        say("autotuning", 12.4)
    assert "drystone: autotuning, about 12 s left" in terminal.getvalue()
    assert not caplog.records


def test_one_inside_another_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    with spinner("preparing") as outer, spinner("preparing") as inner:
        inner("capturing")
        assert inner is outer
    assert "capturing" in terminal.getvalue()
    with spinner("preparing") as later:
        assert later is not outer


@pytest.mark.parametrize("widgets", [False, True])
def test_a_notebook_shows_it_where_it_can(widgets: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without ipywidgets rich would only warn that it is missing."""
    shown: list[str] = []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if widgets else None)
    monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, *, description: shown.append(description))
    monkeypatch.setattr("rich.progress.Progress.start", lambda self: None)
    monkeypatch.setattr("rich.progress.Progress.stop", lambda self: None)
    caplog.set_level(logging.INFO, "drystone")
    with spinner("preparing") as say:
        say("capturing")
    assert shown == (["capturing"] if widgets else [])
    assert bool(caplog.records) != widgets
