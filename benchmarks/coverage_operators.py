"""torch's own samples of every operator that the graph builder knows, through ``drystone.optimize``: what becomes of each.

    python benchmarks/coverage_operators.py                  # all: benchmarks/results/coverage_operators.json, docs/coverage.md
    python benchmarks/coverage_operators.py --only conv2d    # operators of OpInfo with this in their name; prints, writes nothing

The samples are those of torch.testing's OpInfo (which needs the package expecttest). Each is a module whose tensors are inputs;
where an operator has weights, it is tried a second time with those as buffers, as in a model.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import coverage_report
import isolated
import torch
import typer
from rich.console import Console
from torch import nn
from torch.utils import _pytree as pytree
from verdict import judge

import drystone
from drystone.capture.export import Captured, capture
from drystone.errors import DrystoneError
from drystone.graph.builders.registry import table
from drystone.graph.traced import functional
from drystone.sources import whole
from drystone.tools.bench.environment import environment
from drystone.tools.bench.progress import progress_bar
from drystone.tools.bench.worker import shorten

RESULTS = coverage_report.RESULTS / "coverage_operators.json"
OPINFO = "torch.testing._internal.common_methods_invocations"
SECONDS = 60.0  # for a sample
SCREENED = 2  # samples without a known operator, after which the others are not looked at
BAD = ("wrong", "crash")
GPU_ONLY = "jiterator_"
UNINITIALISED = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"}
# The tensor that stays an input where the others are weights; matrix products have theirs on the right.
WEIGHTED = ("nn.functional.conv", "nn.functional.linear", "nn.functional.prelu", "native_batch_norm", "native_layer_norm")
INPUT_OF = {"mm": 0, "matmul": 0, "addmm": 1, "nn.functional.instance_norm": 0, "nn.functional.batch_norm": 0} | {
    f"nn.functional.{kind}_norm": 0 for kind in ("layer", "group", "rms")
}


class NotOurs(Exception):
    """The sample holds no operator of the table, or its result is not determined."""


class Sample(nn.Module):
    """``function(*args, **kwargs)`` as a module. Its inputs are those of the tensors that are at ``inputs`` (None: all of them)."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[int] | None) -> None:
        super().__init__()
        self.function = function
        leaves, self.spec = pytree.tree_flatten((args, kwargs))
        tensors = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self.places = tensors if inputs is None else [tensors[i] for i in inputs]
        self.example = tuple(leaves[place].detach() for place in self.places)
        self.fixed = {place: leaf for place, leaf in enumerate(leaves) if place not in self.places}
        for place, leaf in self.fixed.items():
            if isinstance(leaf, torch.Tensor):
                self.register_buffer(f"weight{place}", leaf.detach())

    def forward(self, *tensors: torch.Tensor) -> Any:
        leaves: list[Any] = [None] * self.spec.num_leaves
        for place, leaf in self.fixed.items():
            leaves[place] = getattr(self, f"weight{place}") if isinstance(leaf, torch.Tensor) else leaf
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.function(*args, **kwargs)


