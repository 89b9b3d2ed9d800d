"""The command ``drystone profile``: prepares a model, times its steps, shows and keeps the result."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from torch import nn

from drystone.console import console as plain
from drystone.errors import CaptureError, DrystoneError, UnsupportedError
from drystone.profiling import Profile, ProfiledProgram
from drystone.runtime.explain import Explanation
from drystone.runtime.module import OptimizedModule
from drystone.tools.bench.burst import burst
from drystone.tools.bench.command import INPUT_HELP, models_of, size_of
from drystone.tools.bench.contenders import prepared
from drystone.tools.bench.environment import environment
from drystone.tools.bench.progress import progress_bar
from drystone.tools.bench.results import write_json
from drystone.tools.bench.targets import Call, name_of
from drystone.tools.bench.workload import DTYPES, Workload, shapes_of
from drystone.tools.ops.limits import limits

from .eager import EagerProfile, profile_eager
from .page import write_page
from .results import Result
from .trace import write_trace

ROUNDS = 6  # of plain and observed calls in turn
EAGER_CALLS = 5  # of the model as it is: observed, and plain before them


def profile(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="As MODEL of `drystone bench`.")],
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the physical cores.")] = None,
    size: Annotated[str | None, typer.Option(metavar="H,W", help="Image size, tokens or samples.")] = None,
    input: Annotated[list[str] | None, typer.Option(metavar="[NAME=]SIZES[:DTYPE]", help=INPUT_HELP)] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long calls are timed.")] = 3.0,
    eager: Annotated[bool, typer.Option("--eager", help="Look at the model as it is, without preparing it.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with a roofline, modules and steps.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures.")] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a trace for Chrome or Perfetto, eager beside it.")
    ] = None,
) -> None:
    """Show where a model's time goes: by module, and by step with its implementation, format and share of the machine's limits.

    Beside it stands what the model as it is spends on reorders, found in oneDNN's verbose output. With --eager its own operators
    are shown: their times, which of them reorder, which ran reference loops, and an estimate of what a plan would save.
    """
    console = plain(width=None if sys.stdout.isatty() else 180)
    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(DTYPES)}", param_hint="--dtype")
    sizes = size_of(size)
    (model,) = models_of([target], sizes, input or ())
    threads = threads or psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads)
    try:
        with progress_bar(4 + ROUNDS, plain(stderr=True)) as announce, torch.no_grad():
            announce("loading")
            module, example = Workload(model, dtype, batch, sizes, threads, inputs=tuple(input or ())).load()
            observed: tuple[EagerProfile, Explanation] | None = None
            if not isinstance(module, OptimizedModule):
                announce("the model as it is")
                observed = _as_it_is(module, example, dtype, seconds / ROUNDS)
            elif eager:
                raise ValueError(f"{name_of(model)} is an artefact, which has no eager model")
            seen, why = None, "no program is called"
            if not eager:
                announce("preparing")
                try:
                    fast = prepared(module, example, DTYPES[dtype])
                    usual, seen = _program(lambda: example(fast), seconds, announce)
                except (CaptureError, UnsupportedError) as error:
                    why = str(error)
            announce("measuring the machine's limits")
            machine = limits([dtype])
    except (DrystoneError, ValueError) as error:
        console.print(str(error), style="red")
        raise typer.Exit(2) from error
    if seen is not None:
        explanation, calls, took = seen.explanation(), seen.calls, statistics.median(seen.seconds)
        explanation.plan_milliseconds = 1e3 * usual
    else:
        assert observed is not None  # a program of an artefact is called
        explanation, calls, took = observed[1], observed[0].calls, observed[0].seconds
        if not eager:
            console.print(f"{target} runs eagerly, and this is the model as it is: {why}", style="red")
    result = Result(
        model=name_of(model),
        dtype=dtype,
        shapes=shapes_of(example),
        threads=threads,
        calls=calls,
        milliseconds=explanation.plan_milliseconds,
        observed_milliseconds=1e3 * took,
        explanation=explanation,
        eager=observed and observed[0].figures(observed[1]),
        limits=machine,
        environment=environment(),
    )
    console.print(result.text(), soft_wrap=True)
    if json:
        write_json(json, result.to_dict())
    if trace:
        shown = {f"{result.model}, {explanation.runs}": explanation.steps}
        write_trace(trace, shown | ({f"{result.model}, eager": observed[0].steps} if observed else {}))
    if html:
        write_page(html, result)
        console.print(f"written: {html}")


def _as_it_is(module: nn.Module, example: Call, dtype: str, seconds: float) -> tuple[EagerProfile, Explanation]:
    """The eager model, under autocast for bfloat16; what a call takes is from plain ones."""

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            example(module)

    call()
    plain_calls = burst(call, seconds, EAGER_CALLS)
    found = profile_eager(module, call, EAGER_CALLS)
    return found, found.explanation(1e3 * statistics.median(plain_calls), module)


def _program(call: Callable[[], object], seconds: float, announce: Callable[[str], None]) -> tuple[float, ProfiledProgram | None]:
    """The seconds of a plain call, and the calls of the program that takes most of them, if there is one."""
    usual: list[float] = []
    with_steps = Profile()
    for number in range(ROUNDS):
        announce(f"round {number + 1}")
        usual += burst(call, seconds / ROUNDS / 2)
        with with_steps:
            burst(call, seconds / ROUNDS / 2)
    return statistics.median(usual), next(iter(with_steps.programs), None)
