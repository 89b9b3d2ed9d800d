"""The machine: processor, cores, memory, pages. Nothing here needs the native core."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from drystone.cores import cores, memory_limit, quota, within_quota
from drystone.tools.bench.environment import environment

from .finding import Finding

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GOVERNORS = Path("/sys/devices/system/cpu")

# Variables that keep a library from instructions of the CPU.
CAPS = ("DRYSTONE_MAX_ISA", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")


def findings() -> Iterator[Finding]:
    yield _processor()
    yield _cores()
    yield _threads()
    yield from _affinity()
    yield _memory()
    yield from _governor()
    yield _huge_pages()
    yield _caps()


def _processor() -> Finding:
    facts = environment()
    flags = facts["flags"]
    state = f"{facts['cpu']} ({facts['microarchitecture']}): {', '.join(flags)}"
    if "avx2" not in flags:
        return Finding("processor", state, "below AVX2 every operator is torch's own: nothing here gains from drystone", bad=True)
    return Finding("processor", state)


def _cores() -> Finding:
    own, logical, limit = cores(), len(os.sched_getaffinity(0)), quota()
    nodes = len({core.node for core in own})
    of = f" of {psutil.cpu_count()}" if logical != psutil.cpu_count() else ""
    state = f"{len(own)} cores, {logical}{of} logical CPUs, {nodes} NUMA node{'s' * (nodes > 1)}"
    state += f", CPU quota {limit:g}" if limit is not None else ""
    if nodes > 1:
        return Finding("cores", state, "memory of another node is slower: drystone run --multi-instance starts one instance a node")
    return Finding("cores", state)


def _threads() -> Finding:
    threads, own = torch.get_num_threads(), cores()
    usable = len(within_quota(own))
    state = f"{threads} on {usable} cores"
    if threads > usable:
        why = f"the CPU quota of its cgroup is {quota():g}" if usable < len(own) else "threads share a core"
        advice = f"{why}, so threads wait for each other at each step: torch.set_num_threads({usable}) or drystone run"
        return Finding("threads", state, advice, bad=threads >= 2 * usable)
    if threads < usable:
        return Finding("threads", state, f"{usable - threads} cores stay idle, unless other processes use them: OMP_NUM_THREADS")
    return Finding("threads", state)


def _affinity() -> Iterator[Finding]:
    """OpenMP's own pinning, where it is asked for by the environment."""
    threads = torch.get_num_threads()
    for name in ("GOMP_CPU_AFFINITY", "OMP_PLACES", "KMP_AFFINITY"):
        text = os.environ.get(name)
        if text is None:
            continue
        places = _places(text) if name == "GOMP_CPU_AFFINITY" else None
        if places is not None and places < threads:
            advice = f"{threads} threads share {places} core{'s' * (places > 1)}: unset {name}"
            yield Finding(name, text, advice, bad=True)
        else:
            yield Finding(name, text)


def _places(text: str) -> int | None:
    """How many cores a list of GNU OpenMP has, as ``0-3 8 10-20:2``; None where it is no such list."""
    found: set[int] = set()
    for part in re.split(r"[\s,]+", text.strip()):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is None:
            return None
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        found.update(range(first, last + 1, max(step, 1)))
    return len(found)


def _memory() -> Finding:
    memory, limit = psutil.virtual_memory(), memory_limit()
    free = memory.available if limit is None else min(memory.available, limit - psutil.Process().memory_info().rss)
    state = f"{free / 2**30:.1f} of {min(memory.total, limit or memory.total) / 2**30:.1f} GiB free"
    if limit is not None and limit < memory.total:
        state += " (limit of the cgroup)"
    return Finding("memory", state, "large models will not fit: close other programs" if free < 1 << 30 else "")


def _governor() -> Iterator[Finding]:
    found = {path.read_text().strip() for path in GOVERNORS.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    if found:
        slow = found & {"powersave", "conservative"} if not (GOVERNORS / "intel_pstate").exists() else set()
        advice = "cores are slow to speed up: cpupower frequency-set -g performance (as root)" if slow else ""
        yield Finding("frequency governor", ", ".join(sorted(found)), advice)


def _huge_pages() -> Finding:
    if not HUGE_PAGES.exists():
        return Finding("huge pages", "unknown on this system")
    text = HUGE_PAGES.read_text()
    mode = text[text.index("[") + 1 : text.index("]")]
    advice = f"large tensors pay for pages of 4 KB: write madvise to {HUGE_PAGES} (as root)" if mode == "never" else ""
    return Finding("huge pages", mode, advice)


def _caps() -> Finding:
    given = {name: os.environ[name] for name in CAPS if os.environ.get(name)}
    if not given:
        return Finding("caps on instructions", "none")
    text = ", ".join(f"{name}={value}" for name, value in given.items())
    return Finding("caps on instructions", text, "AVX-512 or AMX may be left unused: unset them for all that the CPU has")
