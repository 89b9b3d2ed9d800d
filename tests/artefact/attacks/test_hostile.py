"""Artefacts whose checksums are right and whose content is not: what the native side would trust is checked before."""

from __future__ import annotations

import hashlib
import re
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
Attack = tuple[Callable[[Any], None], str]  # what it changes, and what the error says
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


PROGRAM_ATTACKS: dict[str, Attack] = {
    "conv: no stride": (attribute("conv", "stride", [0, 1]), "stride: 0 is no integer from 1"),
    "conv: a negative padding": (attribute("conv", "padding_l", [-1, 1]), "padding_l: -1 is no integer from 0"),
    "conv: a padding too much": (
        attribute("conv", "padding_l", [2, 1]),
        "is not the result of this conv, whose shape is [2, 16, 9, 8]",
    ),
    "conv: a huge dilation": (attribute("conv", "dilation", [1 << 62, 1]), "dilation: 4611686018427387904 is no integer from 1"),
    "conv: no groups": (attribute("conv", "groups", 0), "groups: 0 is no integer from 1"),
    "conv: groups that do not divide": (
        attribute("conv", "groups", 3, 2),
        "grouped.weight:float32[16, 4, 3, 3] in 3 groups does not fit pad_2:float32[2, 16, 8, 11]",
    ),
    "conv: more axes": (attribute("conv", "stride", [1, 1, 1]), "stride has 3 entries for 2 axes"),
    "conv: a bias that is none": (attribute("conv", "has_bias", False), "first.bias:float32[16] does not fit the output"),
    "conv: no truth": (attribute("conv", "has_bias", "true"), "has_bias: 'true' is neither true nor false"),
    "conv: the weight is an input": (
        lambda program: node(program, "conv")["inputs"].__setitem__(1, ["value", 0]),
        "the weight is no constant",
    ),
    "conv: the bias is a weight": (
        lambda program: node(program, "conv")["inputs"].__setitem__(2, ["constant", 0]),
        "first.weight:float32[16, 3, 3, 3] is no bias",
    ),
    "conv: no operands": (item("conv", "inputs", []), "a conv has inputs"),
    "conv: operands without an epilogue": (epilogue(), "conv2d_1: it has operands and no epilogue"),
    "conv_transpose: no stride": (attribute("conv_transpose", "stride", [2, 0]), "stride: 0 is no integer from 1"),
    "conv_transpose: a negative padding": (attribute("conv_transpose", "padding_l", [-1, 0]), "padding_l: -1 is no integer from 0"),
    "conv_transpose: outputs of no input": (attribute("conv_transpose", "padding_r", [0, -2]), "outputs of no input"),
    "conv_transpose: nothing left": (attribute("conv_transpose", "padding_l", [1 << 20, 0]), "nothing is left of the output"),
    "conv_transpose: a huge dilation": (
        attribute("conv_transpose", "dilation", [1 << 62, 1]),
        "dilation: 4611686018427387904 is no integer from 1",
    ),
    "conv_transpose: groups that do not divide": (
        attribute("conv_transpose", "groups", 3),
        "wider.weight:float32[16, 16, 2, 2] in 3 groups does not fit cat:float32[2, 16, 4, 4]",
    ),
    "conv_transpose: more axes": (attribute("conv_transpose", "dilation", [1, 1, 1]), "dilation has 3 entries for 2 axes"),
    "epilogue: beyond the operands": (
        epilogue(["add", [["in", 0], ["in", 2]], 0, 0], ["relu", [["reg", 0]], 0, 0]),
        "add(in0, in2) does not go on from the instruction before it",
    ),
    "epilogue: far beyond": (
        epilogue(["add", [["in", 0], ["in", 1 << 20]], 0, 0]),
        "add(in0, in1048576) does not go on from the instruction before it",
    ),
    "epilogue: the bias for an operand": (
        epilogue(["relu", [["in", 0]], 0, 0], ["add", [["reg", 0], ["in", 0]], 0, 0]),
        "add(reg0, in0) does not go on from the instruction before it",
    ),
    "epilogue: no chain": (
        epilogue(["relu", [["in", 0]], 0, 0], ["add", [["in", 0], ["in", 1]], 0, 0]),
        "add(in0, in1) does not go on from the instruction before it",
    ),
    "epilogue: a result to come": (
        epilogue(["relu", [["reg", 1]], 0, 0], ["relu", [["in", 0]], 0, 0]),
        "relu(reg1): 1 is no integer",
    ),
    "epilogue: of what has none": (item("softmax", "epilogue", [["relu", [["in", 0]], 0, 0]]), "a softmax has no epilogue"),
    "matmul: a weight that does not fit": (
        lambda program: node(program, "matmul")["inputs"].__setitem__(1, ["constant", 0]),
        "first.weight:float32[16, 3, 3, 3] does not fit layer_norm:float32[2, 5, 16]",
    ),
    "pointwise: an operand too many": (instruction("relu", [["in", 9]], 0, 0), "add_1: it reads operand 9 of 2"),
    "pointwise: a negative operand": (instruction("relu", [["in", -1]], 0, 0), "ops: -1 is no integer from 0"),
    "pointwise: its own result": (instruction("relu", [["reg", 40]], 0, 0), "relu(reg40): 40 is no integer"),
    "pointwise: two operands of one": (
        instruction("relu", [["in", 0], ["in", 0]], 0, 0),
        "relu(in0, in0) must have 1 entries, and has 2",
    ),
    "pointwise: one operand of two": (instruction("add", [["in", 0]], 0, 0), "add(in0) must have 2 entries, and has 1"),
    "pointwise: unknown": (instruction("system", [["in", 0]], 0, 0), "add_1: 'system' is none of"),
    "pointwise: memory of another kind": (instruction("relu", [["slot", 0]], 0, 0), "add_1: 'slot' is none of in, reg"),
    "pointwise: words for numbers": (instruction("relu", [["in", 0]], "one", 0), "ops: 'one' is no number"),
    "pointwise: no instructions": (attribute("pointwise", "ops", []), "add_1: it has no instructions"),
    "pool: beyond the input": (window([7, 9, 1]), "a window is empty or reaches beyond the 8 entries of its axis"),
    "pool: before the input": (window([-1, 2, 1]), "windows: -1 is no integer from 0"),
    "pool: empty": (window([3, 3, 1]), "a window is empty or reaches beyond the 8 entries of its axis"),
    "pool: no step": (window([1, 3, 0]), "a window is empty or reaches beyond the 8 entries of its axis"),
    "pool: two numbers": (window([1, 3]), "windows must have 3 entries, and has 2"),
    "pool: a window less": (
        lambda program: node(program, "pool")["attributes"]["windows"][0].pop(),
        "is not the result of this pool, whose shape is [2, 16, 7, 8]",
    ),
    "pool: division by zero": (
        lambda program: node(program, "pool", 1)["attributes"]["divisors"][0].__setitem__(0, 0),
        "divisors: 0 is no integer from 1",
    ),
    "pool: a divisor less": (lambda program: node(program, "pool", 1)["attributes"]["divisors"][0].pop(), "a divisor a window"),
    "pool: unknown": (attribute("pool", "kind", "median"), "kind: 'median' is none of"),
    "reduce: beyond the axes": (attribute("reduce", "dims", [2, 4]), "[2, 4] are no axes in rising order"),
    "reduce: twice": (attribute("reduce", "dims", [2, 2]), "[2, 2] are no axes in rising order"),
    "reduce: none": (attribute("reduce", "dims", []), "[] are no axes in rising order"),
    "softmax: beyond the axes": (attribute("softmax", "dim", 3), "axis 3 of 3"),
    "layer_norm: another axis": (attribute("layer_norm", "dims", [1]), "weight and bias must be [5]"),
    "layer_norm: no finite eps": (attribute("layer_norm", "eps", "nan"), "eps is not finite"),
    "group_norm: no groups": (attribute("group_norm", "groups", 0), "groups: 0 is no integer from 1"),
    "group_norm: groups that do not divide": (attribute("group_norm", "groups", 3), "16 channels in 3 groups"),
    "group_norm: no weight": (attribute("group_norm", "has_weight", False), "this group_norm takes 2 operands, not 3"),
    "lrn: no size": (attribute("lrn", "size", 0), "size: 0 is no integer from 1"),
    "resize: a negative scale": (
        attribute("resize", "scales", [-1.0, 0.5]),
        "upsample_bilinear2d: a scale is negative or beyond 16777216",
    ),
    "resize: a huge scale": (
        attribute("resize", "scales", [1e300, 0.5]),
        "upsample_bilinear2d: a scale is negative or beyond 16777216",
    ),
    "resize: no number": (attribute("resize", "scales", ["nan", 0.5]), "scales is not finite"),
    "resize: an axis less": (attribute("resize", "scales", [0.5]), "scales has 1 entries for 2 axes"),
    "cat: beyond the axes": (attribute("cat", "dim", 4), "axis 4 of 4"),
    "cat: another axis": (attribute("cat", "dim", 2), "is not the result of this cat, whose shape is [2, 8, 8, 4]"),
    "cat: nothing": (item("cat", "inputs", []), "a cat has inputs"),
    "slice: beyond the input": (attribute("slice", "start", 8, 2), "entry 22 of 16"),
    "slice: before the input": (attribute("slice", "start", -1), "start: -1 is no integer from 0"),
    "slice: no step": (attribute("slice", "step", 0), "step: 0 is no integer from 1"),
    "slice: steps beyond the input": (attribute("slice", "step", 1 << 20, 2), "entry 7340032 of 16"),
    "slice: beyond the axes": (attribute("slice", "dim", 4), "axis 4 of 4"),
    "gather: beyond the input": (
        lambda program: node(program, "gather")["attributes"]["indices"].__setitem__(0, 16),
        "an index beyond 16",
    ),
    "gather: before the input": (
        lambda program: node(program, "gather")["attributes"]["indices"].__setitem__(0, -1),
        "indices: -1 is no integer from 0",
    ),
    "gather: one less": (
        lambda program: node(program, "gather")["attributes"]["indices"].pop(),
        "is not the result of this gather, whose shape is [2, 15, 4, 4]",
    ),
    "permute: twice": (attribute("permute", "dims", [0, 2, 2]), "[0, 2, 2] is no order of the axes of softmax_1"),
    "permute: beyond the axes": (attribute("permute", "dims", [0, 3, 1]), "[0, 3, 1] is no order of the axes of softmax_1"),
    "pad: reflects more than there is": (
        lambda program: node(program, "pad")["attributes"].update(before=[0, 0, 6, 1], after=[0, 0, -4, 1]),
        "reflect padding does not crop",
    ),
    "pad: crops a reflection": (
        lambda program: node(program, "pad")["attributes"].update(before=[0, 0, -1, 1], after=[0, 0, 3, 1]),
        "reflect padding does not crop",
    ),
    "pad: huge": (attribute("pad", "before", [0, 0, 1 << 40, 1]), "before: 1099511627776 is no integer from -16777216"),
    "pad: unknown": (attribute("pad", "mode", "circular"), "mode: 'circular' is none of"),
    "attention: the key in other axes": (
        lambda program: node(program, "attention")["attributes"]["heads_first"].__setitem__(
            1, not node(program, "attention")["attributes"]["heads_first"][1]
        ),
        "do not fit together",
    ),
    "attention: an order less": (
        attribute("attention", "heads_first", [True] * 3),
        "heads_first must have 4 entries, and has 3",
    ),
    "attention: an order that is none": (
        attribute("attention", "heads_first", [True, 2, True, True]),
        "heads_first: 2 is neither true nor false",
    ),
    "attention: a mask that is none": (attribute("attention", "has_mask", True), "this attention takes 4 operands, not 3"),
    "attention: an operand less": (
        lambda program: node(program, "attention")["inputs"].pop(),
        "this attention takes 3 operands, not 2",
    ),
    "attention: an operand of four axes for another": (
        lambda program: node(program, "attention")["inputs"].__setitem__(1, ["value", 0]),
        "do not fit together",
    ),
    "batch_matmul: an axis twice": (
        attribute("batch_matmul", "dims", [[0, 1, 1], [0, 1, 2]]),
        "[0, 1, 1] is no order of the axes of add_6:float32[2, 5, 16]",
    ),
    "batch_matmul: beyond the axes": (
        attribute("batch_matmul", "dims", [[0, 1, 3], [0, 1, 2]]),
        "[0, 1, 3] is no order of the axes of add_6:float32[2, 5, 16]",
    ),
    "batch_matmul: other axes": (
        attribute("batch_matmul", "dims", [[1, 0, 2], [0, 1, 2]]),
        "[5, 2, 16] and [2, 5, 16] have no product",
    ),
    "batch_matmul: one order": (attribute("batch_matmul", "dims", [[0, 1, 2]]), "dims must have 2 entries, and has 1"),
    "recurrent: unknown": (attribute("recurrent", "kind", "mgu"), "kind: 'mgu' is none of"),
    "recurrent: of other gates": (attribute("recurrent", "kind", "rnn_tanh"), "a state of 2 for 8 units"),
    "recurrent: three directions": (attribute("recurrent", "directions", 3), "directions: 3 is no integer from 1"),
    "recurrent: a direction less": (attribute("recurrent", "directions", 1), "this recurrent takes 2 operands, not 3"),
    "recurrent: a bias that is none": (attribute("recurrent", "has_bias", True), "this recurrent takes 5 operands, not 3"),
    "recurrent: a projection that is none": (attribute("recurrent", "projects", True), "this recurrent takes 5 operands, not 3"),
    "recurrent: states that are none": (attribute("recurrent", "has_state", True), "this recurrent takes 5 operands, not 3"),
    "recurrent: time for batch": (
        attribute("recurrent", "batch_first", False),
        "is not the result of this recurrent, whose shape is [2, 5, 2]",
    ),
    "recurrent: an operand less": (
        lambda program: node(program, "recurrent")["inputs"].pop(),
        "this recurrent takes 3 operands, not 2",
    ),
    "recurrent: no operands": (item("recurrent", "inputs", []), "a recurrent has inputs"),
    "recurrent: another's weight": (
        lambda program: node(program, "recurrent")["inputs"].__setitem__(1, ["constant", 0]),
        "are no recurrent layer",
    ),
    "recurrent: a computed weight": (
        lambda program: node(program, "recurrent")["inputs"].__setitem__(1, ["value", 0]),
        "are no recurrent layer",
    ),
    "recurrent: an output less": (lambda program: node(program, "recurrent", 2)["outputs"].pop(), "is no integer from 0 to"),
    "recurrent: a state of more rows": (
        lambda program: node(program, "recurrent")["outputs"][1][2].__setitem__(1, 3),
        "is not the result of this recurrent, whose shape is [2, 2, 2]",
    ),
    "rotary: another order": (attribute("rotary", "dims", [0, 2, 1]), "no halves of [2, 16, 5]"),
    "rotary: beyond the axes": (
        attribute("rotary", "dims", [0, 1, 3]),
        "[0, 1, 3] is no order of the axes of squeeze_1:float32[2, 5, 16]",
    ),
    "rotary: an operand less": (lambda program: node(program, "rotary")["inputs"].pop(), "this rotary takes 3 operands, not 2"),
    "elementwise: gives no truth": (attribute("elementwise", "kind", "add"), "add does not mix these dtypes"),
    "elementwise: three operands of two": (attribute("elementwise", "kind", "where"), "this elementwise takes 3 operands, not 2"),
    "elementwise: unknown": (attribute("elementwise", "kind", "exec"), "kind: 'exec' is none of"),
    "fold: beyond the axes": (attribute("fold", "dims", [2]), "[2] are no axes in rising order"),
    "fold: two axes at once": (attribute("fold", "dims", [0, 1]), "a running sum along 2 axes"),
    "fold: of no truth": (attribute("fold", "kind", "any"), "no any of cumsum.0:int64[2, 5]"),
    "fold: gives an index": (attribute("fold", "kind", "argmax"), "is not the result of this fold, whose shape is [2, 1]"),
    "index: beyond the axes": (attribute("index", "dim", 2), "axis 2 of 2"),
    "index: more axes than there are": (attribute("index", "dim", 1), "is not the result of this index, whose shape is [11, 2, 5]"),
    "index: by no index": (
        lambda program: node(program, "index")["inputs"].__setitem__(1, ["constant", 0]),
        "indices are int64 or int32",
    ),
    "index: unknown": (attribute("index", "caller", "exec"), "caller: 'exec' is none of"),
    "convert: unknown op": (item("softmax", "op", "convert"), "the attributes must have , and has 'dim'"),
    "an op of no table": (item("softmax", "op", "exec"), "'exec' is none of aten, conv"),
    "an attribute more": (
        lambda program: node(program, "softmax")["attributes"].update(_reason="x"),
        "the attributes must have dim, and has 'dim', '_reason'",
    ),
    "an attribute less": (
        lambda program: node(program, "softmax")["attributes"].pop("dim"),
        "the attributes must have dim, and has",
    ),
    "a value to come": (
        lambda program: node(program, "softmax")["inputs"].__setitem__(0, ["value", 10_000]),
        "10000 is no integer",
    ),
    "its own result": (
        lambda program: program["programs"][0]["graph"]["nodes"][0]["inputs"].__setitem__(0, ["value", 2]),
        "2 is no integer from 0 to 1",
    ),
    "a negative value": (
        lambda program: node(program, "softmax")["inputs"].__setitem__(0, ["value", -1]),
        "-1 is no integer from 0",
    ),
    "a constant too many": (
        lambda program: node(program, "conv")["inputs"].__setitem__(1, ["constant", 10_000]),
        "10000 is no integer",
    ),
    "two outputs": (
        lambda program: node(program, "softmax")["outputs"].append(["more", "float32", [2]]),
        "this softmax has 1 outputs, not 2",
    ),
    "no outputs": (item("softmax", "outputs", []), "has no outputs"),
    "an integer output": (
        lambda program: node(program, "slice")["outputs"][0].__setitem__(1, "int32"),
        "slice_1: it changes its dtype",
    ),
    "a view of another dtype": (
        lambda program: node(program, "reshape")["outputs"][0].__setitem__(1, "bfloat16"),
        "unsqueeze: it changes its dtype",
    ),
    "an output of the graph to come": (
        lambda program: program["programs"][0]["graph"]["outputs"].__setitem__(0, ["value", 999]),
        "an output of the graph: 999 is no integer",
    ),
    "aten: writes to its operand": (
        aten("cumprod", target="add_.Tensor"),
        "'add_.Tensor' is no operator that an artefact may call",
    ),
    "aten: reads a file": (
        aten("cumprod", target="from_file.default", args=["/etc/passwd"], inputs=[]),
        "'from_file.default' is no operator that an artefact may call",
    ),
    "aten: another namespace": (
        aten("cumprod", target="prims::copy_to.default"),
        "'prims::copy_to.default' is no operator that an artefact may call",
    ),
    "aten: a path": (aten("cumprod", target="os.system"), "'os.system' is no operator that an artefact may call"),
    "aten: no operator": (aten("cumprod", target="__class__.mro"), "'__class__.mro' is no operator that an artefact may call"),
    "aten: no overload": (aten("cumprod", target="add.__init__"), "this torch has no operator 'add.__init__'"),
    "aten: gives no tensor": (aten("cumprod", target="equal.default"), "'equal.default' does not just give tensors"),
    "aten: memory that nobody wrote": (
        aten("cumprod", target="empty.memory_format"),
        "'empty.memory_format' is no operator that an artefact may call",
    ),
    "aten: beyond the operands": (aten("cumprod", args=[{"input": 1}, 1]), "1 is no integer from 0"),
    "aten: an axis too many": (aten("cumprod", args=[{"input": 0}, 7]), "torch refuses this call of aten.cumprod.default"),
    "aten: unknown arguments": (aten("cumprod", kwargs={"out": {"input": 0}}), "aten.cumprod.default has no such arguments"),
    "aten: another device": (aten("cumprod", kwargs={"dtype": {"device": "cuda:0"}}), "'cuda:0' is none of"),
    "aten: an unknown kind": (aten("cumprod", args=[{"pickle": "gASV"}, 1]), "must have dtype, and has 'pickle'"),
    "aten: a huge constant": (
        aten("cumprod", args=[{"input": 0}, 1 << 80]),
        "1208925819614629174706176 is no integer from -9223372036854775808",
    ),
    "aten: no arguments": (aten("cumprod", args=[]), "torch refuses this call of aten.cumprod.default"),
    "aten: a result of another shape": (
        lambda program: node(program, "aten")["outputs"][0].__setitem__(2, [2, 5, 17]),
        "the result is [3, 2], not index:float32[2, 5, 17]",
    ),
    "aten: arguments in another order": (
        lambda program: node(program, "aten")["args"].reverse(),
        "torch refuses this call of aten.index.Tensor",
    ),
    "the call: another tree": (
        lambda program: program["call"].update(structure={"tuple": [None, None]}),
        "the call is no tuple of arguments and dict of named ones",
    ),
    "the call: a class": (
        lambda program: program["call"].update(structure={"fields": ["os.PathLike", ["a"], [None]]}),
        "the call's leaves must have 1 entries, and has 2",
    ),
    "the call: an input less": (
        lambda program: program["call"]["leaves"].pop(),
        "the call's leaves must have 2 entries, and has 1",
    ),
    "the call: no parameters": (
        lambda program: program["call"].update(parameters=[["x; import os", "POSITIONAL_ONLY"]]),
        "'x; import os' is no parameter",
    ),
    "the call: a parameter of no kind": (
        lambda program: program["call"]["parameters"][0].__setitem__(1, "__class__"),
        "a parameter: '__class__' is none of",
    ),
    "the call: a parameter twice": (
        lambda program: program["call"]["parameters"].insert(0, program["call"]["parameters"][0]),
        "duplicate parameter name",
    ),
    "the result: beyond the outputs": (
        lambda program: program["programs"][0]["result"]["leaves"].__setitem__(0, {"output": 7}),
        "a result: 7 is no integer from 0",
    ),
    "the result: a field that is code": (
        lambda program: program["programs"][0]["result"].update(
            structure={"fields": ["x", ["a", "b", "c", "__class__"], [None] * 4]}
        ),
        "the result: '__class__' is no field",
    ),
    "the result: a field twice": (
        lambda program: program["programs"][0]["result"].update(structure={"fields": ["x", ["a", "b", "c", "c"], [None] * 4]}),
        "a field is given twice",
    ),
    "the result: deep": (
        lambda program: program["programs"][0]["result"].update(structure=nested(150)),
        "the result is nested more than 100 deep",
    ),
    "no programs": (lambda program: program.update(programs=[]), "the artefact holds no program"),
    "the batch of no input": (lambda program: program.update(batch=[5]), "batch: 5 is no integer from 0 to 1"),
    "an axis of no input": (lambda program: program["varying"].__setitem__(0, [4]), "a varying axis: 4 is no integer from 0"),
    "an unknown format": (lambda program: program.update(format="nchw"), "format: 'nchw' is none of"),
}


