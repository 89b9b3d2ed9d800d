"""Architectures of transformers, built small, through ``drystone.optimize``: captured or not, right or not, how fast.

python benchmarks/coverage_models.py                    # the known ones: benchmarks/results/coverage_models.json, docs/coverage.md
python benchmarks/coverage_models.py --all              # the same with every architecture that builds small (an hour)
python benchmarks/coverage_models.py --only bert,gpt2   # some; replaces their rows in the file
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import time
import warnings
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import coverage_report
import isolated
import small_transformers
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils import _pytree as pytree
from verdict import judge

import drystone
from drystone.errors import CaptureError, DrystoneError
from drystone.preparer import programs_of
from drystone.runtime.module import OptimizedModule
from drystone.tools.bench.environment import environment
from drystone.tools.bench.progress import progress_bar
from drystone.tools.bench.worker import shorten

RESULTS = coverage_report.RESULTS / "coverage_models.json"
SECONDS = 60.0  # for an architecture
THREADS = 2
ROUNDS = 15
ROUNDS_SECONDS = 3.0
# Encoders, decoders without cache, vision, audio, both: what is used most.
# fmt: off
KNOWN = [
    "albert", "bart", "beit", "bert", "big_bird", "blenderbot", "bloom", "camembert", "canine", "clap", "clip",
    "clip_vision_model", "codegen", "convbert", "convnext", "convnextv2", "data2vec-text", "deberta", "deberta-v2", "deit",
    "dinov2", "distilbert", "dpr", "electra", "ernie", "esm", "falcon", "focalnet", "funnel", "gemma", "git", "glpn", "gpt2",
    "gpt_neo", "gpt_neox", "gptj", "hubert", "ibert", "layoutlm", "led", "levit", "llama", "longformer", "marian", "mistral",
    "mixtral", "mobilebert", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mpnet", "nystromformer", "opt", "pegasus", "phi",
    "poolformer", "qwen2", "regnet", "resnet", "roberta", "segformer", "splinter", "squeezebert", "stablelm", "swin", "swinv2",
    "t5", "vilt", "vit", "vit_mae", "wav2vec2", "wavlm", "whisper", "xlm-roberta", "yolos",
]
# fmt: on


def in_float64(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def try_model(send: isolated.Send, name: str) -> None:
    """In a process of its own: sends facts about the architecture as they come."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    with torch.no_grad():
        try:
            model, inputs = small_transformers.load(name)
            eager = model(**copy.deepcopy(inputs))
        except Exception as error:
            send({"status": "not built", "reason": shorten(f"{type(error).__name__}: {error}")})
            return
        if judge(model(**copy.deepcopy(inputs)), eager, None)[1]:
            send({"class": type(model).__name__, "status": "random", "reason": "draws random numbers: no two results are equal"})
            return
        send({"class": type(model).__name__, "status": "crash"})  # until it is known to be otherwise
        try:
            doubled = copy.deepcopy(model).double()
            exact = doubled(**pytree.tree_map(in_float64, copy.deepcopy(inputs)))
        except Exception:
            exact = None  # some models mix in float32 of their own
        began = time.perf_counter()
        try:
            fast = drystone.optimize(model, example_kwargs=inputs)
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
        called = fast(**inputs)
        whole = isinstance(fast, OptimizedModule)
        if isinstance(fast, OptimizedModule):
            # The program itself, also where calls go to eager because that was faster.
            current = programs_of(fast).current
            assert current is not None
            signature, program = current[1].signature, current[1].program
            error, fault = judge(signature.unflatten(program(signature.flatten((), inputs))), eager, exact)
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
        send({"ratio": alternating(lambda: model(**inputs), lambda: fast(**inputs))})


def alternating(eager: Any, fast: Any) -> float:
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


def outcome(name: str) -> dict[str, Any]:
    messages, ended = isolated.run(try_model, name, seconds=SECONDS)
    row: dict[str, Any] = {"architecture": name}
    for message in messages:
        row |= message
    if ended and "status" not in row:
        return row | {"status": "not built", "reason": ended}
    if ended:
        late = ended.startswith("no answer")
        return row | {"status": "too slow" if late else "crash", "reason": ended}
    return row


def show(rows: list[dict[str, Any]], console: Console) -> None:
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


def main(
    only: str = typer.Option("", help="architectures, with commas between"),
    every: bool = typer.Option(False, "--all", help="every architecture that builds small"),
) -> None:
    """1 where a result is wrong or a process crashed."""
    isolated.preload("transformers", "drystone.conductor", "verdict", "small_transformers", "coverage_report", "torch.export")
    names = only.split(",") if only else small_transformers.architectures() if every else KNOWN
    console = Console(width=None if sys.stdout.isatty() else 180)
    rows: list[dict[str, Any]] = []
    with progress_bar(len(names), console) as announce:
        for name in names:
            announce(name)
            rows.append(outcome(name))
    show(rows, console)
    if not only or RESULTS.exists():
        if only:
            tried = {row["architecture"]: row for row in rows}
            rows = [tried.get(row["architecture"], row) for row in json.loads(RESULTS.read_text())["rows"]]
        coverage_report.write(RESULTS, {"environment": environment(), "threads": THREADS, "rows": rows})
        coverage_report.render()
    raise typer.Exit(1 if any(row["status"] in ("wrong", "crash") for row in rows) else 0)


if __name__ == "__main__":
    typer.run(main)
