"""The measurement: contenders in one process, other engines each in its own; they are prepared, then timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from ...ops.limits import reading
from ..worker import shorten
from .contenders import CONTENDERS, Contender, Lengths, read_bytes


def measure(
    model: Any,
    weights: str,
    ids: torch.Tensor,
    lengths: Lengths,
    contenders: Sequence[str],
    rounds: int,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Medians of ``rounds``, of prompts ``ids`` (rows, prompt).

    ``limit_milliseconds``: reading the weights once, at the rate that the rounds measured too. ``failed``: contenders and their
    reasons. ``announce`` is told what comes next, once a contender and once a round.
    """
    threads = torch.get_num_threads()
    running: dict[str, Contender] = {}
    prepared: dict[str, float] = {}
    failed: dict[str, str] = {}
    taken: dict[str, list[tuple[float, float]]] = {}
    read, rates = reading(), []
    with ExitStack() as stack:
        for name in contenders:
            announce(f"preparing {name}")
            began = time.perf_counter()
            try:
                running[name] = CONTENDERS[name](model, weights, lengths, threads, stack)
                prepared[name] = time.perf_counter() - began
                running[name].times(ids)  # makes programs
            except Exception as error:
                running.pop(name, None)
                failed[name] = shorten(f"{type(error).__name__}: {error}")
        for number in range(rounds):
            announce(f"round {number + 1} of {rounds}")
            rates.append(read())
            for name, contender in running.items():
                taken.setdefault(name, []).append(contender.times(ids))
    found = {}
    for name, each in taken.items():
        prefill, token = (statistics.median(column) for column in zip(*each, strict=True))
        found[name] = {
            "prefill_tokens_a_second": ids.numel() / prefill,
            "milliseconds_a_token": 1e3 * token,
            "prepared_seconds": prepared[name],
            **running[name].figures,
            "rounds": [[round(1e3 * first, 3), round(1e3 * one, 4)] for first, one in each],
        }
    rate = statistics.median(rates)
    limit = 1e-6 * read_bytes(model, weights) / rate
    return {"contenders": found, "failed": failed, "limit_milliseconds": limit, "read_gigabytes_a_second": rate}