def nested(depth: int) -> Any:
    return None if depth == 0 else {"list": [nested(depth - 1)]}


@pytest.mark.parametrize("attack", PROGRAM_ATTACKS)
def test_programs(path: Path, attack: str) -> None:
    how, message = PROGRAM_ATTACKS[attack]
    change(path, "program.json", how)
    refused(path, re.escape(message))


def all_shapes(program: Any) -> list[list[Any]]:
    graph = program["programs"][0]["graph"]
    return [*graph["inputs"], *(output for entry in graph["nodes"] for output in entry["outputs"])]


OTHER_SIZE = "is not the result of|does not fit the output|does not expand to|do not broadcast|differ in their elements"


def message_of_size(size: int) -> str:
    if size in (0, 3):
        return OTHER_SIZE if size else "has no empty tensors"
    return f"this machine has|{OTHER_SIZE}" if size == HUGE[0] else f"{size} is no integer from 0 to {HUGE[0]}"


def test_each_size_of_each_shape(path: Path, original: Path) -> None:
    """Every size is that of its operands: changed alone, none passes."""
    count = len(all_shapes(read(original, "program.json")))
    for index in range(0, count, 3):
        rank = len(all_shapes(read(original, "program.json"))[index][2])
        for axis, size in ((index % rank, HUGE[index % len(HUGE)]), (-1, 3), (0, 0)):
            copied(original, path)
            change(path, "program.json", lambda p, i=index, a=axis, s=size: all_shapes(p)[i][2].__setitem__(a, s))  # type: ignore[misc]
            refused(path, message_of_size(size))


