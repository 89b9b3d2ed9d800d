"""The ways to generate text that are compared: each gives the seconds of one greedy text of a prompt."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from drystone.conductor import optimize

#: What drystone is asked for, by the name of the weights.
WEIGHTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
}
BITS = {"float32": 32, "bfloat16": 16, "int8": 8.5, "int4": 4.5}  # with a float16 scale for 32 weights


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompt, tokens that are generated after it, and how many texts of these at a time."""

    prompt: int
    generate: int
    rows: int = 1


# Seconds of the prompt, and of a token after it.
Times = Callable[[torch.Tensor], tuple[float, float]]


@dataclass(frozen=True)
class Contender:
    """``figures``: others than times, by name."""

    times: Times
    figures: dict[str, float] = field(default_factory=dict)


# What a contender opens is closed by the stack.
Prepare = Callable[[Any, str, Lengths, int, ExitStack], Contender]


def _by_generate(model: Any, lengths: Lengths, **how: Any) -> Contender:
    def seconds(ids: torch.Tensor, count: int) -> float:
        began = time.perf_counter()
        fixed = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        model.generate(ids, attention_mask=torch.ones_like(ids), **fixed, **how)
        return time.perf_counter() - began

    def times(ids: torch.Tensor) -> tuple[float, float]:
        first, all = seconds(ids, 1), seconds(ids, lengths.generate)
        return first, (all - first) / (lengths.generate - 1)

    return Contender(times)


def drystone(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    return _by_generate(optimize(model, **WEIGHTS[weights]), lengths)


def drystone_rounded(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """With ``activations="int8"``, and the error of its logits against those without."""
    if "weights" not in WEIGHTS[weights]:
        raise ValueError(f"what is multiplied by {weights} weights is not rounded")
    fast = optimize(model, **WEIGHTS[weights], activations="int8")
    rounding = getattr(fast.explain(), "rounding", None)
    return Contender(_by_generate(fast, lengths).times, {"relative_error": rounding.error} if rounding else {})


def eager(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """The model as it is, in its own dtype whatever is asked for."""
    return _by_generate(model, lengths)


def eager_static(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """With transformers' cache of a fixed size."""
    return _by_generate(model, lengths, cache_implementation="static", disable_compile=True)


def inductor(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """torch.compile, with a cache of a fixed size, which its graphs need."""
    compiled = copy.copy(model)
    compiled.forward = torch.compile(model.forward)
    return _by_generate(compiled, lengths, cache_implementation="static", disable_compile=True)


def llama_cpp(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """The same weights written as GGUF: F32, F16, Q8_0 or Q4_0. It rounds what the last two are multiplied by to int8."""
    from .llama_cpp import KINDS, LlamaCpp, write

    missing = [name for name in ("gguf", "xllamacpp") if find_spec(name) is None]
    if missing:
        raise ValueError(f"not installed: {', '.join(missing)}")
    if model.config.model_type != "llama" or lengths.rows > 1:
        raise ValueError("its weights are written for one text of a Llama")
    file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.gguf"
    write(model, file, KINDS[weights])
    peer = LlamaCpp(file, threads, lengths.prompt + lengths.generate + 64)
    stack.callback(peer.close)
    return Contender(lambda ids: peer.times(ids[0].tolist(), lengths.generate))


CONTENDERS: dict[str, Prepare] = {
    "drystone": drystone,
    "drystone_rounded": drystone_rounded,
    "eager": eager,
    "eager_static": eager_static,
    "inductor": inductor,
    "llama.cpp": llama_cpp,
}
#: Beside drystone where nothing is said: torch.compile takes minutes.
DEFAULTS = ("eager", "eager_static", "llama.cpp")


def read_bytes(model: Any, weights: str) -> float:
    """Of the weights that each token reads: all but an embedding that is no output layer too, of which it reads one row."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    unread = 0 if head is embedding else embedding.numel()
    return float((sum(parameter.numel() for parameter in model.parameters()) - unread) * BITS[weights] / 8)
