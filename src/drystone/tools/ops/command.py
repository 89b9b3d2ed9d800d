"""The command ``drystone ops``: reads its arguments, measures case by case, shows and keeps the results."""

from __future__ import annotations

import datetime
import itertools
import os
import sys
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from rich.console import Console

from drystone import native
from drystone.console import console as plain

from ..bench.environment import environment
from ..bench.interruption import until_interrupted
from ..bench.picture import draw_kept
from ..bench.progress import progress_bar
from ..bench.report import warn_if_busy
from ..bench.rounds import busy_percent
from ..bench.workload import DTYPES, FLOATS
from .case import Case
from .catalogue import ON_CODES, OPERATORS, choose
from .limits import limits
from .measure import measure
from .plot import plot as draw
from .report import show_operator, show_row, show_summary
from .results import OWN, Measurement, ResultFile, Run


def ops(
    operators: Annotated[list[str], typer.Argument(metavar="NAME…", help=f"{', '.join(OPERATORS)}, or `all`.")],
    dtype: Annotated[str, typer.Option(help=f"By comma; int8 of {', '.join(sorted(ON_CODES))}.")] = ",".join(FLOATS),
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the physical cores.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="Only the cases of this tag or size, as bert-base or M=128; any of several by comma, all if repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Bursts of each contender.")] = 9,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Add the results to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the results (all those in --json, if given).")] = None,
) -> None:
    """Time single operators in drystone against other libraries, in alternating bursts, and against the machine's limits.

    Ends with code 1 where drystone could not run a case. Ctrl-C and SIGTERM end it early; what was measured is shown and kept.
    """
    # Where the output goes into a file, tables need not be squeezed into eighty columns.
    console = plain(width=None if sys.stdout.isatty() else 180)
    cases = _cases(operators, dtype, tag or [])
    try:
        kept = ResultFile.read(json) if json and json.exists() else ResultFile()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--json") from error
    threads = threads or psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads)
    native.set_threads(threads)
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    # How long OpenMP's threads spin after a task bears on every small operator.
    waiting = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    run = Run(date, threads, environment() | {"waiting": waiting})
    found: list[Measurement] = []
    with until_interrupted(console) as ending:
        _measure(cases, rounds, run, kept, json, console, found)
    for _, rows in itertools.groupby(found, lambda m: (m.operator, m.dtype)):
        show_operator(list(rows), console)
    show_summary(found, console)
    if plot and found:
        draw_kept(kept, json, plot, draw)
        console.print(f"drawn: {plot}")
    if ending.code or any(m[OWN].reason for m in found):
        raise typer.Exit(ending.code or 1)


def _measure(
    cases: list[Case],
    rounds: int,
    run: Run,
    kept: ResultFile,
    json: Path | None,
    console: Console,
    found: list[Measurement],
) -> None:
    """The cases into ``found``, and the limits before and after them; each is shown, and the file written, as it comes."""
    dtypes = list(dict.fromkeys(case.dtype for case in cases))
    busy = busy_percent()
    with progress_bar(len(cases) + 2, console) as announce:
        announce("the machine's limits")
        run.raise_limits(limits(dtypes))
        for case in cases:
            announce(case.name)
            found.append(measure(case, rounds, run))
            kept.add(found[-1])
            if json:
                kept.write(json)
            show_row(found[-1], console)
        announce("the machine's limits")
        run.raise_limits(limits(dtypes))
    if json:
        kept.write(json)
    warn_if_busy(max(busy, busy_percent()), console)


def _cases(operators: list[str], dtype: str, tags: list[str]) -> list[Case]:
    names = list(dict.fromkeys(name for operator in operators for name in (OPERATORS if operator == "all" else [operator])))
    for name in names:
        if name not in OPERATORS:
            raise typer.BadParameter(f"no operator {name!r}: {', '.join(OPERATORS)}, or all", param_hint="NAME")
    dtypes = list(dict.fromkeys(name.strip() for name in dtype.split(",")))
    for name in dtypes:
        if name not in DTYPES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(DTYPES)}", param_hint="--dtype")
        if name == "int8" and (others := set(names) - ON_CODES):
            raise typer.BadParameter(f"there is no int8 of {', '.join(sorted(others))}", param_hint="--dtype")
    try:
        return choose(names, dtypes, tags)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--tag") from error
