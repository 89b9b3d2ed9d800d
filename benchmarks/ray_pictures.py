"""Pictures a second by examples/ray_batch.py: actors of one core on Ray against one process on all of these cores, without Ray.

    pip install 'drystone[bench,ray]'
    python benchmarks/ray_pictures.py --json ray_pictures.json

Pictures are parts of scikit-learn's two photographs, the model a ResNet-50 in batches of eight. The time is from the first result
to the last, so that neither actors that start nor artefacts that are loaded count; decoding does, in both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from drystone.cores import cores
from drystone.tools.bench.environment import environment
from drystone.tools.bench.results import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from ray_batch import BATCH, SIDE, Classifier, make_artefact, predictions


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    samples = load_sample_images().images
    for number in range(count):
        left, top = 3 * number % 400, 2 * number % 200
        Image.fromarray(samples[number % 2]).crop((left, top, left + SIDE, top + SIDE)).save(folder / f"{number:05}.jpg")
    return folder


def on_ray(folder: Path, artefact: Path, actors: int) -> Iterator[int]:
    """Of each batch of results, how many pictures."""
    for batch in predictions(folder, artefact, actors, 1).iter_batches(batch_size=None, prefetch_batches=0):
        yield len(batch["path"])


def alone(folder: Path, artefact: Path, threads: int) -> Iterator[int]:
    classify, files = Classifier(str(artefact), threads), sorted(folder.iterdir())
    for first in range(0, len(files), BATCH):
        own = files[first : first + BATCH]
        images = [np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in own]
        yield len(classify({"image": np.stack(images), "path": own})["path"])


def rate(counts: Iterator[int]) -> float:
    """Pictures a second, after the first batch."""
    next(counts)
    began = time.perf_counter()
    return round(sum(counts) / (time.perf_counter() - began), 2)


def main(
    count: int = 800,
    rounds: int = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the results go.")] = None,
) -> None:
    usable = len(cores())
    with tempfile.TemporaryDirectory(prefix="drystone-ray-") as temporary:
        folder, artefact = pictures(Path(temporary) / "pictures", count), Path(temporary) / "resnet50.drystone"
        make_artefact(artefact)
        # Before Ray's workers start, which import the example too.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
        ray.init(num_cpus=usable + 1, logging_level="warning", log_to_driver=False)
        ways: dict[str, Any] = {
            **{f"{actors} actor{'s' * (actors > 1)} of one core": (on_ray, actors) for actors in sorted({1, usable})},
            f"one process of {usable} threads": (alone, usable),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, (way, number) in ways.items():
                rates[name].append(rate(way(folder, artefact, number)))
    table = Table("", "pictures a second", title=f"ResNet-50, {count} pictures")
    for name, values in rates.items():
        table.add_row(name, f"{statistics.median(values):.1f}")
    Console().print(table)
    if json_file:
        results = [{"way": name, "per_second": statistics.median(values), "rounds": values} for name, values in rates.items()]
        write_json(json_file, {"environment": environment(), "pictures": count, "results": results})


if __name__ == "__main__":
    typer.run(main)
