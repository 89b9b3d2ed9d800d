"""Other people's libraries as their users call them: eager, ``drystone.optimize_`` and ``torch.compile``, each one line.

    pip install -c constraints.txt '.[ecosystem]'
    python benchmarks/ecosystem.py --json ecosystem.json
    python benchmarks/ecosystem.py --only silero_vad mtcnn

The usages are those of tests/ecosystem. Each is timed in a process of its own, in which the contenders take turns in bursts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import drystone
from drystone.tools.bench.burst import burst
from drystone.tools.bench.environment import environment
from drystone.tools.bench.rounds import BURST_SECONDS, PAUSE_SECONDS
from drystone.tools.bench.worker import shorten

sys.path.append(str(Path(__file__).parents[1] / "tests" / "ecosystem"))

from usage import Usage, difference, usages

# A contender that has not given its first result by then is left out, as is a library.
FIRST_RESULT_SECONDS = 60
USAGE_SECONDS = 600

CONTENDERS = {
    "eager": lambda model: None,
    "drystone": drystone.optimize_,
    "torch.compile": lambda model: model.compile(dynamic=None),
}


def measured(one: Usage, contenders: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of the first result, milliseconds of the others by rounds, and whether results are eager's."""
    for package in one.packages:
        importlib.import_module(package)
    want: Any = None
    outcomes: dict[str, dict[str, Any]] = {}
    running = {}
    for name in contenders:
        used = one.build()
        begun = time.perf_counter()
        try:
            CONTENDERS[name](used.model)
            result = used.run()
            seconds = time.perf_counter() - begun
            used.run()  # where sizes differ, some are met twice
        except Exception as error:
            outcomes[name] = {"reason": shorten(f"{type(error).__name__}: {error}".splitlines()[0])}
            continue
        want = result if name == "eager" else want
        outcomes[name] = {"first_seconds": round(seconds, 2), "difference": difference(result, want), "milliseconds": []}
        if seconds <= FIRST_RESULT_SECONDS:
            running[name] = used
        else:
            outcomes[name]["reason"] = f"its first result took more than {FIRST_RESULT_SECONDS} s"
    for _ in range(rounds):
        for name, used in running.items():
            time.sleep(PAUSE_SECONDS)
            outcomes[name]["milliseconds"].append(round(1e3 * statistics.median(burst(used.run, BURST_SECONDS, 2)), 3))
    return {"library": one.library, "call": one.call, "outcomes": outcomes}


def ratio(outcomes: dict[str, Any], name: str) -> float | None:
    """Eager's time over this one's: the median over the rounds."""
    pairs = zip(outcomes["eager"]["milliseconds"], outcomes.get(name, {}).get("milliseconds", []), strict=False)
    ratios = [eager / own for eager, own in pairs]
    return round(statistics.median(ratios), 3) if ratios else None


def in_a_process(one: Usage, arguments: argparse.Namespace) -> dict[str, Any]:
    options = ["--rounds", arguments.rounds, "--threads", arguments.threads, "--against", *arguments.against]
    command = [sys.executable, __file__, "--here", one.name, *map(str, options)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=USAGE_SECONDS)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        answer = {"reason": f"not done after {USAGE_SECONDS} s"}
    except (IndexError, ValueError):
        answer = {"reason": shorten((done.stderr.strip().splitlines() or ["it died"])[-1])}
    return {"library": one.library, "call": one.call, **answer}


def table(results: list[dict[str, Any]]) -> Table:
    shown = Table("library", "call", "eager ms", "drystone ms", "eager ÷ drystone", "÷ torch.compile", "first result s", "results")
    for result in results:
        outcomes = result.get("outcomes", {})
        fast = outcomes.get("drystone", {})
        if "reason" in result or not fast.get("milliseconds"):
            shown.add_row(result["library"], result["call"], *["-"] * 5, result.get("reason") or fast.get("reason"))
            continue
        times = [f"{statistics.median(outcomes[name]['milliseconds']):.1f}" for name in ("eager", "drystone")]
        ratios = [ratio(outcomes, name) for name in ("drystone", "torch.compile")]
        shown.add_row(
            result["library"],
            result["call"],
            *times,
            *(f"{number:.2f}" if number else "-" for number in ratios),
            str(fast["first_seconds"]),
            fast["difference"] or "eager's",
        )
    return shown


def main() -> None:
    known = {one.name: one for one in usages()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=known, default=list(known), metavar="NAME", help=", ".join(known))
    parser.add_argument("--against", nargs="*", choices=("torch.compile",), default=["torch.compile"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--here", choices=known, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.here:
        warnings.simplefilter("ignore")
        print(json.dumps(measured(known[arguments.here], ["eager", "drystone", *arguments.against], arguments.rounds)))
        return
    console = Console()
    results = [in_a_process(known[name], arguments) for name in track(arguments.only, "measuring", console=console, transient=True)]
    console.print(table(results))
    if arguments.json:
        facts = {"environment": environment(), "threads": arguments.threads, "results": results}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
