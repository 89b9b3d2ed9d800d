"""The command ``drystone``. Each tool brings its own arguments; this file only gathers them."""

from __future__ import annotations

import typer

from drystone.tools.bench.command import bench
from drystone.tools.cache import cache
from drystone.tools.doctor import doctor
from drystone.tools.ops.command import ops
from drystone.tools.thresholds.command import thresholds

app = typer.Typer(
    help="PyTorch models on CPUs without the time between the arithmetic.", no_args_is_help=True, add_completion=False
)
app.command()(bench)
app.command()(doctor)
app.add_typer(cache, name="cache")
app.command()(ops)
app.command()(thresholds)


if __name__ == "__main__":
    app()
