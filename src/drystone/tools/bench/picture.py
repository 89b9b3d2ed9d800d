"""The option ``--plot`` of the commands that measure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import typer


class Writable(Protocol):
    """A file of results."""

    def write(self, path: Path) -> None: ...


def draw_kept(kept: Writable, json: Path | None, target: Path, draw: Callable[[Path, Path], None]) -> None:
    """``draw(source, target)`` from ``json``, which holds ``kept``; always from a file: the picture shows what it holds.

    What can't be drawn is a bad value of ``--plot``.
    """
    with tempfile.TemporaryDirectory() as folder:
        if json is None:
            json = Path(folder) / "results.json"
            kept.write(json)
        try:
            draw(json, target)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--plot") from error
