"""Times prefill and decode of a Llama-like model with random weights, by drystone, itself and other engines, in turn.

    python benchmarks/language_models.py --json language_models.json

llama.cpp (packages ``gguf`` and ``xllamacpp``) has the same weights, as F32, F16, Q8_0 and Q4_0, and OpenVINO (``openvino-genai``)
the last three; ONNX Runtime (``onnxruntime-genai``) rounds them itself. Those that are not installed are named. All round what
weights of 8 and 4 bits are multiplied by to int8, as drystone does where it is asked to (``activations="int8"``).
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from drystone.tools.bench.environment import environment
from drystone.tools.bench.text.contenders import WEIGHTS, Lengths
from drystone.tools.bench.text.measure import measure


def model_of(layers: int) -> Any:
    """336 million parameters with 24 layers."""
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8}
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "vocab_size": 32000, "max_position_embeddings": 4096}
    config = transformers.LlamaConfig(**sizes, **heads, num_hidden_layers=layers, tie_word_embeddings=False, eos_token_id=None)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 24), ("prompt", 128), ("generate", 64), ("rows", 1), ("rounds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kinds", nargs="+", choices=WEIGHTS, default=[*WEIGHTS])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(asked.threads)
    model = model_of(asked.layers)
    ids = torch.randint(3, 32000, (asked.rows, asked.prompt))
    results: dict[str, Any] = {"arguments": {name: value for name, value in vars(asked).items() if name != "json"}}
    results |= {"environment": environment(), "transformers": transformers.__version__}
    for kind in asked.kinds:
        contenders = ["drystone", *(["drystone_rounded"] if "weights" in WEIGHTS[kind] else ["eager"] if kind == "float32" else [])]
        contenders += ["llama.cpp", "openvino", "onnxruntime"]
        lengths = Lengths(asked.prompt, asked.generate, asked.rows)
        results[kind] = measure(model, kind, ids, lengths, contenders, asked.rounds)
        prepared = results[kind]["contenders"]["drystone"]["prepared_seconds"]
        print(f"{kind}: prepared in {prepared:.1f} s; reading the weights takes {results[kind]['limit_milliseconds']:.1f} ms")
        for name, found in results[kind]["contenders"].items():
            prefill, token = found["prefill_tokens_a_second"], found["milliseconds_a_token"]
            print(f"  {name:20} prefill {prefill:6.0f} tokens/s, decode {token:6.1f} ms a token of {asked.rows} rows")
        for name, reason in results[kind]["failed"].items():
            print(f"  {name:20} {reason}")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
