"""The attention kernel against torch's ``scaled_dot_product_attention``, by length: BERT-base's 12 heads of 64, batch 1.

    python benchmarks/ops_attention.py --json results/attention.json

Operands lie as (B, T, H, D), as linears leave them. The two run in turn, in bursts; a round gives one ratio, and the median of the
rounds counts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from drystone import native
from drystone.tools.bench.environment import environment

LENGTHS = (64, 128, 256, 512, 1024, 2048)
HEADS, SIZE = 12, 64
ROUNDS, BURST_SECONDS = 12, 0.02


def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> Callable[[], torch.Tensor]:
    """A call of the native step alone on operands of shape (B, T, H, D), with nothing of a program around it."""
    result = torch.empty_like(q)
    tensors = [q, k, v, result]
    descs = [native.TensorDesc.dense(native.DTYPES[x.dtype], native.FORMATS["plain"], list(x.shape)) for x in tensors]
    step = native.attention(*descs[:3], None, descs[3], (False,) * 4, 1 / math.sqrt(SIZE), causal, False)
    program = native.Program()
    program.add(step, [0, 1, 2, 3])
    scratchpad = native.allocate(program.scratchpad_bytes)
    frame = native.Frame(program, [x.data_ptr() for x in tensors], [], scratchpad.data_ptr(), torch.get_num_threads())

    def call(keep: Any = (tensors, scratchpad)) -> torch.Tensor:
        frame.run(0, 1)
        return result

    return call


def burst(call: Callable[[], Any], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def measure(length: int, dtype: torch.dtype, causal: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, length, HEADS, SIZE).to(dtype) for _ in range(3))
    first = [x.transpose(1, 2) for x in (q, k, v)]
    ours = kernel(q, k, v, causal)

    def theirs() -> torch.Tensor:
        return F.scaled_dot_product_attention(*first, is_causal=causal)

    exact = F.scaled_dot_product_attention(*(x.double() for x in first), is_causal=causal)
    errors = [((y.double() - exact).norm() / exact.norm()).item() for y in (ours().transpose(1, 2), theirs())]
    calls = max(1, int(BURST_SECONDS / max(burst(ours, 2), 1e-6)))
    rounds = [(burst(ours, calls), burst(theirs, calls)) for _ in range(ROUNDS)]
    return {
        "length": length,
        "dtype": str(dtype).removeprefix("torch."),
        "causal": causal,
        "ratio": statistics.median(b / a for a, b in rounds),
        "microseconds": 1e6 * statistics.median(a for a, _ in rounds),
        "torch_microseconds": 1e6 * statistics.median(b for _, b in rounds),
        "error": errors[0],
        "torch_error": errors[1],
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the measurements and their environment to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    native.set_threads(arguments.threads)
    results = []
    print("dtype     length  causal  ratio      µs   torch")
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            for length in LENGTHS:
                for causal in (False, True):
                    r = measure(length, dtype, causal)
                    results.append(r)
                    times = f"{r['microseconds']:7.0f} {r['torch_microseconds']:7.0f}"
                    print(f"{r['dtype']:9} {length:6} {'yes' if causal else 'no':>7} {r['ratio']:6.2f} {times}", flush=True)
    if arguments.json:
        facts = environment() | {"threads": arguments.threads, "isa": native.isa()}
        arguments.json.write_text(json.dumps({"environment": facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
