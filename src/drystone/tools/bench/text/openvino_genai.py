"""OpenVINO, by the package ``openvino-genai``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .peer import Engine, by_lengths


def open_openvino(path: Path, threads: int, rows: int, positions: int) -> Engine:
    """Of a GGUF file of any type but F32."""
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # each round has the same prompts
    pipeline = openvino_genai.LLMPipeline(str(path), "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads)

    def times(ids: Sequence[Sequence[int]], count: int) -> tuple[float, float]:
        prompts = np.array(ids, np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(prompts), openvino.Tensor(np.ones_like(prompts)))

        def generate(count: int) -> Any:
            return pipeline.generate(
                inputs, openvino_genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
            )

        def seconds(count: int) -> float:
            began = time.perf_counter()
            generate(count)
            return time.perf_counter() - began

        if rows > 1:  # what it tells of several is no time of a row
            return by_lengths(seconds, count)
        metrics = generate(count).perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3

    return times
