"""Artefacts whose checksums are right and whose content is not: what the native side would trust is checked before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

import drystone
from artefacts import change, copied, header, node, read, refused, write_header
from drystone import native

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen")
HUGE = (2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**64, -1, -(2**63), 10**40)


def attribute(op: str, name: str, value: Any, which: int = 0) -> Callable[[Any], None]:
    def how(program: Any) -> None:
        attributes = node(program, op, which)["attributes"]
        assert name in attributes and attributes[name] != value
        attributes[name] = value

    return how


def item(op: str, key: str, value: Any, which: int = 0) -> Callable[[Any], None]:
    return lambda program: node(program, op, which).__setitem__(key, value)


def window(value: list[int]) -> Callable[[Any], None]:
    return lambda program: node(program, "pool")["attributes"]["windows"][0].__setitem__(-1, value)


def instruction(*entry: Any) -> Callable[[Any], None]:
    return lambda program: node(program, "pointwise")["attributes"]["ops"].__setitem__(-1, list(entry))


def epilogue(*ops: Any) -> Callable[[Any], None]:
    return lambda program: node(program, "conv", 1).update(epilogue=list(ops))


def aten(name: str, **values: Any) -> Callable[[Any], None]:
    def how(program: Any) -> None:
        nodes = [entry for entry in program["programs"][0]["graph"]["nodes"] if entry.get("target", "").startswith(name)]
        nodes[0].update(values)

    return how


PROGRAM_ATTACKS: dict[str, Callable[[Any], None]] = {
    "conv: no stride": attribute("conv", "stride", [0, 1]),
    "conv: a negative padding": attribute("conv", "padding_l", [-1, 1]),
    "conv: a padding too much": attribute("conv", "padding_l", [2, 1]),
    "conv: a huge dilation": attribute("conv", "dilation", [1 << 62, 1]),
    "conv: no groups": attribute("conv", "groups", 0),
    "conv: groups that do not divide": attribute("conv", "groups", 3, 2),
    "conv: more axes": attribute("conv", "stride", [1, 1, 1]),
    "conv: a bias that is none": attribute("conv", "has_bias", False),
    "conv: no truth": attribute("conv", "has_bias", "true"),
    "conv: the weight is an input": lambda program: node(program, "conv")["inputs"].__setitem__(1, ["value", 0]),
    "conv: the bias is a weight": lambda program: node(program, "conv")["inputs"].__setitem__(2, ["constant", 0]),
    "conv: no operands": item("conv", "inputs", []),
    "conv: operands without an epilogue": epilogue(),
    "conv_transpose: no stride": attribute("conv_transpose", "stride", [2, 0]),
    "conv_transpose: a negative padding": attribute("conv_transpose", "padding_l", [-1, 0]),
    "conv_transpose: outputs of no input": attribute("conv_transpose", "padding_r", [0, -2]),
    "conv_transpose: nothing left": attribute("conv_transpose", "padding_l", [1 << 20, 0]),
    "conv_transpose: a huge dilation": attribute("conv_transpose", "dilation", [1 << 62, 1]),
    "conv_transpose: groups that do not divide": attribute("conv_transpose", "groups", 3),
    "conv_transpose: more axes": attribute("conv_transpose", "dilation", [1, 1, 1]),
    "epilogue: beyond the operands": epilogue(["add", [["in", 0], ["in", 2]], 0, 0], ["relu", [["reg", 0]], 0, 0]),
    "epilogue: far beyond": epilogue(["add", [["in", 0], ["in", 1 << 20]], 0, 0]),
    "epilogue: the bias for an operand": epilogue(["relu", [["in", 0]], 0, 0], ["add", [["reg", 0], ["in", 0]], 0, 0]),
    "epilogue: no chain": epilogue(["relu", [["in", 0]], 0, 0], ["add", [["in", 0], ["in", 1]], 0, 0]),
    "epilogue: a result to come": epilogue(["relu", [["reg", 1]], 0, 0], ["relu", [["in", 0]], 0, 0]),
    "epilogue: of what has none": item("softmax", "epilogue", [["relu", [["in", 0]], 0, 0]]),
    "matmul: a weight that does not fit": lambda program: node(program, "matmul")["inputs"].__setitem__(1, ["constant", 0]),
    "pointwise: an operand too many": instruction("relu", [["in", 9]], 0, 0),
    "pointwise: a negative operand": instruction("relu", [["in", -1]], 0, 0),
    "pointwise: its own result": instruction("relu", [["reg", 40]], 0, 0),
    "pointwise: two operands of one": instruction("relu", [["in", 0], ["in", 0]], 0, 0),
    "pointwise: one operand of two": instruction("add", [["in", 0]], 0, 0),
    "pointwise: unknown": instruction("system", [["in", 0]], 0, 0),
    "pointwise: memory of another kind": instruction("relu", [["slot", 0]], 0, 0),
    "pointwise: words for numbers": instruction("relu", [["in", 0]], "one", 0),
    "pointwise: no instructions": attribute("pointwise", "ops", []),
    "pool: beyond the input": window([7, 9, 1]),
    "pool: before the input": window([-1, 2, 1]),
    "pool: empty": window([3, 3, 1]),
    "pool: no step": window([1, 3, 0]),
    "pool: two numbers": window([1, 3]),
    "pool: a window less": lambda program: node(program, "pool")["attributes"]["windows"][0].pop(),
    "pool: division by zero": lambda program: node(program, "pool", 1)["attributes"]["divisors"][0].__setitem__(0, 0),
    "pool: a divisor less": lambda program: node(program, "pool", 1)["attributes"]["divisors"][0].pop(),
    "pool: unknown": attribute("pool", "kind", "median"),
    "reduce: beyond the axes": attribute("reduce", "dims", [2, 4]),
    "reduce: twice": attribute("reduce", "dims", [2, 2]),
    "reduce: none": attribute("reduce", "dims", []),
    "softmax: beyond the axes": attribute("softmax", "dim", 3),
    "layer_norm: another axis": attribute("layer_norm", "dims", [1]),
    "layer_norm: no finite eps": attribute("layer_norm", "eps", "nan"),
    "group_norm: no groups": attribute("group_norm", "groups", 0),
    "group_norm: groups that do not divide": attribute("group_norm", "groups", 3),
    "group_norm: no weight": attribute("group_norm", "has_weight", False),
    "lrn: no size": attribute("lrn", "size", 0),
    "resize: a negative scale": attribute("resize", "scales", [-1.0, 0.5]),
    "resize: a huge scale": attribute("resize", "scales", [1e300, 0.5]),
    "resize: no number": attribute("resize", "scales", ["nan", 0.5]),
    "resize: an axis less": attribute("resize", "scales", [0.5]),
    "cat: beyond the axes": attribute("cat", "dim", 4),
    "cat: another axis": attribute("cat", "dim", 2),
    "cat: nothing": item("cat", "inputs", []),
    "slice: beyond the input": attribute("slice", "start", 8, 2),
    "slice: before the input": attribute("slice", "start", -1),
    "slice: no step": attribute("slice", "step", 0),
    "slice: steps beyond the input": attribute("slice", "step", 1 << 20, 2),
    "slice: beyond the axes": attribute("slice", "dim", 4),
    "gather: beyond the input": lambda program: node(program, "gather")["attributes"]["indices"].__setitem__(0, 16),
    "gather: before the input": lambda program: node(program, "gather")["attributes"]["indices"].__setitem__(0, -1),
    "gather: one less": lambda program: node(program, "gather")["attributes"]["indices"].pop(),
    "permute: twice": attribute("permute", "dims", [0, 2, 2]),
    "permute: beyond the axes": attribute("permute", "dims", [0, 3, 1]),
    "pad: reflects more than there is": lambda program: node(program, "pad")["attributes"].update(
        before=[0, 0, 6, 1], after=[0, 0, -4, 1]
    ),
    "pad: crops a reflection": lambda program: node(program, "pad")["attributes"].update(before=[0, 0, -1, 1], after=[0, 0, 3, 1]),
    "pad: huge": attribute("pad", "before", [0, 0, 1 << 40, 1]),
    "pad: unknown": attribute("pad", "mode", "circular"),
    "attention: the key in other axes": lambda program: node(program, "attention")["attributes"]["heads_first"].__setitem__(
        1, not node(program, "attention")["attributes"]["heads_first"][1]
    ),
    "attention: an order less": attribute("attention", "heads_first", [True] * 3),
    "attention: an order that is none": attribute("attention", "heads_first", [True, 2, True, True]),
    "attention: a mask that is none": attribute("attention", "has_mask", True),
    "attention: an operand less": lambda program: node(program, "attention")["inputs"].pop(),
    "attention: an operand of four axes for another": lambda program: node(program, "attention")["inputs"].__setitem__(
        1, ["value", 0]
    ),
    "batch_matmul: an axis twice": attribute("batch_matmul", "dims", [[0, 1, 1], [0, 1, 2]]),
    "batch_matmul: beyond the axes": attribute("batch_matmul", "dims", [[0, 1, 3], [0, 1, 2]]),
    "batch_matmul: other axes": attribute("batch_matmul", "dims", [[1, 0, 2], [0, 1, 2]]),
    "batch_matmul: one order": attribute("batch_matmul", "dims", [[0, 1, 2]]),
    "recurrent: unknown": attribute("recurrent", "kind", "mgu"),
    "recurrent: of other gates": attribute("recurrent", "kind", "rnn_tanh"),
    "recurrent: three directions": attribute("recurrent", "directions", 3),
    "recurrent: a direction less": attribute("recurrent", "directions", 1),
    "recurrent: a bias that is none": attribute("recurrent", "has_bias", True),
    "recurrent: a projection that is none": attribute("recurrent", "projects", True),
    "recurrent: states that are none": attribute("recurrent", "has_state", True),
    "recurrent: time for batch": attribute("recurrent", "batch_first", False),
    "recurrent: an operand less": lambda program: node(program, "recurrent")["inputs"].pop(),
    "recurrent: no operands": item("recurrent", "inputs", []),
    "recurrent: another's weight": lambda program: node(program, "recurrent")["inputs"].__setitem__(1, ["constant", 0]),
    "recurrent: a computed weight": lambda program: node(program, "recurrent")["inputs"].__setitem__(1, ["value", 0]),
    "recurrent: an output less": lambda program: node(program, "recurrent", 2)["outputs"].pop(),
    "recurrent: a state of more rows": lambda program: node(program, "recurrent")["outputs"][1][2].__setitem__(1, 3),
    "rotary: another order": attribute("rotary", "dims", [0, 2, 1]),
    "rotary: beyond the axes": attribute("rotary", "dims", [0, 1, 3]),
    "rotary: an operand less": lambda program: node(program, "rotary")["inputs"].pop(),
    "elementwise: gives no truth": attribute("elementwise", "kind", "add"),
    "elementwise: three operands of two": attribute("elementwise", "kind", "where"),
    "elementwise: unknown": attribute("elementwise", "kind", "exec"),
    "fold: beyond the axes": attribute("fold", "dims", [2]),
    "fold: two axes at once": attribute("fold", "dims", [0, 1]),
    "fold: of no truth": attribute("fold", "kind", "any"),
    "fold: gives an index": attribute("fold", "kind", "argmax"),
    "index: beyond the axes": attribute("index", "dim", 2),
    "index: more axes than there are": attribute("index", "dim", 1),
    "index: by no index": lambda program: node(program, "index")["inputs"].__setitem__(1, ["constant", 0]),
    "index: unknown": attribute("index", "caller", "exec"),
    "convert: unknown op": item("softmax", "op", "convert"),
    "an op of no table": item("softmax", "op", "exec"),
    "an attribute more": lambda program: node(program, "softmax")["attributes"].update(_reason="x"),
    "an attribute less": lambda program: node(program, "softmax")["attributes"].pop("dim"),
    "a value to come": lambda program: node(program, "softmax")["inputs"].__setitem__(0, ["value", 10_000]),
    "its own result": lambda program: program["programs"][0]["graph"]["nodes"][0]["inputs"].__setitem__(0, ["value", 2]),
    "a negative value": lambda program: node(program, "softmax")["inputs"].__setitem__(0, ["value", -1]),
    "a constant too many": lambda program: node(program, "conv")["inputs"].__setitem__(1, ["constant", 10_000]),
    "two outputs": lambda program: node(program, "softmax")["outputs"].append(["more", "float32", [2]]),
    "no outputs": item("softmax", "outputs", []),
    "an integer output": lambda program: node(program, "slice")["outputs"][0].__setitem__(1, "int32"),
    "a view of another dtype": lambda program: node(program, "reshape")["outputs"][0].__setitem__(1, "bfloat16"),
    "an output of the graph to come": lambda program: program["programs"][0]["graph"]["outputs"].__setitem__(0, ["value", 999]),
    "aten: writes to its operand": aten("cumprod", target="add_.Tensor"),
    "aten: reads a file": aten("cumprod", target="from_file.default", args=["/etc/passwd"], inputs=[]),
    "aten: another namespace": aten("cumprod", target="prims::copy_to.default"),
    "aten: a path": aten("cumprod", target="os.system"),
    "aten: no operator": aten("cumprod", target="__class__.mro"),
    "aten: no overload": aten("cumprod", target="add.__init__"),
    "aten: gives no tensor": aten("cumprod", target="equal.default"),
    "aten: memory that nobody wrote": aten("cumprod", target="empty.memory_format"),
    "aten: beyond the operands": aten("cumprod", args=[{"input": 1}, 1]),
    "aten: an axis too many": aten("cumprod", args=[{"input": 0}, 7]),
    "aten: unknown arguments": aten("cumprod", kwargs={"out": {"input": 0}}),
    "aten: another device": aten("cumprod", kwargs={"dtype": {"device": "cuda:0"}}),
    "aten: an unknown kind": aten("cumprod", args=[{"pickle": "gASV"}, 1]),
    "aten: a huge constant": aten("cumprod", args=[{"input": 0}, 1 << 80]),
    "aten: no arguments": aten("cumprod", args=[]),
    "aten: a result of another shape": lambda program: node(program, "aten")["outputs"][0].__setitem__(2, [2, 5, 17]),
    "aten: an index that is constant and beyond": lambda program: node(program, "aten")["args"].reverse(),
    "the call: another tree": lambda program: program["call"].update(structure={"tuple": [None, None]}),
    "the call: a class": lambda program: program["call"].update(structure={"fields": ["os.PathLike", ["a"], [None]]}),
    "the call: an input less": lambda program: program["call"]["leaves"].pop(),
    "the call: no parameters": lambda program: program["call"].update(parameters=[["x; import os", "POSITIONAL_ONLY"]]),
    "the call: a parameter of no kind": lambda program: program["call"]["parameters"][0].__setitem__(1, "__class__"),
    "the call: a parameter twice": lambda program: program["call"]["parameters"].append(program["call"]["parameters"][0]),
    "the result: beyond the outputs": lambda program: program["programs"][0]["result"]["leaves"].__setitem__(0, {"output": 7}),
    "the result: a field that is code": lambda program: program["programs"][0]["result"].update(
        structure={"fields": ["x", ["a", "b", "c", "__class__"], [None] * 4]}
    ),
    "the result: a field twice": lambda program: program["programs"][0]["result"].update(
        structure={"fields": ["x", ["a", "b", "c", "c"], [None] * 4]}
    ),
    "the result: deep": lambda program: program["programs"][0]["result"].update(structure=nested(150)),
    "no programs": lambda program: program.update(programs=[]),
    "the batch of no input": lambda program: program.update(batch=[5]),
    "an axis of no input": lambda program: program["varying"].__setitem__(0, [4]),
    "an unknown format": lambda program: program.update(format="nchw"),
}


def nested(depth: int) -> Any:
    return None if depth == 0 else {"list": [nested(depth - 1)]}


@pytest.mark.parametrize("attack", PROGRAM_ATTACKS)
def test_programs(path: Path, attack: str) -> None:
    change(path, "program.json", PROGRAM_ATTACKS[attack])
    refused(path)


def all_shapes(program: Any) -> list[list[Any]]:
    graph = program["programs"][0]["graph"]
    return [*graph["inputs"], *(output for entry in graph["nodes"] for output in entry["outputs"])]


def test_each_size_of_each_shape(path: Path, original: Path) -> None:
    """Every size is that of its operands: changed alone, none passes."""
    count = len(all_shapes(read(original, "program.json")))
    for index in range(0, count, 3):
        rank = len(all_shapes(read(original, "program.json"))[index][2])
        for axis, size in ((index % rank, HUGE[index % len(HUGE)]), (-1, 3), (0, 0)):
            copied(original, path)
            change(path, "program.json", lambda p, i=index, a=axis, s=size: all_shapes(p)[i][2].__setitem__(a, s))  # type: ignore[misc]
            refused(path)


def test_a_dtype_that_is_none(path: Path) -> None:
    for dtype in ("float8_e4m3fn", "torch.float32", "object", 5, None, "Tensor"):
        change(path, "program.json", lambda program, dtype=dtype: all_shapes(program)[1].__setitem__(1, dtype))  # type: ignore[misc]
        refused(path)


def test_more_memory_than_there_is(path: Path) -> None:
    """A shape that fits its neighbours but not the machine."""

    def huge(program: Any) -> None:
        graph = program["programs"][0]["graph"]
        graph["nodes"] = [
            {
                "name": "huge",
                "op": "expand",
                "attributes": {},
                "epilogue": [],
                "inputs": [["value", 0]],
                "outputs": [["huge", "float32", [1 << 22, 1 << 22, 2, 3, 8, 8]]],
            }
        ]
        graph["outputs"] = [["value", 2]] * 3

    change(path, "program.json", huge)
    refused(path, "this machine has")


def test_more_memory_together_than_there_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = max(drystone.load(path).explain().arena_bytes, (path / "weights.safetensors").stat().st_size)  # for each alone
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=enough))
    refused(path, "this machine has")


def constant_index(program: Any) -> tuple[int, Any]:
    """The constant that indexes, and its entry."""
    nodes = [entry for entry in program["programs"][0]["graph"]["nodes"] if entry.get("target") == "index.Tensor"]
    number = next(index for kind, index in nodes[0]["inputs"] if kind == "constant")
    return number, program["constants"][number]


def test_constants_that_index_beyond(path: Path) -> None:
    content, data = header(path)
    program = read(path, "program.json")
    number, entry = constant_index(program)
    start, stop = content[str(number)]["data_offsets"]
    beyond = torch.tensor([3, 0, 5]).numpy().tobytes()
    assert len(beyond) == stop - start
    write_header(path, content, data[:start] + beyond + data[stop:])
    entry["sha256"] = hashlib.sha256(beyond).hexdigest()
    change(path, "program.json", lambda old: old.update(program))
    refused(path, "an index beyond")


def option(index: int, value: Any) -> Callable[[Any], None]:
    return lambda plan: plan["choices"][0]["options"][0].__setitem__(index, value)


PLAN_ATTACKS: dict[str, Callable[[Any], None]] = {
    "an implementation of another op": option(0, "onednn_matmul"),
    "no implementation": option(0, "eval"),
    "a format of no implementation": option(2, "blocked16" if native.isa() == "avx2" else "blocked8"),
    "no format": option(2, "nchw"),
    "an operand less": option(1, []),
    "a choice less": lambda plan: plan["choices"][0]["options"].pop(),
    "a choice twice": lambda plan: plan["choices"].append(plan["choices"][0]),
    "no threads": lambda plan: plan["choices"][0].update(threads=0),
    "a time less": lambda plan: plan["seconds"]["nodes"].pop(),
    "a negative time": lambda plan: plan["seconds"]["reorders"].append(["float32", [2], "plain", "plain", -1.0]),
    "no time": lambda plan: plan["seconds"]["reorders"].append(["float32", [2], "plain", "plain", "nan"]),
    "a reorder of another rank": lambda plan: plan["seconds"]["reorders"].append(["object", [2], "plain", "plain", 1.0]),
    "no environment": lambda plan: plan.update(environment=[]),
}


@pytest.mark.parametrize("attack", PLAN_ATTACKS)
def test_plans(path: Path, attack: str) -> None:
    change(path, "plan.json", PLAN_ATTACKS[attack])
    refused(path)


def test_no_code_is_imported_by_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attacker.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def named(program: Any) -> None:
        program["programs"][0]["result"]["structure"] = {"fields": ["attacker.Output", ["a", "b", "c", "d"], [None] * 4]}

    change(path, "program.json", named)
    result = drystone.load(path)(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, dtype=torch.int64))
    assert list(result) == ["a", "b", "c", "d"]
