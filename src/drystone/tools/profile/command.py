"""The command ``drystone profile``: prepares a model, times its steps, shows and keeps the result."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer

from drystone.conductor import optimize
from drystone.console import console as plain
from drystone.errors import DrystoneError
from drystone.profiling import Profile
from drystone.tools.bench.burst import burst
from drystone.tools.bench.command import models_of, size_of
from drystone.tools.bench.environment import environment
from drystone.tools.bench.progress import progress_bar
from drystone.tools.bench.results import write_json
from drystone.tools.bench.workload import DTYPES, Workload, shapes_of
from drystone.tools.ops.limits import limits

from .page import write_page
from .results import Result
from .trace import write_trace

ROUNDS = 6  # of plain and observed calls in turn


def profile(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A name of the zoo, or path.py:function.")],
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the physical cores.")] = None,
    size: Annotated[str | None, typer.Option(metavar="H,W", help="Image size, tokens or samples.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long calls are timed.")] = 3.0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with a roofline, modules and steps.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures.")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a trace for Chrome or Perfetto.")] = None,
) -> None:
    """Show where a model's time goes: by module, and by step with its implementation, format and share of the machine's limits."""
    console = plain(width=None if sys.stdout.isatty() else 180)
    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(DTYPES)}", param_hint="--dtype")
    sizes = size_of(size)
    (model,) = models_of([target], sizes)
    threads = threads or psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads)
    try:
        with progress_bar(3 + ROUNDS, plain(stderr=True)) as announce:
            announce("loading")
            module, inputs = Workload(model, dtype, batch, sizes, threads).load()
            announce("preparing")
            with torch.no_grad():
                fast = optimize(module, inputs, dtype=None if dtype == "float32" else DTYPES[dtype])
                usual: list[float] = []
                with_steps = Profile()
                for number in range(ROUNDS):
                    announce(f"round {number + 1}")
                    usual += burst(lambda: fast(*inputs), seconds / ROUNDS / 2)
                    with with_steps:
                        burst(lambda: fast(*inputs), seconds / ROUNDS / 2)
            announce("measuring the machine's limits")
            machine = limits([dtype])
    except (DrystoneError, ValueError) as error:
        console.print(str(error), style="red")
        raise typer.Exit(2) from error
    if not with_steps.programs:
        console.print(f"{target} runs eagerly: no program is called.")
        raise typer.Exit(1)
    seen = with_steps.programs[0]
    result = Result(
        model=Workload(model).name,
        dtype=dtype,
        shapes=shapes_of(inputs),
        threads=threads,
        calls=seen.calls,
        milliseconds=1e3 * statistics.median(usual),
        observed_milliseconds=1e3 * statistics.median(seen.seconds),
        explanation=seen.explanation(),
        limits=machine,
        environment=environment(),
    )
    result.explanation.plan_milliseconds = result.milliseconds
    console.print(result.conditions())
    console.print(result.explanation.text(), soft_wrap=True)
    steps, whole = result.explanation.microseconds / 1e3, result.milliseconds
    console.print(
        f"\nA call takes {whole:.3f} ms; the steps add up to {100 * steps / whole:.1f} % of it; "
        f"timing them makes it {100 * (result.observed_milliseconds / whole - 1):+.1f} % longer."
    )
    if json:
        write_json(json, result.to_dict())
    if trace:
        write_trace(trace, result.explanation.steps, result.model)
    if html:
        write_page(html, result)
        console.print(f"written: {html}")
