"""Models by name through ``drystone.optimize``, each in a process of its own: captured or not, right or not, how fast."""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import coverage_report
import isolated
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils import _pytree as pytree
from verdict import judge

import drystone
from drystone.errors import CaptureError, DrystoneError
from drystone.preparer import programs_of
from drystone.runtime.module import OptimizedModule
from drystone.tools.bench.environment import environment
from drystone.tools.bench.progress import progress_bar
from drystone.tools.bench.worker import shorten

# The model of this name in eval mode, its positional inputs and those by name.
Load = Callable[[str], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]

ROUNDS = 15
ROUNDS_SECONDS = 3.0


def spread_weights(model: nn.Module) -> None:
    """Biases, gains and norms away from 0 and 1, where a mistake in them would not show; and weights that begin as zeros."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.is_floating_point() and (parameter.dim() <= 1 or not parameter.any()):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn(buffer.shape, generator=generator)
        if name.endswith("running_var"):
            buffer *= 0.75 + 0.5 * torch.rand(buffer.shape, generator=generator)


@dataclass(frozen=True)
class How:
    """``seconds``: the limit for each step of a model. ``timed``: eager's time over ours too."""

    seconds: float
    tuning: Literal["measure", "estimate"] = "measure"
    timed: bool = True
    threads: int = 2


def cover(load: Load, names: Sequence[str], results: Path, how: How, *, only: bool) -> bool:
    """Whether no result was wrong and no process crashed. Writes ``results`` and the page; with ``only``, replaces these rows."""
    console = Console(width=None if sys.stdout.isatty() else 180)
    rows: list[dict[str, Any]] = []
    kept = json.loads(results.read_text())["rows"] if only and results.exists() else []
    with progress_bar(len(names), console) as announce:
        for name in names:
            announce(name)
            rows.append(_outcome(load, name, how))
            if kept or not only:
                write(results, [*kept, *rows], how)
    _show(rows, console)
    coverage_report.render()
    return not any(row["status"] in ("wrong", "crash") for row in rows)


def write(results: Path, rows: Sequence[dict[str, Any]], how: How) -> None:
    """Of rows of the same name the last."""
    table = {row["architecture"]: row for row in rows}
    facts = {"environment": environment(), "threads": how.threads, "tuning": how.tuning}
    coverage_report.write(results, {**facts, "rows": list(table.values())})


def _outcome(load: Load, name: str, how: How) -> dict[str, Any]:
    messages, ended = isolated.run(try_model, load, name, how, seconds=how.seconds)
    row: dict[str, Any] = {"architecture": name}
    for message in messages:
        row |= message
    if ended and "status" not in row:
        return row | {"status": "not built", "reason": ended}
    if ended:
        late = ended.startswith("no answer")
        return row | {"status": "too slow" if late else "crash", "reason": ended}
    return row


def try_model(send: isolated.Send, load: Load, name: str, how: How) -> None:
    """In a process of its own: sends facts about the model as they come."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(how.threads)
    with torch.no_grad():
        try:
            model, args, kwargs = load(name)
            eager = model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        except Exception as error:
            send({"status": "not built", "reason": shorten(f"{type(error).__name__}: {error}")})
            return
        if judge(model(*copy.deepcopy(args), **copy.deepcopy(kwargs)), eager, None)[1]:
            send({"class": type(model).__name__, "status": "random", "reason": "draws random numbers: no two results are equal"})
            return
        send({"class": type(model).__name__, "status": "crash"})  # until it is known to be otherwise
        try:
            doubled = copy.deepcopy(model).double()
            exact = doubled(*_in_float64(args), **_in_float64(kwargs))
        except Exception:
            exact = None  # some models mix in float32 of their own
        began = time.perf_counter()
        try:
            fast = drystone.optimize(model, args, example_kwargs=kwargs, tuning=how.tuning)
        except CaptureError as error:
            send({"status": "not captured", "reason": shorten(str(error).split("\n")[0])})
            return
        except DrystoneError as error:
            send({"status": "not captured", "reason": shorten(f"{type(error).__name__}: {error}".split("\n")[0])})
            return
        except Exception as error:
            send({"status": "crash", "reason": shorten(f"{type(error).__name__}: {error}")})
            return
        prepared = time.perf_counter() - began
        called = fast(*args, **kwargs)
        whole = isinstance(fast, OptimizedModule)
        if isinstance(fast, OptimizedModule):
            # The program itself, also where calls go to eager because that was faster.
            current = programs_of(fast).current
            assert current is not None
            signature, program = current[1].signature, current[1].program
            error, fault = judge(signature.unflatten(program(signature.flatten(args, kwargs))), eager, exact)
            programs = [fast.explain()]
        else:
            error, fault = judge(called, eager, exact)
            programs = [program for part in fast.explain().parts for program in part.programs]
        fault = fault or judge(called, eager, exact)[1]
        send(
            {
                "status": "wrong" if fault else "whole" if whole else "parts",
                "reason": fault,
                "error": error,
                "against": "float32" if exact is None else "float64",
                "steps": sum(len(program.steps) for program in programs),
                "segments": [[step.op, step.reason] for program in programs for step in program.segments],
                "runs": fast.explain().runs,
                "prepare_seconds": prepared,
            }
        )
        if how.timed:
            send({"ratio": _alternating(lambda: model(*args, **kwargs), lambda: fast(*args, **kwargs))})


def _in_float64(inputs: Any) -> Any:
    def double(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    return pytree.tree_map(double, copy.deepcopy(inputs))


def _alternating(eager: Any, fast: Any) -> float:
    """eager's time over ours: calls in turn, the median of the ratios."""
    ratios: list[float] = []
    eager()
    fast()
    end = time.perf_counter() + ROUNDS_SECONDS
    while len(ratios) < ROUNDS and (len(ratios) < 3 or time.perf_counter() < end):
        start = time.perf_counter()
        eager()
        middle = time.perf_counter()
        fast()
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return statistics.median(ratios)


def _show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(show_edge=False)
    for heading in ("architecture", "captured", "error", "segments", "runs", "eager / drystone", "reason"):
        table.add_column(heading)
    for row in rows:
        segments = str(len(row["segments"])) if "segments" in row else ""
        error = f"{row['error']:.1e}" if "error" in row else ""
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        cells = (row["architecture"], row["status"], error, segments, row.get("runs", ""), ratio, row.get("reason") or "")
        table.add_row(*cells)
    console.print(table)
