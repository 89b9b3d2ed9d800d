"""The command ``drystone doctor``: gathers the findings, shows them as a table or as JSON."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from drystone.console import console
from drystone.errors import DrystoneError
from drystone.tools.bench.environment import environment
from drystone.tools.bench.progress import progress_bar

from . import machine, software
from .finding import Finding


def findings() -> list[Finding]:
    """All that is to be seen without measuring."""
    found = [*machine.findings(), *software.findings()]
    try:
        from . import core

        found += core.findings()
    except DrystoneError as error:
        found.append(Finding("drystone's core", "does not start", str(error), bad=True))
    return found


def doctor(
    json: Annotated[bool, typer.Option("--json", help="As JSON, with the facts on this machine.")] = False,
    measure: Annotated[bool, typer.Option(help="Time products, memory and a convolution, which takes some seconds.")] = True,
    natives: Annotated[bool, typer.Option("--table", help="Which operators are native here, in which dtype, as Markdown.")] = False,
) -> None:
    """Say whether this machine, this process and this PyTorch are set up well: what is wrong, what it costs, how to mend it.

    The table is fit for a bug report: it has neither paths of yours nor names of hosts. Ends with code 1 where something is badly
    wrong: models run several times slower than they could, or not at all.
    """
    if natives:
        from drystone.tools import native_table

        typer.echo(native_table.markdown(), nl=False)
        return
    found = findings()
    usable = not any(finding.topic == "drystone's core" for finding in found)
    if measure and usable:
        from . import rates  # which loads the core

        with progress_bar(len(rates.STEPS), console(stderr=True)) as announce:
            found += rates.findings(announce)
    if json:
        typer.echo(json_format.dumps({"environment": environment(), "findings": [asdict(finding) for finding in found]}, indent=1))
    else:
        table = Table("", "", "", "what to do", show_header=False)
        for finding in found:
            mark = "!!" if finding.bad else "!" if finding.advice else ""
            table.add_row(mark, finding.topic, finding.state, finding.advice)
        console().print(table)
    if any(finding.bad for finding in found):
        raise typer.Exit(1)
