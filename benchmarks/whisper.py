"""30 seconds of sound to text by a model of Whisper base's shape with random weights: the real-time factor.

The encoder once, then so many tokens greedily (real speech has about 100 in 30 seconds), in drystone, by the model itself, and in
CTranslate2, on which faster-whisper stands, where it is installed: on the same weights. Each in a process of its own, in turn: with
CTranslate2 in it, a process runs torch and drystone a third slower.

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
from rich.progress import track
from rich.table import Table
from transformers import WhisperConfig, WhisperForConditionalGeneration

import drystone
from drystone.tools.bench.environment import environment
from drystone.tools.bench.results import write_json
from drystone.tools.bench.text.peer import Peer

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

OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8 weights": {"weights": "int8"},
    "int8": {"weights": "int8", "activations": "int8"},
}
CONTENDERS = ("eager, float32", *(f"drystone, {name}" for name in OPTIONS), "CTranslate2, float32", "CTranslate2, int8")


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


def made(name: str, tokens: int, threads: int) -> Run:
    engine, kind = name.split(", ")
    model, features = base(), torch.randn(1, 80, FRAMES, generator=torch.Generator().manual_seed(0))
    if engine == "CTranslate2":
        return in_ctranslate2(model, features, tokens, kind, threads)
    return generates(model if engine == "eager" else drystone.optimize(model, **OPTIONS[kind]), features, tokens)


def timed(name: str, tokens: int, threads: int) -> Callable[[], float]:
    """Of each run the seconds."""
    torch.set_num_threads(threads)
    run = made(name, tokens, threads)

    def seconds() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    console = Console()
    peers: dict[str, Peer] = {}
    for name in track(CONTENDERS, "preparing", transient=True):
        peer = Peer(timed, name, arguments.tokens, arguments.threads)
        try:
            peer()
        except Exception as error:  # of another library, or its absence
            peer.close()
            problem = f"{name}: {type(error).__name__}: {error}"
            if name.startswith("drystone"):
                raise SystemExit(problem) from None
            console.print(problem)
        else:
            peers[name] = peer
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in track(range(arguments.rounds), "measuring", transient=True):
        for name, peer in peers.items():
            times[name].append(peer())
    for peer in peers.values():
        peer.close()
    table = Table("", "seconds", "times real time")
    for name, found in times.items():
        table.add_row(name, f"{statistics.median(found):.2f}", f"{SECONDS / statistics.median(found):.1f}")
    console.print(table)
    if arguments.json:
        document = {"threads": arguments.threads, "tokens": arguments.tokens, "sound_seconds": SECONDS}
        document |= {"environment": environment(), "seconds": times}
        write_json(arguments.json, document)


if __name__ == "__main__":
    main()
