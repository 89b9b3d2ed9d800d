"""``drystone doctor``: whether this machine and this PyTorch are set up well, and how to mend what is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from rich.table import Table
from threadpoolctl import threadpool_info

import drystone
from drystone import native
from drystone.console import console
from drystone.eager import enable, operators, pages
from drystone.errors import DrystoneError
from drystone.passes.in_precision import bfloat16_notice

from . import native_table

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``advice`` says what it costs and how to mend it; it is empty where all is well."""

    topic: str
    state: str
    advice: str = ""


def _instructions() -> Finding:
    isa, cap = native.isa(), os.environ.get("DRYSTONE_MAX_ISA")
    if isa == "none":
        return Finding("instructions", isa, "below AVX2 every operator is torch's own: nothing here gains from drystone")
    state = f"{isa}: {', '.join(native.features())}"
    if cap:
        return Finding("instructions", state, f"capped by DRYSTONE_MAX_ISA={cap}: unset it for all that the CPU has")
    return Finding("instructions", state)


def _bfloat16() -> Finding:
    return Finding("bfloat16", "multiplied" if native.multiplies_bfloat16() else "computed in float32", bfloat16_notice())


def _onednn() -> Finding:
    return Finding("oneDNN", f"{native.onednn_version()} ({Path(native.onednn_path()).name})")


def _threads() -> Finding:
    threads = torch.get_num_threads()
    cores = min(psutil.cpu_count(logical=False) or threads, len(os.sched_getaffinity(0)))
    state = f"{threads} on {cores} cores"
    if threads > cores:
        return Finding("threads", state, f"threads that share a core wait for each other: torch.set_num_threads({cores})")
    if threads < cores:
        return Finding("threads", state, f"{cores - threads} cores stay idle, unless other processes use them: OMP_NUM_THREADS")
    return Finding("threads", state)


def _openmp() -> Finding:
    runtimes = sorted({Path(pool["filepath"]).name for pool in threadpool_info() if pool["user_api"] == "openmp"})
    advice = (
        "each keeps threads of its own, which fight for the cores: install packages that use torch's" if len(runtimes) > 1 else ""
    )
    return Finding("OpenMP", ", ".join(runtimes) or "none", advice)


def _huge_pages() -> Finding:
    if not HUGE_PAGES.exists():
        return Finding("huge pages", "unknown on this system")
    text = HUGE_PAGES.read_text()
    mode = text[text.index("[") + 1 : text.index("]")]
    advice = f"large tensors pay for pages of 4 KB: write madvise to {HUGE_PAGES} (as root)" if mode == "never" else ""
    return Finding("huge pages", mode, advice)


def _operators() -> Finding:
    if reason := operators.why_not():
        return Finding("drystone.enable()", "torch's own operators stay", reason)
    missing = sorted(frozenset(operators.names()) - enable.state().operators)
    state = f"{len(operators.names()) - len(missing)} of {len(operators.names())} operators"
    return Finding(
        "drystone.enable()", state, f"torch {torch.__version__} has others than known: {', '.join(missing)}" if missing else ""
    )


def _pages() -> Finding:
    state = pages.state()
    if state.on:
        return Finding("reuse of pages", f"up to {state.limit >> 20} MB wait for use (DRYSTONE_PAGES)")
    if pages.limit() == 0:
        return Finding("reuse of pages", "off", "large results are paid for in page faults: DRYSTONE_PAGES=0 switched it off")
    return Finding("reuse of pages", "not on this torch", "large results are paid for in page faults: preload jemalloc or tcmalloc")


def findings() -> list[Finding]:
    """All that there is to say. What ``drystone.enable()`` does is tried, and put back."""
    looks: tuple[Callable[[], Finding], ...] = (
        _instructions,
        _bfloat16,
        _onednn,
        _threads,
        _openmp,
        _huge_pages,
        _operators,
        _pages,
    )
    with drystone.enabled():
        return [look() for look in looks]


def doctor(
    natives: Annotated[bool, typer.Option("--table", help="Which operators are native here, in which dtype, as Markdown.")] = False,
) -> None:
    """Say whether this machine and this PyTorch are set up well: what is wrong, what it costs, how to mend it."""
    if natives:
        typer.echo(native_table.markdown(), nl=False)
        return
    table = Table("", "", "", "what to do", show_header=False)
    try:
        found = findings()
    except DrystoneError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    for finding in found:
        table.add_row("!" if finding.advice else "", finding.topic, finding.state, finding.advice)
    console().print(table)
