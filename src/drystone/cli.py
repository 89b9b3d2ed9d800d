"""The command ``drystone``. Each tool brings its own arguments; this file only gathers them."""

from __future__ import annotations

import typer

from drystone.tools.bench.command import bench

app = typer.Typer(
    help="PyTorch models on CPUs without the time between the arithmetic.", no_args_is_help=True, add_completion=False
)
app.command()(bench)


@app.callback()
def main() -> None:
    """Keeps ``bench`` a command of its own while it is the only one."""


if __name__ == "__main__":
    app()
