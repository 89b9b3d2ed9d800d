"""One attack for each check beside those of the operators' shapes (test_checks.py): it breaks that rule, and the error says so."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from one_node import RIGHT, aten, conv, expand, pool, read, resize, softmax
from torch.utils import _pytree as pytree

import drystone
from artefacts import change, header, node, write, write_header
from drystone.artefact import aten as of_aten
from drystone.artefact import document, folder, graphs, plans, structures, weights
from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import OPERATORS, Aten, Softmax

Attack = tuple[Callable[[], object], str]


def broken(work: Callable[[], object], message: str) -> None:
    with pytest.raises(drystone.ArtefactError, match=re.escape(message)):
        work()


# -- JSON ----------------------------------------------------------------------------------------------------------------

HUGE = 1 << 64
LIST = document.MAX_ITEMS + 1

OF_DOCUMENTS: dict[str, Attack] = {
    "a dtype that none holds": (lambda: document.name_of(torch.complex128), "torch.complex128 is a dtype that no artefact holds"),
    "more bytes than any": (lambda: document.parse(b" " * (document.MAX_BYTES + 1), "d"), "d is larger than"),
    "more bytes than any, written": (lambda: document.serialise("xx", "d", 3), "d would be larger than 3 bytes"),
    "no object": (lambda: document.entries([], "d", "a"), "d is no object"),
    "a key less": (lambda: document.entries({}, "d", "a"), "d must have a, and has "),
    "a key more": (lambda: document.entries({"a": 1, "b": 2}, "d", "a"), "d must have a, and has 'a', 'b'"),
    "no list": (lambda: document.listed({}, "d"), "d is no list of at most"),
    "a long list": (lambda: document.listed([0] * LIST, "d"), "d is no list of at most"),
    "an entry more": (lambda: document.listed([1], "d", 0), "d must have 0 entries, and has 1"),
    "no text": (lambda: document.text(1, "d"), "d is no text of at most"),
    "a long text": (lambda: document.text("x" * 4097, "d"), "d is no text of at most"),
    "a text that can't be printed": (lambda: document.text("\n", "d"), "d is no text of at most"),
    "another word": (lambda: document.word("c", "d", ("a", "b")), "d: 'c' is none of a, b"),
    "no word": (lambda: document.word([], "d", ("a", "b")), "d: [] is none of a, b"),
    "a truth for an integer": (lambda: document.whole(True, "d"), "d: True is no integer from 0"),
    "too small": (lambda: document.whole(1, "d", 2), "d: 1 is no integer from 2"),
    "too great": (lambda: document.whole(4, "d", 2, 3), "d: 4 is no integer from 2 to 3"),
    "beyond 64 bits": (lambda: document.whole(1 << 63, "d"), "is no integer from 0 to 9223372036854775807"),
    "too small among others": (lambda: document.wholes([3, 1], "d", 2), "d: 1 is no integer from 2"),
    "too great among others": (lambda: document.wholes([3, 4], "d", 2, 3), "d: 4 is no integer from 2 to 3"),
    "a number less": (lambda: document.wholes([3], "d", count=2), "d must have 2 entries, and has 1"),
    "an integer for a truth": (lambda: document.truth(1, "d"), "d: 1 is neither true nor false"),
    "no number": (lambda: document.number("1", "d"), "d: '1' is no number"),
    "a truth for a number": (lambda: document.number(True, "d"), "d: True is no number"),
    "a number that overflows": (lambda: document.number(10**400, "d"), "d is no number that a float holds"),
    "an infinite number": (lambda: document.finite("inf", "d"), "d is not finite"),
    "an unknown dtype": (lambda: document.dtype_of("float8", "d"), "d: 'float8' is none of"),
    "no constant": (lambda: document.constant_of([], "d"), "d: [] is no constant"),
    "two constants": (lambda: document.constant_of({"float": 1.0, "dtype": "bool"}, "d"), "is no constant"),
    "another constant": (lambda: document.constant_of({"pickle": ""}, "d"), "d must have dtype"),
    "a huge constant": (lambda: document.constant_of(HUGE, "d"), "is no integer from -9223372036854775808"),
    "an object for a constant": (lambda: document.of_constant(object(), "d"), "is a object, which no artefact holds"),
}


# -- graphs --------------------------------------------------------------------------------------------------------------


def changed(given: Any, **node: Any) -> Any:
    given["graph"]["nodes"][0] |= node
    return given


def in_graph(**parts: Any) -> Any:
    given = softmax()
    given["graph"] |= parts
    return given


def without(given: Any, name: str) -> Any:
    del given["graph"]["nodes"][0][name]
    return given


def written(node: Node) -> object:
    return graphs.of_graph(Graph([], [], [node]), weights.Constants())


def named(name: str) -> Node:
    return Node(Softmax(1), [], [], name=name)


LONG = [["x0", "float32", [1 << 40], None]]
MANY = [1 << 23, 8]
BEYOND = [{"input": 1}, 1]

OF_GRAPHS: dict[str, Attack] = {
    "too many axes": (lambda: read(in_graph(inputs=[["x", "float32", [1] * 65, None]])), "an input of the graph has 65 axes"),
    "too long an axis": (lambda: read(in_graph(inputs=LONG)), "is no integer from 0 to 2147483647"),
    "more memory than there is": (lambda: read(in_graph(inputs=[["x", "float32", [1 << 20] * 2, None]])), "and this machine has"),
    "more memory than there is, but for an empty axis": (
        lambda: read(in_graph(inputs=[["x", "float32", [1 << 20, 1 << 20, 0], None]])),
        "and this machine has",
    ),
    "a value of five parts": (lambda: read(in_graph(inputs=[["x", "float32", [1], None, 0]])), "must have 4 entries"),
    "a name of no text": (lambda: read(in_graph(inputs=[[5, "float32", [1], None]])), "an input of the graph is no text"),
    "an output to come": (lambda: read(in_graph(outputs=[["value", 2]])), "an output of the graph: 2 is no integer from 0 to 1"),
    "an output of another kind": (lambda: read(in_graph(outputs=[["slot", 0]])), "'slot' is none of constant, value"),
    "a constant that is none": (lambda: read(in_graph(outputs=[["constant", 0]])), "0 is no integer from 0 to -1"),
    "too many nodes": (lambda: read(in_graph(nodes=[0] * (graphs.MAX_NODES + 1))), "the graph has more than 50000 nodes"),
    "more cut than any": (
        lambda: read(_nine_times(expand(inputs=[[1, 1]], outputs=[MANY], sizes=MANY))),
        "the graph cuts or lengthens axes of 75497544 entries, more than",
    ),
    "a node that is none": (lambda: read(in_graph(nodes=[5])), "node 0 is no object"),
    "an op of no table": (lambda: read(changed(softmax(), op="exec")), "node 0: 'exec' is none of aten"),
    "a key less": (lambda: read(without(softmax(), "epilogue")), "node 0 must have name, op, inputs, outputs, attributes"),
    "an attribute less": (lambda: read(changed(softmax(), attributes={})), "node 0 (n): the attributes must have dim"),
    "an attribute more": (lambda: read(changed(softmax(), attributes={"dim": 1, "_reason": ""})), "the attributes must have dim"),
    "its own result": (lambda: read(changed(softmax(), inputs=[["value", 1]])), "node 0 (n): 1 is no integer from 0 to 0"),
    "no outputs": (lambda: read(changed(softmax(), outputs=[])), "node 0 (n) has no outputs"),
    "named arguments that are none": (lambda: read(aten(kwargs=[])), "the named arguments are no object"),
    "a name of an argument": (lambda: read(aten(kwargs={"\n": 1})), "is no text of at most"),
    "a reason that is none": (lambda: read(aten(reason=5)), "is no text of at most"),
}


def _nine_times(given: Any) -> Any:
    given["graph"]["nodes"] *= 9
    return given


# What an attribute may be: the least and the greatest.
RANGES: dict[str, tuple[Any, str, Any]] = {
    **{f"{name}: 0": (conv, name, [0, 1]) for name in ("stride", "dilation")},
    **{f"{name}: huge": (conv, name, [(1 << 20) + 1, 1]) for name in ("stride", "dilation", "padding_l", "padding_r")},
    **{f"{name}: -1": (conv, name, [-1, 1]) for name in ("padding_l", "padding_r")},
    "groups: 0": (conv, "groups", 0),
    "groups: huge": (conv, "groups", (1 << 20) + 1),
    "a transposed padding_r: huge": (RIGHT["transpose"], "padding_r", [-(1 << 20) - 1, 0]),
    "windows: a negative start": (pool, "windows", [[[-1, 3, 1]]]),
    "windows: two numbers": (pool, "windows", [[[0, 3]]]),
    "windows: a huge stop": (pool, "windows", [[[0, (1 << 24) + 1, 1]]]),
    "divisors: 0": (RIGHT["mean"], "divisors", [[0]]),
    "divisor_override: -1": (RIGHT["mean"], "divisor_override", -1),
    "kind: another": (pool, "kind", "median"),
    "dims: -1": (RIGHT["reduce"], "dims", [-1]),
    "dim: -1": (softmax, "dim", -1),
    "eps: infinite": (RIGHT["layer_norm"], "eps", "inf"),
    "eps: no number": (RIGHT["group_norm"], "eps", "nan"),
    "size: 0": (RIGHT["lrn"], "size", 0),
    **{f"{name}: infinite": (RIGHT["lrn"], name, "inf") for name in ("alpha", "beta", "k")},
    "mode: lanczos": (resize, "mode", "lanczos"),
    "mode: circular": (RIGHT["pad"], "mode", "circular"),
    "start: -1": (RIGHT["slice_"], "start", -1),
    "step: 0": (RIGHT["slice_"], "step", 0),
    "indices: -1": (RIGHT["take"], "indices", [[8, -1, 0]]),
    "before: huge": (RIGHT["pad"], "before", [0, 1 << 40]),
    "after: huge": (RIGHT["pad"], "after", [0, -(1 << 40)]),
    "dims: one order": (RIGHT["product"], "dims", [[0, 1, 2]]),
    "heads_first: a number": (RIGHT["attention"], "heads_first", [True, 2, True, True]),
    "directions: 0": (RIGHT["gru"], "directions", 0),
    "directions: 3": (RIGHT["gru"], "directions", 3),
    "kind: mgu": (RIGHT["gru"], "kind", "mgu"),
    "kind: exec": (RIGHT["elementwise"], "kind", "exec"),
    "kind: product": (RIGHT["aggregate"], "kind", "prod"),
    "caller: exec": (RIGHT["lookup"], "caller", "exec"),
}


@pytest.mark.parametrize("what", RANGES)
def test_ranges_of_attributes(what: str) -> None:
    make, name, value = RANGES[what]
    broken(lambda: read(make(**{name: value})), f"node 0 (n): {name}")


ATTRIBUTES = [(op, name) for op, operator in OPERATORS.items() for name in (() if op == "aten" else operator.hints())]


@pytest.mark.parametrize(("op", "name"), ATTRIBUTES)
def test_kinds_of_attributes(op: str, name: str) -> None:
    make = next(make for make in RIGHT.values() if make()["graph"]["nodes"][0]["op"] == op)
    for value in ({}, "x", None):
        if value is not None or not name.startswith("divisor"):
            broken(lambda value=value: read(make(**{name: value})), f"node 0 (n): {name}")  # type: ignore[misc]


# -- torch's operators ---------------------------------------------------------------------------------------------------


def target(name: str) -> Callable[[], object]:
    return lambda: read(aten(name))


def argument(item: Any) -> Callable[[], object]:
    return lambda: of_aten.argument(item, "d", 1)


OF_ATEN: dict[str, Attack] = {
    "another namespace": (target("prims::copy_to.default"), "is no operator that an artefact may call"),
    "one that is not on the list": (target("empty.memory_format"), "is no operator that an artefact may call"),
    "one that writes": (target("add_.Tensor"), "is no operator that an artefact may call"),
    "no operator at all": (target("../add.Tensor"), "is no operator that an artefact may call"),
    "no text": (target([]), "is no text of at most"),  # type: ignore[arg-type]
    "one that this torch lacks": (lambda: _allowing("no_such_operator"), "this torch has no operator 'no_such_operator.default'"),
    "one that gives nothing": (lambda: _allowing("_assert_async"), "'_assert_async.default' does not just give tensors"),
    "no overload": (target("add.exec"), "this torch has no operator 'add.exec'"),
    "what every object has": (target("add.__init__"), "this torch has no operator 'add.__init__'"),
    "one that writes to what it is given": (target("add.out"), "'add.out' does not just give tensors"),
    "one that gives a truth": (target("equal.default"), "'equal.default' does not just give tensors"),
    "a function, written": (lambda: of_aten.of_target(torch.add, "d"), "is no operator of ATen"),
    "another namespace, written": (lambda: of_aten.of_target(torch.ops.prims.cos.default, "d"), "is no operator of ATen"),
    "another object of the same name, written": (lambda: of_aten.of_target(_namesake(), "d"), "aten.add.Tensor can't be named"),
    "lists in lists in lists": (argument([[[[1]]]]), "d: lists in lists in lists"),
    "beyond the operands": (argument({"input": 1}), "d: 1 is no integer from 0 to 0"),
    "half a complex number": (argument({"complex": [1]}), "d must have 2 entries"),
    "an unknown memory format": (argument({"memory_format": "nchw"}), "d: 'nchw' is none of contiguous_format"),
    "an unknown layout": (argument({"layout": "sparse_coo"}), "d: 'sparse_coo' is none of strided"),
    "another device": (argument({"device": "cuda:0"}), "d: 'cuda:0' is none of cpu"),
    "a kind of no table": (argument({"pickle": "gASV"}), "d must have dtype"),
    "another number of results": (lambda: read(aten(outputs=[[2, 3], [2, 3]])), "n gives 1 tensors, not 2"),
    "a result of another shape": (lambda: read(aten(outputs=[[2, 4]])), "n: the result is [2, 3], not y0:float32[2, 4]"),
    "a result of another dtype": (lambda: read(aten(outputs=[["int64", [2, 3]]])), "n: the result is torch.float32, not y0"),
    "an integer that becomes a float": (
        lambda: read(aten(inputs=[["int64", [2, 3]]])),
        "n: the result is torch.int64, not y0:float32[2, 3]",
    ),
    "unknown arguments": (lambda: read(aten(kwargs={"out": {"input": 0}})), "has no such arguments"),
    "an argument twice": (lambda: read(aten(kwargs={"dim": 1})), "has no such arguments"),
    "an axis too many": (lambda: read(aten(args=[{"input": 0}, 7])), "torch refuses this call of aten.cumprod.default"),
    "an axis too many, as a lookup": (
        lambda: of_aten.check_indices(_indexing("index_select.default", [{"input": 0}, 1, {"input": 1}])),
        "n: axis 1 of",
    ),
}


def _allowing(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_aten, "ALLOWED", of_aten.ALLOWED | {name})
        of_aten.target_of(f"{name}.default", "d")


def _namesake() -> object:
    known = torch.ops.aten.add.Tensor
    other = object.__new__(type(known))
    other.__dict__.update(known.__dict__)
    return other


def _indexing(name: str, args: list[Any], indices: torch.Tensor | None = None) -> Node:
    data = torch.tensor([0, 2]) if indices is None else indices
    constant = Value(tuple(data.shape), data.dtype, "i", data=_stored(data))
    x = Value((3, 3) if name == "embedding.default" else (3,), torch.float32, "x")
    op = Aten(of_aten.target_of(name, "d"), tuple(of_aten.argument(arg, "d", 3) for arg in args))
    return Node(op, [x, constant, Value((), torch.float32, "v")], [], name="n")


def _stored(data: torch.Tensor) -> weights.Stored:
    low, high = (int(data.min()), int(data.max())) if data.numel() else (0, -1)
    return weights.Stored(None, 0, tuple(data.shape), data.dtype, "", "i", extremes=(low, high))  # type: ignore[arg-type]


INDEXING = {
    "embedding.default": [{"input": 0}, {"input": 1}],
    "index_select.default": [{"input": 0}, 0, {"input": 1}],
    "gather.default": [{"input": 0}, -1, {"input": 1}],
    "scatter.value": [{"input": 0}, 0, {"input": 1}, 1],
    "scatter_add.default": [{"input": 0}, 0, {"input": 1}, {"input": 0}],
    "index.Tensor": [{"input": 0}, [{"input": 1}]],
    "index_put.default": [{"input": 0}, [{"input": 1}], {"input": 2}],
}


@pytest.mark.parametrize("name", INDEXING)
def test_constants_that_index(name: str) -> None:
    def checked(indices: list[int]) -> None:
        node = _indexing(name, INDEXING[name], torch.tensor(indices, dtype=torch.int64))
        node.outputs = [Value(tuple(result.shape), result.dtype, "y") for result in of_aten.results_of(node)]
        of_aten.check(node, set())

    for right in ([0, 2], [-3, 2], []):
        checked(right)
    for wrong in ([0, 3], [-4, 0]):
        broken(lambda wrong=wrong: checked(wrong), "n: an index beyond x:float32[3")  # type: ignore[misc]


# -- structures ----------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    a: Any
    b: Any


def deep(depth: int) -> Any:
    return None if depth == 0 else {"list": [deep(depth - 1)]}


def structure(item: Any) -> Callable[[], object]:
    return lambda: structures.structure(item, "s")


def of_structure(item: Any) -> Callable[[], object]:
    return lambda: structures.of_structure(pytree.tree_structure(item), "s")


CALL = {
    "structure": {"tuple": [{"tuple": [None]}, {"dict": [["k", None]]}]},
    "leaves": [{"name": "x", "tensor": True}, {"name": "k", "constant": 1}],
    "parameters": [["x", "POSITIONAL_OR_KEYWORD"], ["k", "KEYWORD_ONLY", None]],
}
RESULT = {"structure": {"tuple": [None]}, "leaves": [{"output": 0}]}


def signature(result: Any = RESULT, **call: Any) -> Callable[[], object]:
    return lambda: structures.signature(CALL | call, result, 1, 1)


def tree(*halves: Any) -> Any:
    return {"tuple": list(halves)}


NO_CALL = "the call is no tuple of arguments and dict of named ones"
BOTH = ({"tuple": [None]}, {"dict": [["k", None]]})

OF_STRUCTURES: dict[str, Attack] = {
    "keys that are tuples, written": (of_structure({(1, 2): 0}), "s is a dict whose keys are neither text nor integers"),
    "a class that none holds, written": (
        of_structure(Pair(0, 0)),
        "which no artefact holds: let the model take and give tuples or dicts",
    ),
    "deep": (structure(deep(150)), "s is nested more than 100 deep"),
    "a number": (structure(5), "s: 5 is no structure"),
    "two at once": (structure({"list": [], "tuple": []}), "is no structure"),
    "a kind of no table": (structure({"set": []}), "s: 'set' is none of tuple, list, dict, ordered, fields"),
    "fields without names": (structure({"fields": ["x", []]}), "s must have 3 entries"),
    "a class of no text": (structure({"fields": [5, [], []]}), "s is no text of at most"),
    "a name less": (structure({"fields": ["x", [], [None]]}), "s must have 1 entries"),
    "a key without a value": (structure({"dict": [["a"]]}), "s must have 2 entries"),
    "a key of no text": (structure({"dict": [["\n", None]]}), "s is no text of at most"),
    "a key that is a list": (structure({"dict": [[[], None]]}), "s: [] is no integer"),
    "a key twice": (structure({"dict": [["a", None], ["a", None]]}), "s: a key is given twice"),
    "a field that is no name": (structure({"fields": ["x", ["a b"], [None]]}), "s: 'a b' is no field"),
    "a field that is a keyword": (structure({"fields": ["x", ["class"], [None]]}), "s: 'class' is no field"),
    "a field that is code": (structure({"fields": ["x", ["__class__"], [None]]}), "s: '__class__' is no field"),
    "a field twice": (structure({"fields": ["x", ["a", "a"], [None, None]]}), "a field is given twice"),
    "no leaf for an input": (signature(leaves=CALL["leaves"][:1]), "the call's leaves must have 2 entries"),
    "another number of tensors": (signature(leaves=[CALL["leaves"][0]] * 2), "the call has other inputs than the 1 of the graph"),
    "a list of arguments": (signature(structure=tree({"list": [None]}, BOTH[1])), NO_CALL),
    "named arguments in a tuple": (signature(structure=tree(BOTH[0], {"tuple": [None]})), NO_CALL),
    "a call of three": (signature(structure=tree(*BOTH, {"list": []})), NO_CALL),
    "a call that is a list": (signature(structure={"list": list(BOTH)}), NO_CALL),
    "a call that is a leaf": (signature(structure=None, leaves=CALL["leaves"][:1]), NO_CALL),
    "a named argument that is a number": (signature(structure=tree(BOTH[0], {"dict": [[5, None]]})), NO_CALL),
    "an input that is none": (signature(leaves=[5, 5]), "an input is no object"),
    "a tensor that is none": (signature(leaves=[{"name": "x", "tensor": False}] * 2), "an input that is no tensor"),
    "a tensor that is no truth": (signature(leaves=[{"name": "x", "tensor": 1}] * 2), "an input: 1 is neither true nor false"),
    "a tensor's name": (signature(leaves=[{"name": 5, "tensor": True}] * 2), "an input is no text"),
    "a constant's name": (signature(leaves=[CALL["leaves"][0], {"name": 5, "constant": 1}]), "an input is no text"),
    "a result that is none": (signature(RESULT | {"leaves": [5]}), "a result is no object of one entry"),
    "two results at once": (signature(RESULT | {"leaves": [{"output": 0, "constant": 1}]}), "a result is no object of one entry"),
    "a result to come": (signature(RESULT | {"leaves": [{"output": 1}]}), "a result: 1 is no integer from 0 to 0"),
    "a result of no kind": (signature(RESULT | {"leaves": [{"input": 1}]}), "a result must have constant"),
    "a leaf more": (signature(RESULT | {"leaves": [{"output": 0}] * 2}), "the result's leaves must have 1 entries"),
    "a parameter of no kind": (signature(parameters=[["x"]]), "a parameter has a name, a kind and perhaps a default"),
    "a parameter of an unknown kind": (signature(parameters=[["x", "ANY"]]), "a parameter: 'ANY' is none of"),
    "a parameter that is no name": (signature(parameters=[["x; import os", "VAR_POSITIONAL"]]), "'x; import os' is no parameter"),
    "a parameter of no text": (signature(parameters=[[5, "VAR_POSITIONAL"]]), "a parameter is no text"),
    "a parameter that is a keyword": (signature(parameters=[["class", "KEYWORD_ONLY"]]), "a parameter: "),
    "a default of what has none": (signature(parameters=[["x", "VAR_POSITIONAL", 1]]), "a parameter: "),
    "parameters twice": (signature(parameters=[["x", "KEYWORD_ONLY"]] * 2), "the parameters: "),
}

# -- the plan ------------------------------------------------------------------------------------------------------------


def plan(**parts: Any) -> Any:
    return {"environment": {}, "choices": [], "seconds": {"nodes": [], "reorders": []}} | parts


def times(*entry: Any) -> Any:
    return plan(seconds={"nodes": [[list(entry)]], "reorders": []})


def reorder(*entry: Any) -> Any:
    return plan(seconds={"nodes": [], "reorders": [list(entry)]})


OF_PLANS: dict[str, Attack] = {
    "an environment that is none": (lambda: plans.plan(plan(environment=[])), "the plan's environment is no object"),
    "an environment of numbers": (lambda: plans.plan(plan(environment={"isa": 5})), "the environment is no text"),
    "a key of the environment": (lambda: plans.plan(plan(environment={"\n": ""})), "the environment is no text"),
    "a negative time": (lambda: plans.plan(times("x", [], "plain", -1.0)), "-1.0 is no time that a step can take"),
    "a time that never ends": (lambda: plans.plan(times("x", [], "plain", 1e300)), "1e+300 is no time that a step can take"),
    "an infinite time": (lambda: plans.plan(times("x", [], "plain", "inf")), "a time is not finite"),
    "a time of no format": (lambda: plans.plan(times("x", [], "nchw", 1.0)), "a format: 'nchw' is none of"),
    "a time of an operand of no format": (lambda: plans.plan(times("x", ["nchw"], "plain", 1.0)), "a format: 'nchw' is none of"),
    "a time of no implementation": (lambda: plans.plan(times(5, [], "plain", 1.0)), "an implementation is no text"),
    "a time without formats": (lambda: plans.plan(times("x", "plain", 1.0)), "a time must have 4 entries"),
    "a reorder from no format": (lambda: plans.plan(reorder("float32", [2], "nchw", "plain", 1.0)), "a format: 'nchw' is none of"),
    "a reorder to no format": (lambda: plans.plan(reorder("float32", [2], "plain", "nchw", 1.0)), "a format: 'nchw' is none of"),
    "a reorder of a negative shape": (lambda: plans.plan(reorder("float32", [-2], "plain", "plain", 1.0)), "a reorder: -2 is no"),
    "a reorder of no dtype": (lambda: plans.plan(reorder("object", [2], "plain", "plain", 1.0)), "a reorder: 'object' is none of"),
    "a reorder of a negative time": (lambda: plans.plan(reorder("float32", [2], "plain", "plain", -1.0)), "-1.0 is no time"),
}

TABLES = {"documents": OF_DOCUMENTS, "graphs": OF_GRAPHS, "aten": OF_ATEN, "structures": OF_STRUCTURES, "plans": OF_PLANS}


@pytest.mark.parametrize(("table", "what"), [(table, what) for table in TABLES for what in TABLES[table]])
def test_documents(table: str, what: str) -> None:
    broken(*TABLES[table][what])


def test_what_is_changed_is_right_before() -> None:
    signature()()
    plans.plan(plan())
    plans.plan(times("x", ["plain", None], "plain", 1.0))
    plans.plan(reorder("float32", [2], "plain", "plain", 1.0))
    assert structures.structure({"fields": ["x", ["a", "b"], [None, {"dict": [["k", None], [5, None]]}]]}, "s")[1] == 3
    argument([[[1]], {"input": 0}, {"complex": [1, "inf"]}, {"layout": "strided"}, {"device": "cpu"}, {"float": "nan"}])()


# -- files ---------------------------------------------------------------------------------------------------------------


def of_plan(how: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda path: change(path, "plan.json", how)


def of_manifest(how: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda path: change(path, "artefact.json", how)


def of_program(how: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda path: change(path, "program.json", how)


def of_node(op: str, how: Callable[[Any], object], which: int = 0) -> Callable[[Path], None]:
    return of_program(lambda program: how(node(program, op, which)))


def of_header(how: Callable[[Any], object]) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        content, data = header(path)
        content = how(content) or content
        write_header(path, content, data)

    return work


def of_weights(how: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: write(path, "weights.safetensors", how((path / "weights.safetensors").read_bytes()))


def big_manifest(path: Path) -> None:
    (path / "artefact.json").write_bytes(b" " * (1 << 17))


def truths(path: Path) -> None:
    """A constant of bools that holds a 2."""
    content, data = header(path)
    program = json.loads((path / "program.json").read_text())
    number = len(program["constants"])
    content[str(number)] = {"dtype": "BOOL", "shape": [2], "data_offsets": [len(data), len(data) + 2]}
    sha256 = hashlib.sha256(b"\x01\x02").hexdigest()
    change(
        path,
        "program.json",
        lambda p: p["constants"].append({"name": "t", "dtype": "bool", "shape": [2], "quantisation": None, "sha256": sha256}),
    )
    write_header(path, content, data + b"\x01\x02")


DIFFER = "the programs differ in their inputs"


def passing(program: Any, first: Any) -> Any:
    """A program that gives back its first input, which is this one."""
    made = copy.deepcopy(program["programs"][0])
    graph = made["graph"]
    graph |= {"inputs": [first, graph["inputs"][1]], "nodes": [], "outputs": [["value", 0]] * len(graph["outputs"])}
    return made


OF_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the plan: an option less": (of_plan(lambda p: p["choices"][0]["options"].pop()), "options for"),
    "the plan: a time less": (of_plan(lambda p: p["seconds"]["nodes"].pop()), "the plan has times for"),
    "the plan: a choice twice": (of_plan(lambda p: p["choices"].append(p["choices"][0])), "a choice is given twice"),
    "the plan: no environment": (of_plan(lambda p: p.update(environment=[])), "the plan's environment is no object"),
    "the plan: no threads": (of_plan(lambda p: p["choices"][0].update(threads=0)), "a choice: 0 is no integer from 1"),
    "the plan: an option of another op": (
        of_plan(lambda p: p["choices"][0]["options"][0].__setitem__(0, "exec")),
        "which does not compute it here",
    ),
    "the manifest: another kind": (of_manifest(lambda m: m.update(kind="sculpture")), "is of another kind: 'sculpture'"),
    "the manifest: a version that is none": (
        of_manifest(lambda m: m.update(version=float(m["version"]))),
        f"the artefact is of version {float(folder.VERSION)}",
    ),
    "the manifest: another checksum": (
        of_manifest(lambda m: m["files"]["plan.json"].update(sha256="0")),
        "plan.json is not the file that was saved",
    ),
    "the manifest: another size": (
        of_manifest(lambda m: m["files"]["program.json"].update(bytes=m["files"]["program.json"]["bytes"] + 1)),
        "program.json is not the file that was saved",
    ),
    "the manifest: another size of the weights": (
        of_manifest(lambda m: m["files"]["weights.safetensors"].update(bytes=1)),
        "bytes, and had 1 when it was saved",
    ),
    "the manifest: large": (big_manifest, "more than the 65536 that it may have"),
    "the weights: a header longer than any": (
        of_weights(lambda data: ((16 << 20) + 1).to_bytes(8, "little") + b" " * (16 << 20) + data),
        "is longer than the file, or than any",
    ),
    "the weights: a header that is a list": (of_header(lambda content: b"[]"), "the weights' header is no object"),
    "the weights: more bytes": (of_weights(lambda data: data + b"more"), "bytes, and are"),
    "the weights: many axes": (of_program(lambda p: p["constants"][0].update(shape=[1] * 65)), "constant 0 has 65 axes"),
    "the weights: another checksum": (of_program(lambda p: p["constants"][0].update(sha256="0")), "its checksum differs"),
    "the weights: truths beyond 1": (truths, "holds a bool beyond 1"),
    "the graph: an attribute out of range": (
        of_node("conv", lambda n: n["attributes"].update(stride=[0, 1])),
        "stride: 0 is no integer",
    ),
    "the graph: another shape": (of_node("take", lambda n: n["attributes"]["indices"][0].pop()), "is not the result of this take"),
    "the graph: operands without an epilogue": (
        of_node("conv", lambda n: n.update(epilogue=[]), 1),
        "it has operands and no epilogue",
    ),
    "the graph: another dtype": (of_node("reshape", lambda n: n["outputs"][0].__setitem__(1, "bfloat16")), "it changes its dtype"),
    "the graph: an operator that reads a file": (
        of_node("aten", lambda n: n.update(target="from_file.default", args=["/etc/passwd"], inputs=[])),
        "'from_file.default' is no operator that an artefact may call",
    ),
    "the graph: an output to come": (
        of_program(lambda p: p["programs"][0]["graph"]["outputs"].__setitem__(0, ["value", 999])),
        "an output of the graph: 999 is no integer",
    ),
    "the call: another tree": (of_program(lambda p: p["call"].update(structure={"tuple": [None, None]})), NO_CALL),
    "the result: beyond the outputs": (
        of_program(lambda p: p["programs"][0]["result"]["leaves"].__setitem__(0, {"output": 7})),
        "a result: 7 is no integer from 0",
    ),
    "no programs": (of_program(lambda p: p.update(programs=[])), "the artefact holds no program"),
    "programs of other inputs": (
        of_program(lambda p: p["programs"].append(passing(p, ["x", "bfloat16", [2, 3, 8, 8], None]))),
        DIFFER,
    ),
    "programs of other axes": (of_program(lambda p: p["programs"].append(passing(p, ["x", "float32", [2, 3, 8], None]))), DIFFER),
    "a batch of no axes": (
        of_program(lambda p: p.update(programs=[passing(p, ["x", "float32", [], None])], batch=[0], varying=[[], []])),
        "an input without axes has no batch",
    ),
    "another batch": (of_program(lambda p: p.update(batch=[5])), "batch: 5 is no integer from 0 to 1"),
    "another axis that varies": (of_program(lambda p: p["varying"].__setitem__(0, [4])), "a varying axis: 4 is no integer"),
    "a format of no table": (of_program(lambda p: p.update(format="nchw")), "format: 'nchw' is none of"),
    "an accuracy that is no truth": (of_program(lambda p: p.update(strict_accuracy=1)), "strict_accuracy: 1 is neither"),
}


@pytest.mark.parametrize("what", OF_FILES)
def test_files(path: Path, what: str) -> None:
    how, message = OF_FILES[what]
    how(path)
    broken(lambda: drystone.load(path), message)


def test_weights_that_end_while_they_are_read(path: Path) -> None:
    program, _, file = folder.read(path)
    constants = weights.read(file, program["constants"], 1 << 40)
    os.truncate(path / "weights.safetensors", 4000)
    broken(lambda: weights.check_all(constants), "the weights end within")


def test_weights_that_are_larger_than_memory(path: Path) -> None:
    program, _, file = folder.read(path)
    broken(lambda: weights.read(file, program["constants"], 1000), "and this machine has 1000")


def test_a_constant_that_changes_while_it_is_written(tmp_path: Path) -> None:
    constants = weights.Constants()
    constants.number(Value((2,), torch.float32, "c", data=torch.zeros(3)))
    broken(lambda: constants.write(tmp_path / "w"), "the constant 'c' is no float32 any more")
