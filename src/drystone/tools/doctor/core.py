"""Drystone's own core: instructions in force, oneDNN, what ``enable()`` can replace. Importing this loads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

import drystone
from drystone import native
from drystone.eager import enable, operators, pages
from drystone.passes.in_precision import bfloat16_notice

from .finding import Finding


def findings() -> Iterator[Finding]:
    """What ``drystone.enable()`` does is tried, and put back."""
    yield _instructions()
    yield Finding("bfloat16", "multiplied" if native.multiplies_bfloat16() else "computed in float32", bfloat16_notice())
    yield Finding("oneDNN", f"{native.onednn_version()} ({Path(native.onednn_path()).name})")
    with drystone.enabled():
        yield _operators()
        yield _pages()


def _instructions() -> Finding:
    names = native.features()
    state = f"{native.isa()}: {', '.join(names)}" if names else native.isa()
    if "amx_tile" in Path("/proc/cpuinfo").read_text() and native.isa() != "amx":
        return Finding("instructions", state, "the system does not hand out AMX's tiles (Linux 5.16 does), or a cap hides them")
    return Finding("instructions", state)


def _operators() -> Finding:
    if reason := operators.why_not():
        return Finding("drystone.enable()", "torch's own operators stay", reason)
    missing = sorted(frozenset(operators.names()) - enable.state().operators)
    state = f"{len(operators.names()) - len(missing)} of {len(operators.names())} operators"
    advice = f"torch {torch.__version__} has others than known: {', '.join(missing)}" if missing else ""
    return Finding("drystone.enable()", state, advice)


def _pages() -> Finding:
    state = pages.state()
    if state.on:
        return Finding("reuse of pages", f"up to {state.limit >> 20} MB wait for use (DRYSTONE_PAGES)")
    if pages.limit() == 0:
        return Finding("reuse of pages", "off", "large results are paid for in page faults: DRYSTONE_PAGES=0 switched it off")
    return Finding("reuse of pages", "not on this torch", "large results are paid for in page faults: preload jemalloc or tcmalloc")
