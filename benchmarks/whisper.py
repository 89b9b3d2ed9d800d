"""30 seconds of sound to text by a model of Whisper base's shape with random weights: the real-time factor, in turn.

The encoder once, then so many tokens greedily (real speech has about 100 in 30 seconds), in drystone, by the model itself, and in
CTranslate2, on which faster-whisper stands, where it is installed: on the same weights.

    python benchmarks/whisper.py --json whisper.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import WhisperConfig, WhisperForConditionalGeneration

import drystone
from drystone.tools.bench.environment import environment

SECONDS = 30  # of sound
FRAMES = 3000  # that the model makes of them

# Of the multilingual vocabulary.
SPECIAL = {
    50257: "<|endoftext|>",
    50258: "<|startoftranscript|>",
    50259: "<|en|>",
    50358: "<|translate|>",
    50359: "<|transcribe|>",
    50360: "<|startoflm|>",
    50361: "<|startofprev|>",
    50362: "<|nospeech|>",
    50363: "<|notimestamps|>",
    **{50364 + i: f"<|{i / 50:.2f}|>" for i in range(1501)},
}
END, PROMPT = 50257, [50258, 50259, 50359, 50363]

Run = Callable[[], None]


def base() -> Any:
    torch.manual_seed(0)
    layers = {"encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    sizes = {"d_model": 512, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}
    config = WhisperConfig(**layers, **sizes, suppress_tokens=None, begin_suppress_tokens=None)
    return WhisperForConditionalGeneration(config).eval()


def generates(model: Any, features: torch.Tensor, tokens: int) -> Run:
    def run() -> None:
        with torch.no_grad():
            model.generate(features, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, num_beams=1)

    return run


def in_ctranslate2(model: Any, features: torch.Tensor, tokens: int, kind: str, threads: int) -> Run:
    """``kind``: float32 or int8. Raises where it is not installed, or takes the model otherwise than here."""
    import ctranslate2
    import numpy as np
    from ctranslate2.converters import TransformersConverter
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        model.save_pretrained(source)
        words = [SPECIAL.get(index, f"word{index}") for index in range(model.config.vocab_size)]
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        tokenizer = WhisperTokenizer(str(vocabulary), str(merges))
        WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(source)
        TransformersConverter(str(source)).convert(str(target), quantization=kind)
        converted = ctranslate2.models.Whisper(str(target), device="cpu", compute_type=kind, intra_threads=threads)
    view = ctranslate2.StorageView.from_array(np.ascontiguousarray(features.numpy()))

    def run() -> None:
        # As many tokens: the one that ends a text is suppressed.
        converted.generate(view, [PROMPT], beam_size=1, max_length=tokens + len(PROMPT), suppress_tokens=[END])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console, model, features = Console(), base(), torch.randn(1, 80, FRAMES)
    makers: dict[str, Callable[[], Run]] = {
        "eager, float32": lambda: generates(model, features, arguments.tokens),
        **{
            f"drystone, {name}": lambda options=options: generates(drystone.optimize(model, **options), features, arguments.tokens)
            for name, options in (("float32", {}), ("bfloat16", {"dtype": torch.bfloat16}), ("int8", {"weights": "int8"}))
        },
        **{
            f"CTranslate2, {kind}": lambda kind=kind: in_ctranslate2(model, features, arguments.tokens, kind, arguments.threads)
            for kind in ("float32", "int8")
        },
    }
    runs: dict[str, Run] = {}
    for name, make in makers.items():
        try:
            runs[name] = make()
            runs[name]()  # prepares
        except Exception as error:  # of another library, or its absence
            if name.startswith("drystone"):
                raise
            runs.pop(name, None)
            console.print(f"{name}: {type(error).__name__}: {error}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    table = Table("", "seconds", "times real time")
    for name, found in times.items():
        table.add_row(name, f"{statistics.median(found):.2f}", f"{SECONDS / statistics.median(found):.1f}")
    console.print(table)
    if arguments.json:
        document = {"threads": arguments.threads, "tokens": arguments.tokens, "environment": environment(), "seconds": times}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
