"""The command ``drystone thresholds``: reads its arguments, searches one threshold after the other, shows and keeps the results."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from rich.table import Table

from drystone import native
from drystone.console import console as plain
from drystone.eager import operators

from ..bench.environment import environment
from ..bench.interruption import until_interrupted
from ..bench.progress import progress_bar
from ..bench.report import number, warn_if_busy
from ..bench.results import write_json
from ..bench.rounds import busy_percent
from ..ops.catalogue import PROBES
from .search import Found, search

FORMAT = 1


def thresholds(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="Of thresholds. Default: all.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the physical cores.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what is found to this file.")] = None,
) -> None:
    """Check the sizes from which drystone serves torch's operators: time each around its threshold, served by either in turn.

    The figures are those of native/torch/thresholds.h, in the column of this class of CPU. Ends with code 1 where no operator
    can be replaced. Ctrl-C and SIGTERM end it early; what was measured is shown and kept.
    """
    console = plain(width=None if sys.stdout.isatty() else 180)
    for name in names or []:
        if name not in PROBES:
            raise typer.BadParameter(f"no threshold {name!r}: {', '.join(PROBES)}", param_hint="NAME")
    if (reason := operators.why_not()) is not None:
        console.print(f"nothing to measure: {reason}")
        raise typer.Exit(1)
    threads = threads or psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads)
    chosen = list(dict.fromkeys(names or PROBES))
    found: list[Found] = []
    busy = busy_percent()
    with until_interrupted(console) as ending, progress_bar(len(chosen), console) as announce:
        for name in chosen:
            announce(name)
            found.append(search(PROBES[name]))
    console.print(_table(found, threads))
    warn_if_busy(max(busy, busy_percent()), console)
    if json:
        rows = [asdict(one) | {"measured": one.measured} for one in found]
        write_json(json, {"format": FORMAT, "threads": threads, "environment": environment(), "thresholds": rows})
    if ending.code:
        raise typer.Exit(ending.code)


def _table(found: list[Found], threads: int) -> Table:
    title = f"thresholds of {native.isa()} · threads {threads} · ratio: time on the other side of the threshold / on drystone's"
    table = Table(title=title, title_justify="left")
    table.add_column("threshold")
    table.add_column("of")
    table.add_column("decides")
    for column in ("in force", "measured", "ratio there", "ratios around it, by size"):
        table.add_column(column, justify="right")
    for one in found:
        ratios = " ".join(number(ratio, ".2f") for _, ratio in sorted(one.ratios.items()))
        measured = "none" if one.measured is None else str(one.measured)
        table.add_row(one.name, one.unit, one.decides, str(one.in_force), measured, number(one.ratio, ".2f"), ratios)
    return table
