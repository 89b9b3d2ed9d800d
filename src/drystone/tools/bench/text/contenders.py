"""The ways to generate text that are compared: each gives the seconds of one greedy text of a prompt."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from drystone.conductor import optimize

from . import gguf_file, onnxruntime_genai
from .llama_cpp import open_llama_cpp
from .openvino_genai import open_openvino
from .peer import Open, Peer, by_lengths, silently

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
        return by_lengths(partial(seconds, ids), lengths.generate)

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


def _peer(open: Open, written: Callable[[Path], Path], lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """``written``: the model in a folder, as the engine reads it."""
    path = written(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    peer = Peer(silently, open, path, threads, lengths.rows, lengths.prompt + lengths.generate + 64)
    stack.callback(peer.close)
    return Contender(lambda ids: peer(ids.tolist(), lengths.generate))


def _require_llama(model: Any, weights: str, served: dict[str, str], *packages: str) -> None:
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ValueError(f"not installed: {', '.join(missing)}")
    if model.config.model_type != "llama":
        raise ValueError("its weights are written of a Llama")
    if weights not in served:
        raise ValueError(f"it is served in {', '.join(served)}, not in {weights}")


def _in_gguf(model: Any, weights: str) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        gguf_file.write(model, folder / "model.gguf", gguf_file.KINDS[weights])
        return folder / "model.gguf"

    return written


def llama_cpp(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """The same weights written as GGUF: F32, F16, Q8_0 or Q4_0. It rounds what the last two are multiplied by to int8."""
    _require_llama(model, weights, gguf_file.KINDS, "gguf", "xllamacpp")
    return _peer(open_llama_cpp, _in_gguf(model, weights), lengths, threads, stack)


def openvino(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """The same file as llama.cpp's, but for F32, which it does not read."""
    served = {kind: name for kind, name in gguf_file.KINDS.items() if name != "F32"}
    _require_llama(model, weights, served, "gguf", "openvino_genai")
    return _peer(open_openvino, _in_gguf(model, weights), lengths, threads, stack)


def onnxruntime(model: Any, weights: str, lengths: Lengths, threads: int, stack: ExitStack) -> Contender:
    """Its exporter's weights, rounded by itself; it rounds what those of 8 and 4 bits are multiplied by to int8."""
    _require_llama(model, weights, onnxruntime_genai.KINDS, "onnxruntime_genai")
    export = partial(onnxruntime_genai.export, model, kind=onnxruntime_genai.KINDS[weights])
    return _peer(onnxruntime_genai.open_onnxruntime, export, lengths, threads, stack)


CONTENDERS: dict[str, Prepare] = {
    "drystone": drystone,
    "drystone_rounded": drystone_rounded,
    "eager": eager,
    "eager_static": eager_static,
    "inductor": inductor,
    "llama.cpp": llama_cpp,
    "openvino": openvino,
    "onnxruntime": onnxruntime,
}
#: Beside drystone where nothing is said: torch.compile takes minutes.
DEFAULTS = ("eager", "eager_static", "llama.cpp", "openvino", "onnxruntime")


def read_bytes(model: Any, weights: str) -> float:
    """Of the weights that each token reads: all but an embedding that is no output layer too, of which it reads one row."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    unread = 0 if head is embedding else embedding.numel()
    return float((sum(parameter.numel() for parameter in model.parameters()) - unread) * BITS[weights] / 8)
