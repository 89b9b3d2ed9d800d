"""The cores that this process may use: its affinity, hyper-threads, NUMA nodes, and the CPU quota of its cgroup."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
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


def within_quota(cores: Sequence[Core]) -> list[Core]:
    """The first of the cores: no more of them than the CPU quota has time for."""
    limit = quota()
    return list(cores) if limit is None else list(cores[: max(int(limit), 1)])


def divide(
    cores: Sequence[Core], instances: int | None, cores_each: int | None, *, within_nodes: bool = False
) -> list[tuple[Core, ...]]:
    """The cores of each instance. What is not given follows from the other: as many instances, or as many cores each, as fit.

    ``within_nodes``: no instance has cores of two NUMA nodes. Raises ``ValueError`` where they don't fit.
    """
    by_node: dict[int, list[Core]] = {}
    for core in cores:
        by_node.setdefault(core.node if within_nodes else 0, []).append(core)
    if cores_each is None:
        cores_each = _fitting([len(group) for group in by_node.values()], instances or 1)
    places = [
        tuple(group[first : first + cores_each])
        for group in by_node.values()
        for first in range(0, len(group) - cores_each + 1, max(cores_each, 1))
    ]
    wanted = len(places) if instances is None else instances
    if cores_each == 0 or not 0 < wanted <= len(places):
        each = f"{instances or 1} instances of {max(cores_each, 1)} cores"
        raise ValueError(f"{each} do not fit on {len(cores)} cores{' of one NUMA node each' if within_nodes else ''}")
    return places[:wanted]


def _fitting(sizes: Sequence[int], instances: int) -> int:
    """How many cores each may have at most, where groups of cores have these sizes."""
    for each in range(max(sizes, default=0), 0, -1):
        if sum(size // each for size in sizes) >= instances:
            return each
    return 0


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
