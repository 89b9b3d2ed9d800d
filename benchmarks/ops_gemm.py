"""Linear layers with cold weights: drystone's GEMM beside oneDNN's matmul and torch's linear.

    python benchmarks/ops_gemm.py --json build/gemm.json [--rows 1 128] [--dtype bfloat16] [--shapes bert-base]

Every call reads another copy of the weights, all of which together are four times as large as the last level cache. The
contenders take turns; a ratio is the median over the rounds of the ratio within a round. Limits are those of the same run:
the fastest product of matrices that stay in the caches, and the rate at which a large tensor is read. With one thread,
processor time is measured: it is disturbed least by what else the machine does.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from drystone import native
from drystone.tools.bench.environment import environment
from drystone.tools.bench.results import geometric_mean

# name: (N, K) of its linear layers.
SHAPES = {
    "bert-base": [(768, 768), (2304, 768), (3072, 768), (768, 3072)],
    "bert-large": [(1024, 1024), (4096, 1024), (1024, 4096)],
    "llama-7b": [(4096, 4096), (11008, 4096), (4096, 11008)],
    "odd": [(1000, 2048), (333, 1217)],
}
ROWS = [1, 4, 16, 64, 128, 512, 2048]
ODD_ROWS = 197  # with BERT-base's shapes: the patches of a ViT
COLD_BYTES = 4 * (32 << 20)
CONTENDERS = ("drystone", "onednn", "torch")
SECONDS = 0.06  # a contender and round
MOST_ROUNDS = 9

Call = Callable[[int], None]  # with copy i of the weights


@dataclass
class Row:
    """One layer: microseconds a call, a list of rounds for each contender."""

    dtype: str
    m: int
    n: int
    k: int
    microseconds: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, contender: str) -> float:
        own, other = self.microseconds["drystone"], self.microseconds[contender]
        return statistics.median(b / a for a, b in zip(own, other, strict=True))

    @property
    def against_best(self) -> float:
        return min(self.ratio(name) for name in CONTENDERS[1:])

    def gflops(self, contender: str) -> float:
        return 2e-3 * self.m * self.n * self.k / statistics.median(self.microseconds[contender])

    def weight_gigabytes(self, contender: str) -> float:
        size = 4 if self.dtype == "float32" else 2
        return 1e-3 * self.n * self.k * size / statistics.median(self.microseconds[contender])


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def matrix(dtype: torch.dtype, rows: int, columns: int) -> native.TensorDesc:
    return native.TensorDesc.dense(native.DTYPES[dtype], native.FORMATS["plain"], [rows, columns])


def step_call(step: native.Gemm | native.Linear, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, copies: int) -> Call:
    """The step on ``copies`` packed weights, one frame each."""
    packed = [native.allocate(step.packed_bytes) for _ in range(copies)]
    step.pack(native.DTYPES[weight.dtype], weight.data_ptr(), packed[0].data_ptr())
    for memory in packed[1:]:
        memory.copy_(packed[0])
    y = torch.empty(len(x), len(weight), dtype=x.dtype)
    program = native.Program()
    program.add(step, [0, 1, 2, 3])
    scratchpad = native.allocate(max(program.scratchpad_bytes, 64))
    frames = [
        native.Frame(
            program,
            [t.data_ptr() for t in (x, memory, bias, y)],
            [],
            scratchpad.data_ptr(),
            torch.get_num_threads(),
        )
        for memory in packed
    ]
    kept = (packed, x, bias, y, scratchpad)

    def call(i: int) -> None:
        assert kept
        frames[i].run(0, 1)

    return call


def contenders(m: int, n: int, k: int, dtype: torch.dtype, copies: int) -> dict[str, Call]:
    x, weight, bias = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype), torch.randn(n)
    own = native.Gemm(matrix(dtype, m, k), n, True, matrix(dtype, m, n), [])
    onednn = native.Linear(False, native.DTYPES[dtype], m, k, n, True, native.DTYPES[dtype], [])
    plain = [weight.clone() for _ in range(copies)]
    plain_bias = bias.to(dtype)

    def call(i: int) -> None:
        F.linear(x, plain[i], plain_bias)

    return {
        "drystone": step_call(own, x, weight, bias, copies),
        "onednn": step_call(onednn, x, weight, bias, copies),
        "torch": call,
    }


def measure(m: int, n: int, k: int, dtype: torch.dtype, names: tuple[str, ...] = CONTENDERS) -> Row:
    row = Row(str(dtype).removeprefix("torch."), m, n, k, {name: [] for name in names})
    copies = max(2, math.ceil(COLD_BYTES / (n * k * dtype.itemsize)))
    calls = {name: call for name, call in contenders(m, n, k, dtype, copies).items() if name in names}
    turn = 0
    for call in calls.values():
        call(0)
    begin = clock()
    while turn < MOST_ROUNDS and (turn < 3 or clock() - begin < len(calls) * SECONDS * 4):
        for name, call in calls.items():
            start = clock()
            done = 0
            while done < copies and clock() - start < SECONDS:
                call((turn * copies // 3 + done) % copies)
                done += 1
            row.microseconds[name].append((clock() - start) / done * 1e6)
        turn += 1
    return row


def best_seconds(call: Callable[[], object], times: int = 20) -> float:
    found = []
    for _ in range(times):
        start = clock()
        call()
        found.append(clock() - start)
    return min(found)


def limits() -> dict[str, float]:
    """GFLOP/s of the fastest product of hot matrices, by dtype, and GB/s of reading; measured at both ends of a run."""
    found: dict[str, float] = {}
    side = 512
    for dtype in (torch.float32, torch.bfloat16):
        fastest = math.inf
        for call in contenders(side, side, side, dtype, 1).values():
            fastest = min(fastest, best_seconds(lambda call=call: call(0), 200))
        found[str(dtype).removeprefix("torch.")] = 2e-9 * side**3 / fastest
    large = torch.ones(64 << 20)
    found["read"] = large.nbytes * 1e-9 / best_seconds(large.sum)
    return found


def summary(rows: list[Row]) -> dict[str, float]:
    """Geometric means of the time of the better of oneDNN and torch over drystone's, by dtype and number of rows."""
    means = {}
    for dtype in ("float32", "bfloat16"):
        for name, few in (("M <= 128", True), ("M > 128", False)):
            mean = geometric_mean(row.against_best for row in rows if row.dtype == dtype and (row.m <= 128) == few)
            if mean:
                means[f"{dtype}, {name}"] = mean
        for m in sorted({row.m for row in rows if row.dtype == dtype}):
            mean = geometric_mean(row.against_best for row in rows if row.dtype == dtype and row.m == m)
            if mean:
                means[f"{dtype}, M = {m}"] = mean
    return means


