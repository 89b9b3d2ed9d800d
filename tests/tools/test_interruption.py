"""Commands that measure for minutes: something is seen soon in a file too, and what is there survives the end of the process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from drystone.tools.bench.interruption import until_interrupted
from drystone.tools.bench.progress import progress_bar


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_code_after_it_goes_on(number: signal.Signals) -> None:
    console = Console(file=io.StringIO())
    before = signal.getsignal(number)
    reached = []
    with until_interrupted(console) as ending:
        reached.append("start")
        os.kill(os.getpid(), number)
        reached.append("end")
    assert reached == ["start"]
    assert ending.code == 128 + number
    assert signal.getsignal(number) is before


def test_nothing_happens_without_a_signal() -> None:
    with until_interrupted(Console(file=io.StringIO())) as ending:
        pass
    assert ending.code == 0


def test_progress_in_a_file_is_lines() -> None:
    file = io.StringIO()
    with progress_bar(3, Console(file=file)) as announce:
        for what in ("[a]", "b", "c"):
            announce(what)
    assert file.getvalue() == "1 of 3: [a]\n"  # the next ones within ten seconds


def test_ops_ended_by_a_signal_keeps_its_rows(tmp_path: Path) -> None:
    results = tmp_path / "ops.json"
    command = [sys.executable, "-u", "-m", "drystone.cli", "ops", "topk", "--dtype", "float32", "--json", str(results)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"COLUMNS": "180"}
    )
    assert process.stdout is not None
    shown: list[str] = []
    for line in process.stdout:
        shown.append(line)
        if "times that" in line and sum("times that" in row for row in shown) == 2:
            process.send_signal(signal.SIGTERM)
    text = "".join(shown)
    assert process.wait() == 128 + signal.SIGTERM, text
    assert "geometric mean" in text
    assert len(json.loads(results.read_text())["measurements"]) >= 2
