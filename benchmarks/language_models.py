"""Times prefill and decode of a Llama-like model with random weights, in drystone, by the model itself and in llama.cpp, in turn.

    python benchmarks/language_models.py --json language_models.json

llama.cpp (packages ``gguf`` and ``xllamacpp``, where they are installed) has the same weights, as F32, F16, Q8_0 and Q4_0.
It rounds what the last two are multiplied by to int8, as drystone does where it is asked to (``activations="int8"``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

import drystone
from drystone.tools.bench.environment import environment
from drystone.tools.ops.limits import limits
from drystone.tools.ops.results import READ


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


#: What drystone is asked for, by name.
KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
}


#: The contender that rounds x too.
ROUNDED = "drystone, x in int8"


def read_bytes(model: Any, kind: str) -> float:
    """Of the weights that each token reads: all but the embedding, which one row is read of."""
    bits = {"float32": 32, "bfloat16": 16, "int8": 8.5, "int4": 4.5}[kind]  # a float16 scale for 32 weights
    return sum(p.numel() for p in model.parameters()) * bits / 8 - model.get_input_embeddings().weight.numel() * bits / 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 24), ("prompt", 128), ("generate", 64), ("rows", 1), ("rounds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(asked.threads)
    model = model_of(asked.layers)
    ids = torch.randint(3, 32000, (asked.rows, asked.prompt))
    rate = 1e9 * limits([])[READ]
    results: dict[str, Any] = {"arguments": {name: value for name, value in vars(asked).items() if name != "json"}}
    results |= {"environment": environment(), "transformers": transformers.__version__, "read_gigabytes_a_second": rate / 1e9}
    for kind in asked.kinds:
        results[kind] = measure(model, kind, ids, asked)
        limit = results[kind]["limit_milliseconds"] = 1e3 * read_bytes(model, kind) / rate
        print(f"{kind}: prepared in {results[kind]['prepared_seconds']:.1f} s; reading the weights takes {limit:.1f} ms")
        for name, found in results[kind]["contenders"].items():
            prefill, token = found["prefill_tokens_a_second"], found["milliseconds_a_token"]
            print(f"  {name:20} prefill {prefill:6.0f} tokens/s, decode {token:6.1f} ms a token of {asked.rows} rows")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


def measure(model: Any, kind: str, ids: torch.Tensor, asked: argparse.Namespace) -> dict[str, Any]:
    """Medians of rounds in which the contenders take turns."""
    began = time.perf_counter()
    fast = drystone.optimize(model, **KINDS[kind])
    prepared = time.perf_counter() - began

    def of(each: Any) -> tuple[float, float]:
        first, all = seconds(each, ids, 1), seconds(each, ids, asked.generate)
        return first, (all - first) / (asked.generate - 1)

    contenders = {"drystone": lambda: of(fast)}
    rounding = None
    if "weights" in KINDS[kind]:
        rounded = drystone.optimize(model, **KINDS[kind], activations="int8")
        rounding = rounded.explain().rounding
        contenders[ROUNDED] = lambda: of(rounded)
    if kind == "float32":
        contenders["eager"] = lambda: of(model)
    peer = None
    with tempfile.TemporaryDirectory() as folder:
        if asked.rows == 1 and all(map(find_spec, ("gguf", "xllamacpp"))):
            import llama_cpp

            file = Path(folder) / "model.gguf"
            llama_cpp.write(model, file, llama_cpp.KINDS[kind])
            peer = llama_cpp.LlamaCpp(file, asked.threads, asked.prompt + asked.generate + 64)
            contenders["llama.cpp"] = lambda: peer.times(ids[0].tolist(), asked.generate)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for round in range(asked.rounds + 1):
            for name, run in contenders.items():
                times = run()
                if round:  # the first makes programs
                    taken[name].append(times)
        if peer is not None:
            peer.close()
    found = {}
    for name, each in taken.items():
        prefill, token = (statistics.median(column) for column in zip(*each, strict=True))
        found[name] = {"prefill_tokens_a_second": ids.numel() / prefill, "milliseconds_a_token": 1e3 * token}
    if rounding is not None:
        found[ROUNDED]["relative_error"] = rounding.error  # of the logits, against drystone's without rounding
    return {"prepared_seconds": prepared, "contenders": found}


if __name__ == "__main__":
    main()
