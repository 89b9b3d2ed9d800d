"""llama.cpp, by the package ``xllamacpp``. It rounds what weights of 8 and 4 bits are multiplied by to int8."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from .peer import Engine, by_lengths


def open_llama_cpp(path: Path, threads: int, rows: int, positions: int) -> Engine:
    """Of a GGUF file; rows are clients of its server at the same time."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_ctx, params.n_parallel, params.warmup = rows * positions, rows, True
    server = xllamacpp.Server(params)
    clients = ThreadPoolExecutor(rows)

    def complete(ids: Sequence[int], count: int) -> dict[str, float]:
        """As llama.cpp times it."""
        asked = {"prompt": list(ids), "n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(asked)
        found: dict[str, Any] = json.loads(answer) if isinstance(answer, str) else answer
        return found["timings"]  # type: ignore[no-any-return]

    def seconds(ids: Sequence[Sequence[int]], count: int) -> float:
        began = time.perf_counter()
        list(clients.map(complete, ids, [count] * rows))
        return time.perf_counter() - began

    def times(ids: Sequence[Sequence[int]], count: int) -> tuple[float, float]:
        if rows == 1:
            timings = complete(ids[0], count)
            return timings["prompt_ms"] / 1e3, timings["predicted_per_token_ms"] / 1e3
        return by_lengths(partial(seconds, ids), count)

    return times