def line(row: Row, limit: dict[str, float]) -> str:
    times = "  ".join(f"{statistics.median(row.microseconds[name]):9.1f}" for name in CONTENDERS)
    ratios = "  ".join(f"{row.ratio(name):5.2f}" for name in CONTENDERS[1:])
    arithmetic = row.gflops("drystone") / limit[row.dtype]
    reading = row.weight_gigabytes("drystone") / limit["read"]
    return f"{row.dtype:8} {row.m:5} {row.n:6} {row.k:6}  {ratios}   {times}   {arithmetic:4.0%} {reading:4.0%}"


def cases(names: list[str], rows: list[int]) -> list[tuple[int, int, int]]:
    found = [(m, n, k) for name in names for n, k in SHAPES[name] for m in rows]
    if "odd" in names:
        found += [(ODD_ROWS, n, k) for n, k in SHAPES["bert-base"]]
    return found


def plot(rows: list[Row], target: Path) -> None:
    """How many times as fast as the better of the two others each layer runs, over its number of rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for dtype, colour in (("float32", "#2b6ca3"), ("bfloat16", "#c0392b")):
        some = [row for row in rows if row.dtype == dtype]
        axes.plot([row.m for row in some], [row.against_best for row in some], ".", color=colour, alpha=0.4)
        counts = sorted({row.m for row in some})
        means = [geometric_mean(row.against_best for row in some if row.m == m) for m in counts]
        axes.plot(counts, means, color=colour, label=f"{dtype}, geometric mean")
    axes.axhline(1.0, color="#333333", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("rows")
    axes.set_ylabel("times as fast as the better of oneDNN and torch")
    axes.legend(frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    native.set_threads(chosen.threads)
    limit = limits()
    print("limits:", ", ".join(f"{name} {value:.0f}" for name, value in limit.items()), "(GFLOP/s, GFLOP/s, GB/s)")
    print("dtype        M      N      K   1dnn  torch     drystone     onednn      torch  FLOP read")
    rows = []
    with torch.inference_mode():
        for dtype in chosen.dtype:
            for m, n, k in cases(chosen.shapes, chosen.rows):
                rows.append(measure(m, n, k, getattr(torch, dtype)))
                print(line(rows[-1], limit), flush=True)
    limit = {name: max(value, limit[name]) for name, value in limits().items()}
    means = summary(rows)
    for name, mean in means.items():
        print(f"{name:24} {mean:5.2f}")
    if chosen.json:
        data = {
            "date": datetime.date.today().isoformat(),
            "environment": environment(),
            "threads": chosen.threads,
            "limits": limit,
            "better_of_onednn_and_torch_over_drystone": means,
            "rows": [asdict(row) for row in rows],
        }
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(data, indent=1) + "\n")
    if chosen.plot:
        plot(rows, chosen.plot)


if __name__ == "__main__":
    main()
