"""The cores that this process may use: its affinity, hyper-threads, NUMA nodes, and the CPU quota of its cgroup."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60  # cgroups v1 have a very large number for none


@dataclass(frozen=True)
class Core:
    """``number`` is the system's number of the logical CPU, ``siblings`` the least number among its hyper-threads."""

    number: int
    siblings: int
    node: int


def cores(logical: bool = False, cpus: Path = _CPUS, nodes: Path = _NODES) -> list[Core]:
    """Of this process's affinity, by node and number; one of each core's hyper-threads, all with ``logical``."""
    node_of = {
        number: int(folder.name.removeprefix("node"))
        for folder in nodes.glob("node[0-9]*")
        for number in numbers((folder / "cpulist").read_text())
    }
    found = []
    for number in os.sched_getaffinity(0):
        siblings = cpus / f"cpu{number}" / "topology" / "thread_siblings_list"
        first = min(numbers(siblings.read_text())) if siblings.exists() else number
        found.append(Core(number, first, node_of.get(number, 0)))
    found.sort(key=lambda core: (core.node, core.number))
    if logical:
        return found
    one_each: dict[int, Core] = {}
    for core in found:
        one_each.setdefault(core.siblings, core)
    return list(one_each.values())


def numbers(text: str) -> list[int]:
    """A list as Linux writes it: ``0-3,8`` is 0, 1, 2, 3, 8. Raises ``ValueError`` where it is none."""
    found: list[int] = []
    for part in text.replace(" ", "").strip().split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise ValueError(f"{text.strip()!r} is no list of cores like 0-3,8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{part}: the last core comes before the first")
        found.extend(range(first, last + 1))
    return found


def written(cores: Iterable[Core]) -> str:
    """As ``taskset -c`` takes it: ``0,1,2,3``."""
    return ",".join(str(core.number) for core in cores)


def quota(folder: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float | None:
    """How many CPUs' time the cgroups of this process may use; None where nothing limits it."""
    limits = [path.read_text().split() for path in _files("cpu.max", "", folder, own)]
    for path in _files("cpu.cfs_quota_us", "cpu", folder, own):
        limits.append([path.read_text().strip(), (path.parent / "cpu.cfs_period_us").read_text().strip()])
    given = [int(limit) / int(period) for limit, period in limits if limit not in ("max", "-1")]
    return min(given, default=None)


def memory_limit(folder: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int | None:
    """Bytes that the cgroups of this process may use; None where nothing limits it."""
    files = [*_files("memory.max", "", folder, own), *_files("memory.limit_in_bytes", "memory", folder, own)]
    texts = [path.read_text().strip() for path in files]
    given = [int(text) for text in texts if text != "max" and int(text) < _NO_LIMIT]
    return min(given, default=None)


def _files(name: str, controller: str, folder: Path, own: Path) -> list[Path]:
    """The files of this name of the process's cgroup and those around it; ``controller``: of cgroups v1, "" for v2."""
    groups = [Path("/")]
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            groups += [Path(path), *Path(path).parents]
    found = dict.fromkeys(folder / controller / group.relative_to("/") / name for group in groups)
    return [path for path in found if path.exists()]
