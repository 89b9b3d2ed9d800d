"""The command ``drystone cache``: measured times that are kept on disk, shown or removed."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.table import Table

from drystone.console import console
from drystone.plan.tuning_cache import cache_files, cache_folder, clear

cache = typer.Typer(
    help="Measured times that plans are made from, kept in $DRYSTONE_CACHE or ~/.cache/drystone.", no_args_is_help=True
)


@cache.command("show")
def show() -> None:
    """A row for each machine, thread count and version that times are kept of."""
    folder = _folder()
    files = cache_files(folder) if folder.is_dir() else []
    table = Table(title=str(folder), title_justify="left")
    for column in ("file", "cpu", "threads", "instructions", "drystone", "torch"):
        table.add_column(column)
    for column in ("times", "kB"):
        table.add_column(column, justify="right")
    for file in files:
        facts = (file.environment.get(name, "?") for name in ("cpu", "threads", "isa", "drystone", "torch"))
        table.add_row(file.path.name, *facts, str(file.entries), f"{file.bytes / 1e3:.0f}")
    console().print(table if files else f"no times are kept in {folder}")


@cache.command("clear")
def remove() -> None:
    """Remove all times: every model is measured again when it is prepared next."""
    folder = _folder()
    typer.echo(f"{len(clear(folder))} files removed from {folder}")


def _folder() -> Path:
    folder = cache_folder()
    if folder is None:
        typer.echo("no times are kept: DRYSTONE_CACHE is off, or there is no home folder", err=True)
        raise typer.Exit(1)
    return folder
