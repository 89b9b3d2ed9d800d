"""ONNX Runtime, by the package ``onnxruntime-genai`` and its exporter."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .peer import Engine

#: The exporter's types of weights, by drystone's.
KINDS = {"float32": "fp32", "int8": "int8", "int4": "int4"}


def export(model: Any, folder: Path, kind: str) -> Path:
    """Its model of a Llama of transformers: groups of 32 weights, and what they are multiplied by rounded to int8."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    source, exported = folder / "transformers", folder / "onnx"
    model.save_pretrained(source)
    words = {f"w{number}": number for number in range(model.config.vocab_size)}
    ends = {"unk_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), **ends).save_pretrained(source)
    how = ["-i", source, "-o", exported, "-c", folder / "cache", "-e", "cpu", "-p", kind]
    if kind != "fp32":
        how += ["--extra_options", "block_size=32", "accuracy_level=4"]
    made = subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", *map(str, how)], capture_output=True, text=True
    )
    if made.returncode:
        raise RuntimeError(f"onnxruntime-genai did not export the model: {made.stderr.strip()[-300:]}")
    return exported


def open_onnxruntime(path: Path, threads: int, rows: int, positions: int) -> Engine:
    """Of a folder that ``export`` wrote."""
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(path))
    config.overlay(f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {threads}}}}}}}}}')
    model = onnxruntime_genai.Model(config)

    def times(ids: Sequence[Sequence[int]], count: int) -> tuple[float, float]:
        length = len(ids[0]) + count
        params = onnxruntime_genai.GeneratorParams(model)
        params.set_search_options(min_length=length, max_length=length, do_sample=False, batch_size=rows)
        generator = onnxruntime_genai.Generator(model, params)
        began = time.perf_counter()
        generator.append_tokens(np.array(ids, np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(count - 1):
            generator.generate_next_token()
        return first - began, (time.perf_counter() - first) / (count - 1)

    return times
