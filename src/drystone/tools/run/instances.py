"""The instances of a program: how many, on which cores, with which environment."""

from __future__ import annotations

import ctypes.util
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from drystone.cores import Core, written

Allocator = Literal["tcmalloc", "jemalloc"]

#: Threads of an instance in latency mode, as in torch.backends.xeon.run_cpu.
LATENCY_CORES = 4

# jemalloc keeps freed memory, and returns it from a thread of its own.
_JEMALLOC = "oversize_threshold:1,background_thread:true,metadata_thp:auto"


@dataclass(frozen=True)
class Instance:
    """``environment`` is what is set beside that of this process."""

    rank: int
    cores: tuple[Core, ...]
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    pinned: bool = True

    def __str__(self) -> str:
        """A line for a shell that does the same."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        taskset = ["taskset", "-c", written(self.cores)] if self.pinned else []
        return " ".join([*variables, *taskset, shlex.join(self.command)])


def command_of(program: Sequence[str], module: bool = False, no_python: bool = False) -> tuple[str, ...]:
    """What is run: a ``.py`` file and a module by this Python, all else as it is."""
    if module:
        return (sys.executable, "-u", "-m", *program)
    if program[0].endswith(".py") and not no_python:
        return (sys.executable, "-u", *program)
    return tuple(program)


def environment_of(threads: int, allocator: Path | None, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What an instance needs and the user has not set."""
    wanted = {"OMP_NUM_THREADS": str(threads)}
    if allocator is not None:
        wanted["LD_PRELOAD"] = os.pathsep.join(filter(None, [str(allocator), given.get("LD_PRELOAD")]))
        if "jemalloc" in allocator.name:
            wanted["MALLOC_CONF"] = _JEMALLOC
    return {name: value for name, value in wanted.items() if name == "LD_PRELOAD" or name not in given}


def preloaded(given: Mapping[str, str] = os.environ) -> str | None:
    """The allocator that the user has chosen, if any."""
    return next((name for name in ("tcmalloc", "jemalloc", "mimalloc") if name in given.get("LD_PRELOAD", "")), None)


def find_allocator(name: Allocator) -> Path | None:
    """Its library, in this Python's environment or the system's."""
    for folder in (Path(sys.prefix) / "lib", Path(os.environ.get("CONDA_PREFIX", sys.prefix)) / "lib"):
        for library in sorted(folder.glob(f"lib{name}.so*")):
            return library
    found = ctypes.util.find_library(name) or ctypes.util.find_library(f"{name}_minimal")
    return Path(found) if found else None
