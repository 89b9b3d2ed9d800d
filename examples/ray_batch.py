"""A folder of pictures through a model, on a Ray cluster: Ray Data with a pool of actors, each of which loads an artefact once.

    pip install 'drystone[ray]'
    python examples/ray_batch.py pictures/ --artefact /shared/resnet50.drystone --actors 4 --threads 2

Every node reads the pictures and the artefact at the same paths. Where a node dies, Ray does its batches again on the others. The
artefact is made first, of a ResNet-50 with random weights, where there is none: save your own model with ``drystone.save``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch
import typer

import drystone

BATCH = 8
SIDE = 224


def make_artefact(path: Path) -> None:
    """For batches of ``BATCH`` pictures."""
    from drystone.tools.bench import zoo

    model, inputs = zoo.load("resnet50", BATCH, (SIDE, SIDE))
    drystone.save(drystone.optimize(model.eval(), inputs), path)


class Classifier:
    """Lives in an actor: pictures (n, height, width, 3) of bytes → classes and their scores."""

    def __init__(self, artefact: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._fast = drystone.load(artefact)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pictures = torch.from_numpy(np.stack(list(batch["image"]))).permute(0, 3, 1, 2).float()
        pictures = (pictures / 255 - 0.45) / 0.225
        count = len(pictures)
        # An artefact has programs for the sizes that it was saved with: the last batch is filled up.
        full = torch.cat([pictures, pictures.new_zeros(BATCH - count, *pictures.shape[1:])])
        with torch.inference_mode():
            scores, classes = self._fast(full)[:count].softmax(1).max(1)
        return {"path": batch["path"], "class": classes.numpy(), "score": scores.numpy()}


def predictions(folder: Path, artefact: Path, actors: int, threads: int, classifier: type = Classifier) -> ray.data.Dataset:
    """A row for each picture: its path, class and score. Nothing runs until it is read."""
    # Decoding is left a part of a core, so that it does not wait for one beside the actors.
    pictures = ray.data.read_images(str(folder), size=(SIDE, SIDE), mode="RGB", include_paths=True, num_cpus=0.25)
    return pictures.map_batches(
        classifier,
        fn_constructor_args=(str(artefact), threads),
        batch_size=BATCH,
        num_cpus=threads,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )


def main(
    folder: Path,
    artefact: Path = Path("resnet50.drystone"),
    actors: int = 1,
    threads: int = 1,
    out: Path | None = None,
    address: str | None = None,
) -> None:
    """OUT: a folder for Parquet files. ADDRESS: of a running cluster, as "auto"; else one starts on this machine."""
    if not artefact.exists():
        make_artefact(artefact)
    ray.init(address=address, logging_level="warning")
    rows = predictions(folder, artefact.resolve(), actors, threads)
    began = time.perf_counter()
    if out is not None:
        rows.write_parquet(str(out))
        print(f"written: {out}")
    else:
        found = rows.take_all()
        took = time.perf_counter() - began
        for row in found[:5]:
            print(f"{Path(row['path']).name}: class {row['class']}, {row['score']:.2f}")
        print(f"pictures: {len(found)}, in a second: {len(found) / took:.1f}")


if __name__ == "__main__":
    typer.run(main)
