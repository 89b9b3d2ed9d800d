"""Loading takes work in proportion to the document, whichever of its lists is long; none is without bounds."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import drystone
from artefacts import change, read, write
from drystone.artefact import document, folder, weights
from drystone.plan import arena
from drystone.plan.choose import Limits, choose

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen")

Document = tuple[Any, Any]  # program.json and plan.json


def node(op: str, inputs: list[int], shape: list[int], **attributes: Any) -> dict[str, Any]:
    if op == "reshape":
        attributes["sizes"] = shape
    read = [["value", index] for index in inputs]
    return {
        "name": op,
        "op": op,
        "attributes": attributes,
        "epilogue": [],
        "inputs": read,
        "outputs": [["", "float32", shape, None]],
    }


def written(nodes: list[Any], outputs: list[int], inputs: list[list[int]] | None = None) -> Document:
    inputs = inputs or [[2, 3]]
    call = {
        "structure": {"tuple": [{"tuple": [None] * len(inputs)}, {"dict": []}]},
        "leaves": [{"name": "x", "tensor": True}] * len(inputs),
        "parameters": [["x", "VAR_POSITIONAL"]],
    }
    graph = {
        "inputs": [["x", "float32", shape, None] for shape in inputs],
        "nodes": nodes,
        "outputs": [["value", index] for index in outputs],
    }
    result = {"structure": {"tuple": [None] * len(outputs)}, "leaves": [{"output": i} for i in range(len(outputs))]}
    program = {
        "call": call,
        "varying": [[]] * len(inputs),
        "batch": [],
        "strict_accuracy": False,
        "format": None,
        "programs": [{"graph": graph, "result": result}],
        "constants": [],
    }
    seconds = {"nodes": [[]] * len(nodes), "reorders": []}
    return program, {"environment": {}, "choices": [], "seconds": seconds}


def load(path: Path, given: Document) -> None:
    program, plan = given

    def weights(file: Path) -> Any:
        file.write_bytes((8).to_bytes(8, "little") + b"{}".ljust(8))
        return program

    folder.write(path, weights, plan)
    drystone.load(path)


# -- documents of n entries ----------------------------------------------------------------------------------------------

SHAPE = [2, 3]
MAP = [1, 16, 4, 4]
RELU = ["relu", [["in", 0]], 0, 0]
ADD = ["add", [["in", 0], ["in", 1]], 0, 0]


def chain(op: str, shapes: list[list[int]], **attributes: Any) -> Callable[[int], Document]:
    return lambda n: written([node(op, [i], shapes[i % len(shapes)], **attributes) for i in range(n)], [n])


def pool(x: int) -> dict[str, Any]:
    windows = [[[i, i + 1, 1] for i in range(4)]] * 2
    return node("pool", [x], MAP, kind="max", windows=windows, divisors=None, divisor_override=None)


def live_at_once(n: int) -> Document:
    nodes = [node("softmax", [0], SHAPE, dim=1) for _ in range(n)]
    nodes += [node("pointwise", [n + i if i else 1, i + 2], SHAPE, ops=[ADD]) for i in range(n - 1)]
    return written(nodes, [len(nodes)])


def parts_of_a_cat(n: int) -> Document:
    nodes = [node("softmax", [0], SHAPE, dim=1) for _ in range(n)]
    return written([*nodes, node("cat", list(range(1, n + 1)), [2, 3 * n], dim=1)], [n + 1])


def braid(n: int) -> Document:
    """No variable of its choice of formats has few neighbours."""
    three = [ADD, ["add", [["reg", 0], ["in", 2]], 0, 0]]
    return written([node("pointwise", [i, max(0, i - 1), max(0, i - 2)], MAP, ops=three) for i in range(n)], [n], [MAP])


def with_result(structure: Callable[[int], Any], leaves: bool = True) -> Callable[[int], Document]:
    def make(n: int) -> Document:
        program, plan = written([node("softmax", [0], SHAPE, dim=1)], [1])
        program["programs"][0]["result"] = {"structure": structure(n), "leaves": [{"output": 0}] * (n if leaves else 0)}
        return program, plan

    return make


def changed(how: Callable[[Any, Any, int], object]) -> Callable[[int], Document]:
    def make(n: int) -> Document:
        program, plan = written([node("softmax", [0], SHAPE, dim=1)], [1])
        how(program, plan, n)
        return program, plan

    return make


def with_keywords(program: Any, plan: Any, n: int) -> None:
    program["call"]["structure"] = {"tuple": [{"tuple": [None]}, {"dict": [[f"k{i}", None] for i in range(n)]}]}
    program["call"]["leaves"] += [{"name": "k", "constant": 1}] * n


def aten(target: str, args: list[Any], inputs: list[int], outputs: list[Any]) -> dict[str, Any]:
    read = [["value", index] for index in inputs]
    common = {"name": "", "op": "aten", "inputs": read, "outputs": outputs}
    return common | {"target": target, "args": args, "kwargs": {}, "reason": ""}


DOCUMENTS: dict[str, Callable[[int], Document]] = {
    "operands of a cat": lambda n: written([node("cat", [0] * n, [2, 3 * n], dim=1)], [1]),
    "parts of a cat": parts_of_a_cat,
    "cats in cats": lambda n: written([node("cat", [i, 0], [2, 3 * (i + 2)], dim=1) for i in range(n)], [n]),
    "a chain": chain("softmax", [SHAPE], dim=1),
    "a chain that overwrites its operand": chain("pointwise", [SHAPE], ops=[RELU]),
    "a chain of slices": chain("slice", [SHAPE], dim=1, start=0, length=3, step=1),
    "a chain of permutes": chain("permute", [[3, 2], [2, 3]], dims=[1, 0]),
    "a chain of reshapes": chain("reshape", [[3, 2], [2, 3]]),
    "a tree of reshapes": lambda n: written([node("reshape", [i // 2], SHAPE) for i in range(n)], [n]),
    "readers of one value": lambda n: written([pool(0), *(pool(1) for _ in range(n))], list(range(2, n + 2)), [MAP]),
    "values that live at once": live_at_once,
    "a braid": braid,
    "instructions": lambda n: written([node("pointwise", [0], SHAPE, ops=[RELU, *[["add", [["reg", i], ["in", 0]], 0, 0] for i in range(n)]])], [1]),
    "operands of a pointwise": lambda n: written([node("pointwise", [0] * n, SHAPE, ops=[RELU])], [1]),
    "windows": lambda n: written(
        [node("pool", [0], [1, 1, n], kind="avg", windows=[[[0, n, 1]] * n], divisors=[[1] * n], divisor_override=None)], [1], [[1, 1, n]]
    ),
    "indices": lambda n: written([node("take", [0], [2, n], dims=[1], indices=[[0] * n])], [1]),
    "inputs": lambda n: written([node("softmax", [0], SHAPE, dim=1)], [n], [SHAPE] * n),
    "outputs": lambda n: written([node("softmax", [0], SHAPE, dim=1)], [1] * n),
    "a result's keys": with_result(lambda n: {"dict": [[f"k{i}", None] for i in range(n)]}),
    "a result's fields": with_result(lambda n: {"fields": ["x", [f"k{i}" for i in range(n)], [None] * n]}),
    "a result's empty lists": with_result(lambda n: {"tuple": [{"list": []}] * n}, leaves=False),
    "parameters": changed(lambda program, plan, n: program["call"].update(parameters=[[f"p{i}", "KEYWORD_ONLY"] for i in range(n)])),
    "named arguments": changed(with_keywords),
    "the batch": changed(lambda program, plan, n: program.update(batch=[0] * n)),
    "varying axes": changed(lambda program, plan, n: program.update(varying=[[0] * n])),
    "programs": changed(lambda program, plan, n: program.update(programs=program["programs"] * n)),
    "arguments of torch's operators": lambda n: written([aten("cat.default", [[{"input": 0}] * n, 1], [0], [["", "float32", [2, 3 * n], None]])], [1]),
    "outputs of torch's operators": lambda n: written([aten("split.Tensor", [{"input": 0}, 1], [0], [["", "float32", [1], None]] * n)], [1], [[n]]),
    "a chain of torch's operators": lambda n: written([aten("tan.default", [{"input": 0}], [i], [["", "float32", SHAPE, None]]) for i in range(n)], [n]),
    "times": changed(lambda program, plan, n: plan["seconds"].update(nodes=[[["x", [None], "plain", 1.0]] * n])),
    "reorders": changed(lambda program, plan, n: plan["seconds"].update(reorders=[["float32", [2, i], "plain", "plain", 1.0] for i in range(n)])),
    "the environment": changed(lambda program, plan, n: plan.update(environment={f"k{i}": "" for i in range(n)})),
}  # fmt: skip


def calls(work: Callable[[], None]) -> int:
    """How many functions it calls."""
    count = 0

    def profile(frame: Any, event: str, called: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.collect()
    gc.disable()  # what is collected meanwhile calls functions too
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


@pytest.mark.parametrize("what", DOCUMENTS)
def test_twice_the_document_is_twice_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(arena, "MAX_CONTEMPORARIES", 1000)
    monkeypatch.setattr("drystone.plan.autotune.choose", functools.partial(choose, limits=Limits(searchable=20)))
    path = tmp_path / "m"
    load(path, DOCUMENTS[what](3))
    few, some, many = (calls(lambda n=n: load(path, DOCUMENTS[what](n))) for n in (50, 100, 200))  # type: ignore[misc]
    assert many - some < 2.2 * (some - few)


def test_a_constant_that_indexes_is_read_once_for_all_that_it_indexes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = read(path, "program.json")
    graph = program["programs"][0]["graph"]
    nodes = [entry for entry in graph["nodes"] if entry.get("target") == "index.Tensor"]
    number = next(index for kind, index in nodes[0]["inputs"] if kind == "constant")
    graph["nodes"] += [nodes[0]] * 50
    write(path, "program.json", program)
    change(path, "plan.json", lambda plan: (plan.update(choices=[]), plan["seconds"]["nodes"].extend([[]] * 50)))
    readings = []
    monkeypatch.setattr(weights.Stored, "__call__", lambda self, call=weights.Stored.__call__: readings.append(self) or call(self))
    drystone.load(path)
    assert len([stored for stored in readings if stored.name == program["constants"][number]["name"]]) <= 3


def test_lists_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_ITEMS", 60)
    for what, make in DOCUMENTS.items():
        if what != "the environment":
            with pytest.raises(drystone.ArtefactError, match="no list of at most 60 entries"):
                load(tmp_path / "m", make(61))


@pytest.mark.parametrize("what", ["cats in cats", "a chain of reshapes", "a chain of slices", "a tree of reshapes"])
def test_deeper_than_python_goes(tmp_path: Path, what: str) -> None:
    load(tmp_path / "m", DOCUMENTS[what](sys.getrecursionlimit() + 10))
