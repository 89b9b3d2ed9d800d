"""Text on the terminal, and tables as text."""

from __future__ import annotations

import io
import shutil
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

# Columns of text that goes into a file, and at least.
WIDTH, LEAST_WIDTH = 180, 80


def console(**given: Any) -> Console:
    """A console that prints names as they are: ``[/]`` and ``:x:`` in them are no markup."""
    return Console(markup=False, emoji=False, **given)


def rendered(table: Table) -> str:
    """As wide as the terminal, where there is one."""
    stream = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else WIDTH
    console(file=stream, width=max(width, LEAST_WIDTH)).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())
