"""Text generation with top-k sampling, written as for torch alone: torch's operators against ``drystone.enable()``.

A model of DistilGPT-2's size (6 layers, 768 wide, 50257 tokens, random weights) samples with a cache of keys and values: 16
tokens of prompt, then one token at a time. Both take turns in one process and start from the same seed, so they must draw the
same tokens.

    python benchmarks/generation.py --json generation.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

import drystone
from drystone.tools.bench.environment import environment

PROMPT, TOP_K = 16, 50


@torch.inference_mode()
def generate(model: GPT2LMHeadModel, sequences: int, tokens: int) -> torch.Tensor:
    """(sequences, PROMPT + tokens), int64."""
    torch.manual_seed(0)
    text = torch.randint(model.config.vocab_size, (sequences, PROMPT))
    cache = DynamicCache()
    latest = text
    for _ in range(tokens):
        logits = model(latest, past_key_values=cache, use_cache=True).logits[:, -1]
        best, candidates = torch.topk(logits, TOP_K)
        drawn = torch.multinomial(torch.softmax(best, -1), 1)
        latest = candidates.gather(-1, drawn)
        text = torch.cat((text, latest), dim=1)
    return text


def timed(model: GPT2LMHeadModel, sequences: int, tokens: int) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    text = generate(model, sequences, tokens)
    return time.perf_counter() - start, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64, help="how many are drawn for each sequence")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=6)).eval()

    results = []
    table = Table("sequences", "torch, tokens/s", "drystone, tokens/s", "torch / drystone", "same tokens")
    for sequences in arguments.sequences:
        rounds, same = [], True
        for _ in track(range(arguments.rounds), f"{sequences} sequences", transient=True):
            torchs, expected = timed(model, sequences, arguments.tokens)
            with drystone.enabled():
                ours, text = timed(model, sequences, arguments.tokens)
            rounds.append((torchs, ours))
            same &= torch.equal(text, expected)
        drawn = sequences * arguments.tokens
        result = {
            "sequences": sequences,
            "tokens": arguments.tokens,
            "torch_tokens_per_second": drawn / statistics.median(t for t, _ in rounds),
            "drystone_tokens_per_second": drawn / statistics.median(d for _, d in rounds),
            "ratio": statistics.median(t / d for t, d in rounds),
            "ratios": [t / d for t, d in rounds],
            "same_tokens": same,
        }
        results.append(result)
        table.add_row(
            str(sequences),
            f"{result['torch_tokens_per_second']:.0f}",
            f"{result['drystone_tokens_per_second']:.0f}",
            f"{result['ratio']:.2f}",
            "yes" if same else "no",
        )
    Console().print(table)
    if arguments.json:
        document = {"threads": arguments.threads, "environment": environment(), "results": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
