"""The command ``drystone bench``: reads its arguments, measures model by model, shows and keeps the results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import psutil
import typer

from drystone.console import console as plain
from drystone.cores import cores, within_quota
from drystone.errors import DrystoneError

from .contenders import CONTENDERS, DEFAULTS
from .environment import environment, key_of
from .interruption import until_interrupted
from .picture import draw_kept
from .plot import plot as draw
from .progress import progress_bar
from .report import show_result, show_summary
from .results import Result, ResultFile
from .rounds import measure, steps
from .targets import check, kind_of
from .workload import DTYPES, Workload
from .zoo import GROUPS, ZOO

INPUT_HELP = (
    "An input of a file's or folder's model, once for each: 1x3x224x224, or ids=1x128:int64 for a keyword. With a star a size "
    "may vary: ids=1x128*:int64. Default: those of the artefact, or what the transformer takes."
)


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Names of the zoo, `cnns`, `volumes`, `transformers`, `recurrent`, `all`; path.py:function; a .pt file; a folder "
            "of transformers; an artefact.",
        ),
    ],
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, or int8: each engine quantises. Weights in int8 or int4 for --generate.")
    ] = "float32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of an instance. Default: the physical cores, divided.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Processes at the same time, on cores of their own.")] = 1,
    against: Annotated[str | None, typer.Option(help=f"Contenders beside drystone, by comma: {', '.join(CONTENDERS)}.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="H,W", help="Image size, tokens or samples. Default: the model's own.")
    ] = None,
    input: Annotated[list[str] | None, typer.Option(metavar="[NAME=]SIZES[:DTYPE]", help=INPUT_HELP)] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Bursts of each contender.")] = 12,
    again: Annotated[bool, typer.Option("--again", help="Prepare twice: with empty caches, then with filled ones.")] = False,
    generate: Annotated[
        int | None, typer.Option(min=2, help="Time texts of so many tokens instead, of causal language models; --batch texts.")
    ] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens before those of --generate.")] = 128,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Add the results to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the results (all those in --json, if given).")] = None,
) -> None:
    """Time models in drystone against eager PyTorch and other engines, each in its own process, in alternating bursts.

    Ends with code 1 where drystone could not run a model. Ctrl-C and SIGTERM end it early; what was measured is shown and kept.
    """
    # Where the output goes into a file, tables need not be squeezed into eighty columns.
    console = plain(width=None if sys.stdout.isatty() else 150)
    threads = threads or max(1, (psutil.cpu_count(logical=False) or 1) // instances)
    if instances > 1 and instances * threads > len(within_quota(cores())):
        raise typer.BadParameter(
            f"{instances} of {threads} threads, and this process may use {len(within_quota(cores()))} cores",
            param_hint="--instances",
        )
    if generate is not None:
        if instances > 1 or again or size or input:
            raise typer.BadParameter("it takes no --instances, --again, --size or --input", param_hint="--generate")
        from .text.command import bench_texts
        from .text.contenders import Lengths

        code = bench_texts(models, dtype, Lengths(prompt, generate, batch), threads, against, rounds, json, plot, console)
        raise typer.Exit(code)
    contenders = _contenders(against, dtype)
    sizes = size_of(size)
    given = tuple(input or ())
    names = models_of(models, sizes, given)
    if any(kind_of(name) == "artefact" for name in names):
        if against is not None:
            raise typer.BadParameter("an artefact has a program of drystone's alone", param_hint="--against")
        contenders = ["drystone"]
    workloads = [Workload(name, dtype, batch, sizes, threads, inputs=given) for name in names]
    facts = environment()
    results: list[Result] = []
    try:
        kept = ResultFile.read(json) if json and json.exists() else ResultFile()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--json") from error

    progress = progress_bar(len(workloads) * steps(contenders, rounds), console)
    with until_interrupted(console) as ending, progress as announce:
        for workload in workloads:
            result = measure(workload, contenders, rounds, key_of(facts), announce, again=again, instances=instances)
            results.append(result)
            kept.add(result, facts)
            if json:
                kept.write(json)
            show_result(result, console)

    if len(results) > 1:
        show_summary(results, console)
    if plot and results:
        draw_kept(kept, json, plot, draw)
        console.print(f"drawn: {plot}")
    if ending.code or any(not result["drystone"].ok for result in results):
        raise typer.Exit(ending.code or 1)


def models_of(names: list[str], size: tuple[int, ...] | None, inputs: Sequence[str] = ()) -> list[str]:
    """The targets, each looked at before anything is measured."""
    models = [model for name in names for model in GROUPS.get(name, [name])]
    for model in models:
        try:
            check(model, inputs)
        except (ValueError, DrystoneError) as error:
            raise typer.BadParameter(str(error), param_hint="MODEL") from error
        if size and model in ZOO and len(size) != len(ZOO[model].size):
            wanted = "H,W" if len(ZOO[model].size) == 2 else "one number"
            raise typer.BadParameter(f"{model} takes {wanted}, not {','.join(map(str, size))}", param_hint="--size")
    return models


def _contenders(against: str | None, dtype: str) -> list[str]:
    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(DTYPES)}", param_hint="--dtype")
    if against is None:
        flags = environment()["flags"]
        names = tuple(name for name in DEFAULTS[dtype] if CONTENDERS[name].needs in (None, *flags))
    else:
        names = tuple(name.strip() for name in against.split(",") if name.strip())
    for name in names:
        if name not in CONTENDERS:
            raise typer.BadParameter(f"no contender {name!r}: {', '.join(CONTENDERS)}", param_hint="--against")
        if dtype not in CONTENDERS[name].dtypes:
            raise typer.BadParameter(f"{name} has no {dtype} on a CPU", param_hint="--against")
    return list(dict.fromkeys(("drystone", *names)))


def size_of(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        sizes = tuple(int(part) for part in text.split(","))
        if min(sizes) < 1 or len(sizes) > 2:
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither H,W nor one number", param_hint="--size") from None
    return sizes
