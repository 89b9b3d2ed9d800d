"""A graph as JSON. Values are numbers: the constants of the file first, then the graph's inputs, then each node's outputs."""

from __future__ import annotations

import math
from typing import Any

from drystone.artefact import aten, operators
from drystone.artefact.document import dtype_of, entries, listed, name_of, require, text, whole, wholes, word
from drystone.artefact.quantisations import of_quantisation, quantisation
from drystone.artefact.weights import Constants
from drystone.graph.graph import Graph, Node, Value
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import OPERATORS, Aten, Operator

MAX_RANK = 64
MAX_AXIS = 2**31 - 1
MAX_NODES = 50_000
# Of axes of which the native side makes a table, an entry for each index: so many entries in a graph.
MAX_TABLED = 1 << 26


def of_graph(graph: Graph, constants: Constants) -> dict[str, Any]:
    """Raises ``ArtefactError`` where the graph has something that no artefact holds."""
    for value in [*(value for node in graph for value in node.inputs), *graph.outputs]:
        if value.is_constant:
            constants.number(value)
    numbers: dict[int, int] = {}

    def described(value: Value) -> list[Any]:
        numbers[value.id] = len(numbers)
        return [value.name, name_of(value.dtype), list(value.shape), of_quantisation(value)]

    def reference(value: Value) -> list[Any]:
        return ["constant", constants.number(value)] if value.is_constant else ["value", numbers[value.id]]

    inputs = [described(value) for value in graph.inputs]
    nodes = []
    for node in graph:
        operands = [reference(value) for value in node.inputs]
        nodes.append(_of_node(node) | {"inputs": operands, "outputs": [described(value) for value in node.outputs]})
    return {"inputs": inputs, "nodes": nodes, "outputs": [reference(value) for value in graph.outputs]}


def _of_node(node: Node) -> dict[str, Any]:
    what, op = node.name or str(node.op), node.op
    if isinstance(op, Aten):
        described = {
            "target": aten.of_target(op.target, what),
            "args": [aten.of_argument(leaf, what) for leaf in op.args],
            "kwargs": {name: aten.of_argument(leaf, what) for name, leaf in op.kwargs.items()},
            "reason": " ".join(op.reason.split())[:1000],
        }
        return {"name": node.name, "op": "aten", **described}
    epilogue = operators.of_instructions(node.epilogue)
    return {"name": node.name, "op": op.name, "attributes": operators.of_operator(op), "epilogue": epilogue}


class _Reader:
    """One graph out of JSON."""

    def __init__(self, constants: list[Value], max_bytes: int) -> None:
        self.constants, self.max_bytes = constants, max_bytes
        self.values: list[Value] = []

    def value(self, item: Any, what: str) -> Value:
        name, dtype, shape, codes = listed(item, what, 4)
        value = Value(wholes(shape, what, 0, MAX_AXIS), dtype_of(dtype, what), text(name, what))
        value.quantisation = quantisation(codes, value, what)
        require(len(value.shape) <= MAX_RANK, f"{what} has {len(value.shape)} axes")
        # Empty axes counted as one: what its axes ask for, whether or not it has elements.
        asked = math.prod(max(size, 1) for size in value.shape) * value.dtype.itemsize
        require(asked <= self.max_bytes, f"{value} takes {asked} bytes, and this machine has {self.max_bytes}")
        self.values.append(value)
        return value

    def reference(self, item: Any, what: str) -> Value:
        kind, index = listed(item, what, 2)
        known = self.constants if word(kind, what, ("constant", "value")) == "constant" else self.values
        return known[whole(index, what, 0, len(known) - 1)]

    def graph(self, item: Any) -> Graph:
        given_inputs, given_nodes, given_outputs = entries(item, "a graph", "inputs", "nodes", "outputs")
        inputs = [self.value(entry, "an input of the graph") for entry in listed(given_inputs, "the graph's inputs")]
        require(len(listed(given_nodes, "the nodes")) <= MAX_NODES, f"the graph has more than {MAX_NODES} nodes")
        nodes = [self.node(entry, f"node {index}") for index, entry in enumerate(given_nodes)]
        outputs = [self.reference(entry, "an output of the graph") for entry in listed(given_outputs, "the graph's outputs")]
        read = {value.id for node in nodes for value in node.inputs} | {value.id for value in outputs}
        for node in nodes:
            if isinstance(node.op, Aten):
                aten.check(node, read)
            else:
                operators.check(node)
        tabled = sum(sum(node.output.shape) for node in nodes if node.op.tabled)
        require(tabled <= MAX_TABLED, f"the graph cuts or lengthens axes of {tabled} entries, more than {MAX_TABLED}")
        return Graph(inputs, outputs, nodes)

    def node(self, item: Any, what: str) -> Node:
        require(type(item) is dict, f"{what} is no object")
        kind = OPERATORS[word(item.get("op"), what, OPERATORS)]
        common = ("name", "op", "inputs", "outputs")
        own = ("target", "args", "kwargs", "reason") if kind is Aten else ("attributes", "epilogue")
        given_name, _, given_inputs, given_outputs, *content = entries(item, what, *common, *own)
        name = text(given_name, what)
        what = f"{what} ({name or kind.name})"
        inputs = [self.reference(entry, what) for entry in listed(given_inputs, what)]
        # Before the outputs are: a node reads what is before it.
        epilogue: list[PointwiseOp] = []
        op: Operator
        if kind is Aten:
            target, args, kwargs, reason = content
            require(type(kwargs) is dict, f"{what}: the named arguments are no object")
            op = Aten(
                aten.target_of(target, what),
                tuple(aten.argument(leaf, what, len(inputs)) for leaf in listed(args, what)),
                {text(name, what): aten.argument(leaf, what, len(inputs)) for name, leaf in kwargs.items()},
                text(reason, what),
            )
        else:
            op = operators.operator(kind, content[0], what)
            epilogue = operators.instructions(content[1], f"{what}: the epilogue")
        node = Node(op, inputs, [], epilogue, name)
        for entry in listed(given_outputs, what):
            value = self.value(entry, what)
            value.producer = node
            node.outputs.append(value)
        require(node.outputs, f"{what} has no outputs")
        return node


def graph(item: Any, constants: list[Value], max_bytes: int) -> Graph:
    """The graph, each of its nodes checked. ``max_bytes``: what a tensor may take. Raises ``ArtefactError``."""
    return _Reader(constants, max_bytes).graph(item)
