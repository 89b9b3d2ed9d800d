"""PyTorch and what is loaded beside it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

from .finding import Finding

ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")

# Variables that change how torch computes, and the effect of each.
NOTED = {
    "OMP_NUM_THREADS": "threads of OpenMP",
    "MKL_NUM_THREADS": "threads of MKL",
    "OMP_WAIT_POLICY": "active keeps waiting threads spinning",
    "KMP_BLOCKTIME": "read by Intel's OpenMP alone",
    "MALLOC_CONF": "read by jemalloc alone",
    "LD_PRELOAD": "libraries before all others",
}

# In what torch tells of its build.
_LIBRARIES = {"MKL": r"Math Kernel Library Version (\S+?)-", "oneDNN": r"MKL-DNN v([\d.]+)", "OpenMP": r"OpenMP (\d+)"}


def findings() -> Iterator[Finding]:
    yield _torch()
    yield _openmp()
    yield _allocator()
    yield from _environment()


def _torch() -> Finding:
    config = torch.__config__.show()
    parts = [f"{torch.__version__} from {_origin()}"]
    for name, pattern in _LIBRARIES.items():
        if found := re.search(pattern, config):
            parts.append(f"{name} {found[1]}")
    there = {"oneDNN": torch.backends.mkldnn.is_available(), "OpenMP": torch.backends.openmp.is_available()}
    missing = [name for name, is_there in there.items() if not is_there]
    if missing:
        return Finding("torch", ", ".join(parts), f"built without {' and '.join(missing)}: install PyPI's torch", bad=True)
    return Finding("torch", ", ".join(parts))


def _origin() -> str:
    """Which installer brought torch."""
    if (Path(sys.prefix) / "conda-meta").exists() and any((Path(sys.prefix) / "conda-meta").glob("pytorch-*.json")):
        return "conda"
    try:
        distribution = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return "a source tree"
    if "+git" in torch.__version__ or "a0" in torch.__version__:
        return "source"
    return (distribution.read_text("INSTALLER") or "an unknown installer").strip()


def _openmp() -> Finding:
    runtimes = sorted(pool["filepath"] for pool in threadpool_info() if pool["user_api"] == "openmp")
    names = ", ".join(Path(path).name for path in runtimes) or "none"
    if len(runtimes) > 1:
        owners = ", ".join("/".join(Path(path).parts[-2:]) for path in runtimes)  # for reports: no folder of the user's
        advice = f"each keeps threads of its own, which fight for the cores: {owners}. Install packages that use torch's"
        return Finding("OpenMP", names, advice, bad=True)
    return Finding("OpenMP", names)


def _allocator() -> Finding:
    found = next((name for name in ALLOCATORS if re.search(rf"/lib{name}[^/]*\.so", _loaded())), None)
    return Finding("allocator", found or "the C library's")


def _environment() -> Iterator[Finding]:
    for name, effect in NOTED.items():
        if value := os.environ.get(name):
            yield Finding(name, f"{value}: {effect}", _misplaced(name, value))
    for name, value in sorted(os.environ.items()):
        if name.startswith("DRYSTONE_") and name != "DRYSTONE_MAX_ISA":
            yield Finding(name, value)


def _misplaced(name: str, value: str) -> str:
    """Advice where the variable does nothing here, or harm."""
    loaded = {pool["prefix"] for pool in threadpool_info() if pool["user_api"] == "openmp"}
    if name == "OMP_WAIT_POLICY" and value.lower() == "active":
        return "programs that share these cores wait: unset it unless this process has them alone"
    if name == "KMP_BLOCKTIME" and not loaded & {"libiomp", "libomp"}:
        return "torch runs on GNU OpenMP here, which ignores it: unset it"
    if name == "MALLOC_CONF" and "jemalloc" not in _loaded():
        return "no jemalloc is loaded, so nothing reads it"
    return ""


def _loaded() -> str:
    """The files that are mapped into this process."""
    return Path("/proc/self/maps").read_text()