def entry(target: Any) -> str | None:
    """The table's name for an operator of a graph, or None."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if target._schema.is_mutable:
        target = functional(target) or target
    name = target._schema.name.removeprefix("aten::")
    return next((key for key in (f"{name}.{target._overloadname}", name) if key in table), None)


class Recorder:
    """Takes the place of the conductor's capture and keeps which of the table's operators the program has, and where."""

    def __init__(self) -> None:
        self.operators: dict[str, str] = {}  # node → the table's name

    def __call__(self, model: nn.Module, args: Any, kwargs: Any = None, dynamic_shapes: Any = None) -> Captured:
        captured = capture(model, args, kwargs, dynamic_shapes)
        nodes = [node for node in captured.program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
        names = {node.target._schema.name.removeprefix("aten::") for node in nodes}
        seeded = any(torch.Tag.nondeterministic_seeded in node.target.tags for node in nodes)
        self.operators = {node.name: key for node in nodes if (key := entry(node.target))}
        if seeded or names & UNINITIALISED or not self.operators:
            raise NotOurs
        return captured


def in_float64(leaf: Any) -> Any:
    """Floating tensors, and dtypes among the arguments, as float64."""
    if isinstance(leaf, torch.Tensor):
        return leaf.double() if leaf.is_floating_point() else leaf
    return torch.float64 if leaf in (torch.float32, torch.bfloat16) else leaf


def evaluate(info: Any, sample: Any, inputs: list[int] | None) -> dict[str, Any]:
    """What becomes of one sample. Raises ``NotOurs``."""
    args, kwargs = (sample.input, *sample.args), sample.kwargs
    module = Sample(info.op, args, kwargs, inputs).eval()
    if not module.example:
        raise NotOurs
    with torch.no_grad():
        try:
            eager = module(*(tensor.clone() for tensor in module.example))
        except RuntimeError as error:
            raise NotOurs from error  # it reads more of a storage than the tensor shows
        try:
            double_args, double_kwargs = pytree.tree_map(in_float64, (args, kwargs))
            exact = info.op(*double_args, **double_kwargs)
        except (RuntimeError, NotImplementedError):
            exact = None  # the operator has no float64
    recorder = whole.capture_module = Recorder()
    row: dict[str, Any] = {"form": "inputs" if inputs is None else "weights", "call": described(args, kwargs)}
    try:
        fast = drystone.optimize(module, module.example, tuning="estimate")
        result, again = fast(*module.example), fast(*module.example)
    except DrystoneError as error:
        name = info.aten_name
        operators = set(recorder.operators.values()) or ({name} if name in table else set())
        if not operators:
            raise NotOurs from error
        return row | {"status": "not captured", "operators": sorted(operators), "reason": shorten(str(error).split("\n")[0])}
    except Exception as error:
        if isinstance(error, NotOurs):
            raise
        operators = set(recorder.operators.values())
        return row | {"status": "crash", "operators": sorted(operators), "reason": shorten(f"{type(error).__name__}: {error}")}
    segments: dict[str, str] = {}
    for step in fast.explain().segments:
        of_table = recorder.operators.get(step.name.split(".")[0])
        if of_table:
            segments[of_table] = step.reason
    error, fault = judge(result, eager, exact)
    if fault is None and not same_numbers(result, again):
        fault = "two calls with the same inputs differ"
    row |= {"operators": sorted(set(recorder.operators.values())), "segments": segments, "error": error}
    return row | ({"status": "wrong", "reason": fault} if fault else {"status": "computed"})


def same_numbers(one: Any, two: Any) -> bool:
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(two), strict=True)
    return all(not isinstance(a, torch.Tensor) or torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def described(args: Any, kwargs: Any) -> str:
    """The call with shapes for tensors, to try it again by hand."""

    def shown(leaf: Any) -> Any:
        return f"{str(leaf.dtype)[6:]}{list(leaf.shape)}" if isinstance(leaf, torch.Tensor) else leaf

    args, kwargs = pytree.tree_map(shown, (args, kwargs))
    return shorten(", ".join([*map(str, args), *(f"{name}={value}" for name, value in kwargs.items())]))


def spread(items: list[Any], count: int) -> list[Any]:
    """At most ``count`` of the items, evenly over the list."""
    return items if len(items) <= count else [items[i * len(items) // count] for i in range(count)]


def forms(name: str, sample: Any) -> Iterator[list[int] | None]:
    """The forms in which to try a sample: all tensors as inputs; only the one that is not a weight."""
    yield None
    tensors = [leaf for leaf in pytree.tree_leaves(((sample.input, *sample.args), sample.kwargs)) if isinstance(leaf, torch.Tensor)]
    place = 0 if name.startswith(WEIGHTED) else INPUT_OF.get(name)
    if place is not None and len(tensors) > place + (place == 0):
        yield [place]


def try_samples(send: isolated.Send, name: str, variant: str, dtype: torch.dtype, limit: int, first: int) -> None:
    """In a process of its own: sends ``("begin", index)`` before each sample and ``("row", row)`` after it."""
    from torch.testing._internal.common_methods_invocations import op_db

    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    info = next(info for info in op_db if (info.name, info.variant_test_name) == (name, variant))
    with torch.no_grad():
        samples = spread(list(info.sample_inputs("cpu", dtype)), limit)
    ours = first
    for index, sample in list(enumerate(samples))[first:]:
        if index - first >= SCREENED and not ours:
            return
        for form in forms(name, sample):
            send(("begin", index))
            try:
                row = evaluate(info, sample, form)
            except NotOurs:
                continue
            ours += 1
            send(("row", row))


def dtypes_of(info: Any) -> list[torch.dtype]:
    floats = [dtype for dtype in (torch.float32, torch.bfloat16) if dtype in info.dtypes]
    return floats or [dtype for dtype in (torch.int64,) if dtype in info.dtypes]


def results(task: tuple[str, str, list[torch.dtype]], samples: int) -> list[dict[str, Any]]:
    """All rows of one operator of OpInfo. Where the first dtype shows no operator of the table, the others would not either."""
    name, variant, dtypes = task
    rows: list[dict[str, Any]] = []
    for dtype in dtypes:
        found = results_in(name, variant, dtype, samples)
        rows += found
        if not found:
            break
    return rows


def results_in(name: str, variant: str, dtype: torch.dtype, samples: int) -> list[dict[str, Any]]:
    """The rows of one dtype; what ends the process is a row too, and the rest goes on in another."""
    known = {"opinfo": f"{name}.{variant}" if variant else name, "dtype": str(dtype).removeprefix("torch.")}
    rows: list[dict[str, Any]] = []
    first = 0
    while True:
        messages, ended = isolated.run(try_samples, name, variant, dtype, samples, first, seconds=SECONDS)
        rows += [known | content for kind, content in messages if kind == "row"]
        if ended is None:
            return rows
        begun = [content for kind, content in messages if kind == "begin"]
        rows.append(known | {"status": "crash", "operators": [name], "reason": ended, "sample": begun[-1] if begun else None})
        if not begun:
            return rows
        first = begun[-1] + 1


def main(
    samples: int = typer.Option(12, help="samples of an operator and dtype, at most"),
    jobs: int = typer.Option(2, help="processes at once"),
    only: str = typer.Option("", help="operators of OpInfo with this in their name"),
) -> None:
    """1 where a result is wrong or a process crashed."""
    from torch.testing._internal.common_methods_invocations import op_db

    isolated.preload(OPINFO, "drystone.conductor", "torch.export._trace", "torch._functorch.partitioners", "networkx")
    tasks = [
        (info.name, info.variant_test_name, dtypes_of(info))
        for info in op_db
        if only in info.name and not info.name.startswith(GPU_ONLY)
    ]
    console = Console(width=None if sys.stdout.isatty() else 150)
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(jobs) as pool, progress_bar(len(tasks), console) as announce:
        for task, found in zip(tasks, pool.map(partial(results, samples=samples), tasks), strict=True):
            announce(task[0])
            rows += found
            for row in found:
                if row["status"] in BAD or (only and row["status"] != "computed"):
                    where = f"{row['opinfo']} {row['dtype']} ({row.get('call', '')})"
                    console.print(f"{row['status']}: {where}: {row['reason']}", markup=False, highlight=False)
    counts = Counter(row["status"] for row in rows)
    console.print(f"{len(rows)} samples: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if not only:
        coverage_report.write(RESULTS, {"environment": environment(), "samples": samples, "table": sorted(table), "rows": rows})
        coverage_report.render()
    raise typer.Exit(1 if any(counts[status] for status in BAD) else 0)


if __name__ == "__main__":
    typer.run(main)
