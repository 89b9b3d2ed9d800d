"""The command ``drystone run``: reads its arguments, divides the cores, starts the instances."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from drystone.console import console as plain
from drystone.cores import Core, cores, divide, numbers, within_quota
from drystone.tools.bench.progress import progress_bar

from .instances import LATENCY_CORES, Instance, command_of, environment_of, find_allocator, preloaded
from .launch import become, prefixed, run_all
from .tune import Trial, divisions, trial


def _names(name: str) -> tuple[str, ...]:
    """With dashes, and with underscores as torch.backends.xeon.run_cpu has them too."""
    return (name, "--" + name[2:].replace("-", "_"))


def run(
    program: Annotated[list[str], typer.Argument(metavar="[--] PROGRAM…", help="A .py file, or any program, and its arguments.")],
    module: Annotated[bool, typer.Option("-m", "--module", help="PROGRAM is a module, as for `python -m`.")] = False,
    no_python: Annotated[bool, typer.Option(*_names("--no-python"), help="Run a .py file by itself, not by this Python.")] = False,
    multi_instance: Annotated[bool, typer.Option(*_names("--multi-instance"), help="An instance a NUMA node.")] = False,
    ninstances: Annotated[int | None, typer.Option(min=1, help="How many processes. Default: as many as fit, or 1.")] = None,
    ncores_per_instance: Annotated[
        int | None, typer.Option(*_names("--ncores-per-instance"), min=1, help="Default: as many as fit.")
    ] = None,
    latency_mode: Annotated[
        bool, typer.Option(*_names("--latency-mode"), help=f"Instances of {LATENCY_CORES} cores, on all cores.")
    ] = False,
    throughput_mode: Annotated[bool, typer.Option(*_names("--throughput-mode"), help="As --multi-instance.")] = False,
    skip_cross_node_cores: Annotated[
        bool, typer.Option(*_names("--skip-cross-node-cores"), help="No instance on cores of two NUMA nodes.")
    ] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Start this one of the instances alone.")] = None,
    node_id: Annotated[int | None, typer.Option(*_names("--node-id"), min=0, help="The NUMA node whose cores are used.")] = None,
    core_list: Annotated[str | None, typer.Option(*_names("--core-list"), metavar="0-3,8", help="The cores that are used.")] = None,
    use_logical_core: Annotated[
        bool, typer.Option(*_names("--use-logical-core"), help="Both hyper-threads of a core, not one.")
    ] = False,
    disable_taskset: Annotated[bool, typer.Option(*_names("--disable-taskset"), help="Set threads, but pin to no cores.")] = False,
    enable_tcmalloc: Annotated[bool, typer.Option(*_names("--enable-tcmalloc"), help="Allocate by tcmalloc.")] = False,
    enable_jemalloc: Annotated[bool, typer.Option(*_names("--enable-jemalloc"), help="Allocate by jemalloc.")] = False,
    use_default_allocator: Annotated[
        bool, typer.Option(*_names("--use-default-allocator"), help="Preload none. Default: tcmalloc or jemalloc if installed.")
    ] = False,
    log_path: Annotated[
        Path | None, typer.Option(*_names("--log-path"), help="A folder: a file of output for each instance.")
    ] = None,
    log_file_prefix: Annotated[
        str, typer.Option(*_names("--log-file-prefix"), help="What names of these files start with.")
    ] = "run",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, and run nothing.")] = False,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Try numbers of instances and cores for a program that prints a figure, and show which sum is the largest. "
            "PATTERN is a regular expression with one group: 'images/s: ([0-9.]+)'.",
        ),
    ] = None,
) -> None:
    """Start a program with threads, cores and allocator set up: on all cores of this machine, or as several instances.

    Threads follow the cores of an instance, within the affinity and the CPU quota of this process. Variables that are set already
    stay as they are. One instance takes this process's place; of several, output is prefixed by the instance's rank, signals are
    passed on, and the exit code is that of the first one that failed.
    """
    usable = _usable(core_list, node_id, use_logical_core)
    with_nodes = multi_instance or throughput_mode
    if latency_mode and (with_nodes or ncores_per_instance):
        raise typer.BadParameter(f"is {LATENCY_CORES} cores an instance; give one of the modes", param_hint="--latency-mode")
    if latency_mode:
        ncores_per_instance = min(LATENCY_CORES, len(usable))
    if with_nodes and ninstances is None:
        ninstances = len({core.node for core in usable})
    if ncores_per_instance is None and ninstances is None:
        ninstances = 1
    allocator = _allocator(enable_tcmalloc, enable_jemalloc, use_default_allocator)
    make = partial(_instances, command_of(program, module, no_python), allocator, not disable_taskset)
    if tune is not None:
        _tune(usable, _pattern(tune), make)
        return
    try:
        chosen = make(divide(usable, ninstances, ncores_per_instance, within_nodes=skip_cross_node_cores or with_nodes))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ninstances, --ncores-per-instance") from error
    if rank is not None:
        if rank >= len(chosen):
            raise typer.BadParameter(f"there are instances 0 to {len(chosen) - 1}", param_hint="--rank")
        chosen = [chosen[rank]]
    if dry_run:
        for instance in chosen:
            print(instance)
        return
    try:
        if len(chosen) == 1 and log_path is None:
            become(chosen[0])
        with prefixed(chosen, log_path, log_file_prefix) as sink:
            codes = run_all(chosen, sink)
    except OSError as error:
        print(f"drystone run: {chosen[0].command[0]}: {error.strerror}", file=sys.stderr)
        raise typer.Exit(2) from error
    raise typer.Exit(next((code for code in codes if code), 0))


def _usable(core_list: str | None, node_id: int | None, logical: bool) -> list[Core]:
    """The cores that may be used, no more of them than the CPU quota has time for."""
    own = cores(logical)
    if core_list is not None:
        try:
            wanted = numbers(core_list)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--core-list") from error
        known = {core.number: core for core in cores(logical=True)}
        if missing := sorted(set(wanted) - set(known)):
            has = ",".join(map(str, sorted(known)))
            raise typer.BadParameter(
                f"this process has no core {', '.join(map(str, missing))}, but {has}", param_hint="--core-list"
            )
        own = [known[number] for number in dict.fromkeys(wanted)]
    if node_id is not None:
        nodes = sorted({core.node for core in own})
        if node_id not in nodes:
            raise typer.BadParameter(f"there is no node {node_id}, but {', '.join(map(str, nodes))}", param_hint="--node-id")
        own = [core for core in own if core.node == node_id]
    return within_quota(own)


def _allocator(tcmalloc: bool, jemalloc: bool, default: bool) -> Path | None:
    if tcmalloc + jemalloc + default > 1:
        raise typer.BadParameter("give one allocator", param_hint="--enable-tcmalloc, --enable-jemalloc, --use-default-allocator")
    if default or preloaded():
        return None
    if tcmalloc or jemalloc:
        name, package = ("tcmalloc", "libtcmalloc-minimal4") if tcmalloc else ("jemalloc", "libjemalloc2")
        found = find_allocator(name)  # type: ignore[arg-type]
        if found is None:
            raise typer.BadParameter(f"no lib{name}.so here: apt install {package}", param_hint=f"--enable-{name}")
        return found
    return find_allocator("tcmalloc") or find_allocator("jemalloc")


def _instances(command: tuple[str, ...], allocator: Path | None, pinned: bool, places: list[tuple[Core, ...]]) -> list[Instance]:
    return [
        Instance(rank, place, command, environment_of(len(place), allocator), pinned and bool(place))
        for rank, place in enumerate(places)
    ]


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise typer.BadParameter(f"{text!r} is no regular expression: {error}", param_hint="--tune") from error
    if pattern.groups != 1:
        raise typer.BadParameter(f"{text!r} has {pattern.groups} groups, and one is the figure", param_hint="--tune")
    return pattern


def _tune(usable: list[Core], pattern: re.Pattern[str], make: partial[list[Instance]]) -> None:
    console = plain(width=None if sys.stdout.isatty() else 120)
    tried: list[Trial] = []
    wanted = divisions(len(usable))
    with progress_bar(len(wanted), console) as announce:
        for count, each in wanted:
            announce(f"{count} instances of {each} cores")
            tried.append(trial(usable, (count, each), pattern, make))
    best = max((one.total for one in tried if one.figures), default=None)
    table = Table("", "instances", "cores each", "sum", "each", "")
    for one in sorted(tried, key=lambda one: -one.total):
        figures = (f"{one.total:g}", f"{one.total / one.instances:g}") if one.figures else ("failed", "")
        table.add_row("*" if one.total == best and one.figures else "", str(one.instances), str(one.cores), *figures, one.reason)
    console.print(table)
    if best is None:
        raise typer.Exit(1)
    winner = next(one for one in tried if one.figures and one.total == best)
    console.print(f"the best: drystone run --ninstances {winner.instances} --ncores-per-instance {winner.cores}")
