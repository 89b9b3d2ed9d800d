"""A Llama of transformers in llama.cpp: the same weights written as GGUF, and its own times of prefill and decode.

Needs the packages ``gguf`` and ``xllamacpp``.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# llama.cpp's types of weights, by drystone's.
KINDS = {"float32": "F32", "bfloat16": "F16", "int8": "Q8_0", "int4": "Q4_0"}


def write(model: Any, path: Path, kind: str) -> None:
    """Matrices as ``kind`` (F32, F16, Q8_0, Q4_0), the rest as float32; a vocabulary of words that only numbers tell apart."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"▁{number}" for number in range(3, config.vocab_size))])
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_token_types([2, 3, 3, *[1] * (config.vocab_size - 3)])
    quantised = gguf.GGMLQuantizationType[kind]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        data = tensor.detach().float()
        for part, count in (("q_proj", heads), ("k_proj", key_heads)):
            if part in name:  # llama.cpp turns neighbours, transformers halves
                data = data.reshape(count, 2, -1, data.shape[1]).transpose(1, 2).reshape(data.shape)
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target is not None, name
        array = data.contiguous().numpy()
        if data.dim() == 2:
            writer.add_tensor(target, gguf.quants.quantize(array, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(target, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """In a process of its own, as its threads wait by spinning."""

    def __init__(self, path: Path, threads: int, positions: int) -> None:
        self._process = ProcessPoolExecutor(1, get_context("spawn"), _open, (str(path), threads, positions))

    def times(self, ids: list[int], count: int) -> tuple[float, float]:
        """Seconds of the prompt, and of a token after it, as llama.cpp times them."""
        return self._process.submit(_times, ids, count).result()

    def close(self) -> None:
        self._process.shutdown()


_server: Any = None


def _open(path: str, threads: int, positions: int) -> None:
    global _server
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # it tells of each text
        os.dup2(silent, stream)
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_ctx, params.n_parallel, params.warmup = positions, 1, True
    _server = xllamacpp.Server(params)


def _times(ids: list[int], count: int) -> tuple[float, float]:
    asked = {"prompt": ids, "n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    answer = _server.handle_completions(asked)
    timings = (json.loads(answer) if isinstance(answer, str) else answer)["timings"]
    return timings["prompt_ms"] / 1e3, timings["predicted_per_token_ms"] / 1e3
