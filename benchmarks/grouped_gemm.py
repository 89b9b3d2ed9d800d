"""Products with weights in groups of codes: how fast they read them, beside float32 and what memory gives.

    python benchmarks/grouped_gemm.py [threads]

Weights are cold: as many copies as caches do not hold take turns. The best tenth of the calls counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import torch

from drystone import native
from drystone.native import Gemm, GroupedStrips, TensorDesc

N = K = 2048
BYTES = 192 << 20
KINDS = {"float32": None, "int8, groups of 32": (8, 32), "int4, groups of 32": (4, 32), "int4, groups of 128": (4, 128)}


def rows(m: int, n: int) -> TensorDesc:
    return TensorDesc.dense(native.DTYPES[torch.float32], native.FORMATS["plain"], [m, n])


def seconds(m: int, kind: tuple[int, int] | None, threads: int) -> tuple[float, int]:
    """Of a product of m rows, and the bytes of its weights."""
    strips = kind and GroupedStrips(N, K, *kind, native.DTYPES[torch.float16])
    step = Gemm(rows(m, K), N, False, rows(m, N), [], groups=strips)
    size = (strips or step).packed_bytes
    x, out = torch.randn(m, K), torch.empty(m, N)
    weights = torch.zeros(max(BYTES // size, 4), -(-size // 64) * 64, dtype=torch.uint8)

    def frames() -> Iterator[native.Frame]:
        for weight in weights:
            program = native.Program()
            program.add(step, [0, 1, 2])
            scratch = torch.empty(max(program.scratchpad_bytes, 1), dtype=torch.uint8)
            held.append((program, scratch))
            slots = [x.data_ptr(), weight.data_ptr(), out.data_ptr()]
            yield native.Frame(program, slots, [], scratch.data_ptr(), threads)

    held: list[object] = []
    made, times = list(frames()), []
    for _ in range(5):
        for frame in made:
            start = time.perf_counter()
            frame.run(0, 1)
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 10], size


def read_rate() -> float:
    """Bytes a second."""
    data = torch.zeros(BYTES // 4)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        data.sum()
        times.append(time.perf_counter() - start)
    return data.nbytes / min(times)


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads()
    torch.set_num_threads(threads)
    native.set_threads(threads)
    limit = read_rate()
    print(f"{threads} threads, {native.isa()}, memory is read at {limit / 1e9:.1f} GB/s")
    for m in (1, 2, 4, 8, 16, 128):
        for name, kind in KINDS.items():
            took, size = seconds(m, kind, threads)
            share = f"{size / took / limit:.0%} of the read limit, " if m == 1 else ""
            print(f"{m:4} rows, {name:20} {took * 1e6:8.0f} us, {share}{2 * m * N * K / took / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