def test_a_dtype_that_is_none(path: Path) -> None:
    for dtype in ("float8_e4m3fn", "torch.float32", "object", 5, None, "Tensor"):
        change(path, "program.json", lambda program, dtype=dtype: all_shapes(program)[1].__setitem__(1, dtype))  # type: ignore[misc]
        refused(path, f"{dtype!r} is none of float32, ")


def test_more_memory_than_there_is(path: Path) -> None:
    """A shape that fits its neighbours but not the machine."""

    sizes = [1 << 22, 1 << 22, 2, 3, 8, 8]

    def huge(program: Any) -> None:
        graph = program["programs"][0]["graph"]
        graph["nodes"] = [
            {
                "name": "huge",
                "op": "expand",
                "attributes": {"sizes": sizes},
                "epilogue": [],
                "inputs": [["value", 0]],
                "outputs": [["huge", "float32", sizes]],
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


PLAN_ATTACKS: dict[str, Attack] = {
    "an implementation of another op": (option(0, "onednn_matmul"), "to onednn_matmul in"),
    "no implementation": (option(0, "eval"), "to eval in"),
    "a format of no implementation": (
        option(2, "blocked16" if native.isa() == "avx2" else "blocked8"),
        "which does not compute it here",
    ),
    "no format": (option(2, "nchw"), "a format: 'nchw' is none of"),
    "an operand less": (option(1, []), " in →"),
    "a choice less": (lambda plan: plan["choices"][0]["options"].pop(), "options for"),
    "a choice twice": (lambda plan: plan["choices"].append(plan["choices"][0]), "a choice is given twice"),
    "no threads": (lambda plan: plan["choices"][0].update(threads=0), "a choice: 0 is no integer from 1"),
    "a time less": (lambda plan: plan["seconds"]["nodes"].pop(), "the plan has times for"),
    "a negative time": (
        lambda plan: plan["seconds"]["reorders"].append(["float32", [2], "plain", "plain", -1.0]),
        "-1.0 is no time that a step can take",
    ),
    "no time": (lambda plan: plan["seconds"]["reorders"].append(["float32", [2], "plain", "plain", "nan"]), "a time is not finite"),
    "a reorder of another rank": (
        lambda plan: plan["seconds"]["reorders"].append(["object", [2], "plain", "plain", 1.0]),
        "a reorder: 'object' is none of",
    ),
    "no environment": (lambda plan: plan.update(environment=[]), "the plan's environment is no object"),
}


@pytest.mark.parametrize("attack", PLAN_ATTACKS)
def test_plans(path: Path, attack: str) -> None:
    how, message = PLAN_ATTACKS[attack]
    change(path, "plan.json", how)
    refused(path, re.escape(message))


def test_no_code_is_imported_by_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attacker.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def named(program: Any) -> None:
        program["programs"][0]["result"]["structure"] = {"fields": ["attacker.Output", ["a", "b", "c", "d"], [None] * 4]}

    change(path, "program.json", named)
    result = drystone.load(path)(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, dtype=torch.int64))
    assert list(result) == ["a", "b", "c", "d"]
