"""Text on the terminal, and tables as text."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table


def console(**given: Any) -> Console:
    """A console that prints names as they are: ``[/]`` and ``:x:`` in them are no markup."""
    return Console(markup=False, emoji=False, **given)


def rendered(table: Table) -> str:
    stream = io.StringIO()
    console(file=stream, width=180).print(table)
    return stream.getvalue().rstrip()
