"""Times prefill and decode of a Llama-like model with random weights, in drystone and by the model itself, in alternation.

python benchmarks/generation.py --layers 24 --prompt 128 --generate 64 --rows 1 --json generation.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

import drystone


def model_of(layers: int) -> Any:
    """336 million parameters with 24 layers."""
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8}
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "vocab_size": 32000, "max_position_embeddings": 4096}
    config = transformers.LlamaConfig(**sizes, **heads, num_hidden_layers=layers, tie_word_embeddings=False, eos_token_id=None)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def seconds(model: Any, ids: torch.Tensor, count: int) -> float:
    began = time.perf_counter()
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 24), ("prompt", 128), ("generate", 64), ("rows", 1), ("rounds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(asked.threads)
    model = model_of(asked.layers)
    began = time.perf_counter()
    fast = drystone.optimize(model)
    prepared = time.perf_counter() - began
    ids = torch.randint(2, 32000, (asked.rows, asked.prompt))
    taken: dict[str, list[tuple[float, float]]] = {"drystone": [], "eager": []}
    for round in range(asked.rounds + 1):
        for name, each in (("drystone", fast), ("eager", model)):
            first, all = seconds(each, ids, 1), seconds(each, ids, asked.generate)
            if round:  # the first makes programs
                taken[name].append((first, (all - first) / (asked.generate - 1)))
    results: dict[str, Any] = {"arguments": {name: value for name, value in vars(asked).items() if name != "json"}}
    results |= {"torch": torch.__version__, "transformers": transformers.__version__, "prepared_seconds": prepared}
    print(f"prepared in {prepared:.1f} s")
    for name, times in taken.items():
        prefill, token = (statistics.median(column) for column in zip(*times, strict=True))
        results[name] = {"prefill_tokens_a_second": ids.numel() / prefill, "milliseconds_a_token": 1e3 * token}
        print(f"{name:10} prefill {ids.numel() / prefill:6.0f} tokens/s, decode {1e3 * token:6.1f} ms a token of {asked.rows} rows")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
