"""What settings of PyTorch, and of drystone, are worth: the figures of docs/tuning.md.

    python benchmarks/tuning.py --json tuning.json
    python benchmarks/tuning.py --only threads --only allocator --models resnet50

Each setting is a process of its own, and those of a group take turns in bursts, as in ``drystone bench``. Figures are medians over
the rounds of the speed relative to eager as it comes. Streams are measured by benchmarks/serving.py.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import psutil
import typer

from drystone.tools.bench.environment import environment
from drystone.tools.bench.process import WorkerFailed, WorkerProcess
from drystone.tools.bench.results import median_ratio, write_json
from drystone.tools.bench.rounds import BURST_SECONDS, BURST_TIMEOUT, PAUSE_SECONDS, PREPARE_TIMEOUT
from drystone.tools.bench.workload import Workload
from drystone.tools.run.instances import environment_of, find_allocator

MODELS = ("resnet50", "bert_base")


@dataclass(frozen=True)
class Setting:
    """``contender`` is one of ``drystone bench``; ``threads``: how many a core; ``batch``: its time counts for one of it."""

    name: str
    group: str
    contender: str
    dtype: str = "float32"
    threads: float = 1.0
    batch: int = 1
    allocator: str | None = None


BASE = Setting("eager, as it comes", "base", "eager")
SETTINGS = (
    Setting("channels_last", "formats", "channels_last"),
    Setting("`torch.utils.mkldnn.to_mkldnn`", "formats", "to_mkldnn"),
    Setting("torch.compile, freezing", "formats", "inductor"),
    Setting("drystone, all in channels_last", "formats", "drystone_channels_last"),
    Setting("drystone", "formats", "drystone"),
    Setting("eager, one thread for two cores", "threads", "eager", threads=0.5),
    Setting("eager, two threads a core", "threads", "eager", threads=2.0),
    Setting("drystone, one thread for two cores", "threads", "drystone", threads=0.5),
    Setting("drystone, two threads a core", "threads", "drystone", threads=2.0),
    Setting("eager, tcmalloc", "allocator", "eager", allocator="tcmalloc"),
    Setting("eager, jemalloc", "allocator", "eager", allocator="jemalloc"),
    Setting("drystone, tcmalloc", "allocator", "drystone", allocator="tcmalloc"),
    Setting("drystone, jemalloc", "allocator", "drystone", allocator="jemalloc"),
    Setting("eager, autocast to bfloat16", "precision", "eager_autocast", "bfloat16"),
    Setting("drystone, bfloat16", "precision", "drystone", "bfloat16"),
    Setting("eager, batch 8, one of it", "batch", "eager", batch=8),
    Setting("drystone, batch 8, one of it", "batch", "drystone", batch=8),
)
GROUPS = tuple(dict.fromkeys(setting.group for setting in SETTINGS))


def main(
    json: Annotated[Path, typer.Option(metavar="FILE", help="Add the results to this file.")] = Path("tuning.json"),
    only: Annotated[list[str] | None, typer.Option(help=f"Groups of {', '.join(GROUPS)}. Default: all.")] = None,
    models: Annotated[list[str] | None, typer.Option(help="Of the zoo of `drystone bench`.")] = None,
    rounds: Annotated[int, typer.Option(min=3)] = 12,
) -> None:
    """Measure settings of PyTorch and drystone on this machine."""
    import json as json_format

    kept: dict[str, Any] = json_format.loads(json.read_text()) if json.exists() else {}
    kept |= {"environment": environment(), "settings": [asdict(setting) for setting in SETTINGS]}
    groups = only or GROUPS
    for model in models or MODELS:
        found = kept.setdefault("speeds", {}).setdefault(model, {})
        for group, settings in itertools.groupby(SETTINGS, key=lambda setting: setting.group):
            if group in groups:  # few processes at a time, as each holds the model
                found |= speeds(model, list(settings), rounds)
        write_json(json, kept)


def speeds(model: str, settings: Sequence[Setting], rounds: int) -> dict[str, float]:
    """Of each setting that can run the model here, relative to ``BASE``."""
    with ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running: dict[Setting, WorkerProcess] = {}
        times: dict[Setting, list[float]] = {}
        for setting in (BASE, *settings):
            try:
                running[setting] = started(model, setting, cache, stack)
            except WorkerFailed as failure:
                print(f"{model}, {setting.name}: {failure}", flush=True)
        for _, (setting, worker) in itertools.product(range(rounds), running.items()):
            time.sleep(PAUSE_SECONDS)
            milliseconds = worker.ask(BURST_TIMEOUT, do="burst", seconds=BURST_SECONDS)["milliseconds"]
            times.setdefault(setting, []).append(milliseconds / setting.batch)
    found = {setting.name: median_ratio(times[BASE], times[setting]) for setting in times if setting is not BASE}
    for name, speed in found.items():
        print(f"{model}, {name}: {speed:.2f}", flush=True)
    return found


def started(model: str, setting: Setting, cache: Path, stack: ExitStack) -> WorkerProcess:
    cores = psutil.cpu_count(logical=False) or 1
    threads = max(1, round(cores * setting.threads))
    added = {}
    if setting.allocator:
        if not (library := find_allocator(setting.allocator)):  # type: ignore[arg-type]
            raise WorkerFailed("not installed")
        added = environment_of(threads, library)
    with mock.patch.dict(os.environ, added):
        worker = stack.enter_context(WorkerProcess(threads, cache))
    workload = Workload(model, setting.dtype, setting.batch, None, threads)
    worker.ask(PREPARE_TIMEOUT, do="prepare", contender=setting.contender, workload=asdict(workload), reference=None, save=None)
    return worker


if __name__ == "__main__":
    typer.run(main)
