"""The graph: what a model computes, before anything is said of how.

A ``Graph`` is a list of ``Node`` in an order in which they can run. A ``Node`` has an operator name, inputs, outputs and
attributes; a ``Value`` is a tensor with a fixed shape and dtype that one node (or the caller, or a constant) provides.
Everything here is plain data; passes rewrite it, the planner reads it. ``print(graph)`` shows it whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

# The dtypes that the native side computes with, and those of integers and truth values beside them; of indices into a tensor.
FLOATS = (torch.float32, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
INDICES = (torch.int64, torch.int32)

_ids = itertools.count()


def is_invertible(data: torch.Tensor) -> bool:
    """Whether multiplying by the reciprocals, in float32, is dividing by ``data``: both are normal numbers."""
    normal = torch.finfo(torch.float32)
    sizes = data.detach().to(torch.float64).abs()
    return bool(((sizes >= normal.tiny) & (sizes <= 1 / normal.tiny)).all())


@dataclass(eq=False)
class Value:
    """A tensor in the graph: ``shape`` (ints), ``dtype``, and its ``data`` where it is a constant.

    Data may be a function that makes it: a folded weight is the size of the model's own, so none is held beside it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str = ""
    data: torch.Tensor | Callable[[], torch.Tensor] | None = None
    producer: Node | None = None
    id: int = field(default_factory=lambda: next(_ids))
    identity: Hashable = None

    @property
    def key(self) -> Hashable:
        """What packed weights are shared by: equal for constants that are the same in every graph of a model."""
        return self.id if self.identity is None else self.identity

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def constant(self) -> torch.Tensor:
        """The data of a constant; what a function makes is made again at each access."""
        assert self.data is not None, f"{self} is no constant"
        return self.data if isinstance(self.data, torch.Tensor) else self.data()

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.name or f'%{self.id}'}:{dtype}{list(self.shape)}"

    __repr__ = __str__  # a dataclass's own goes through all producers, again for each use


@dataclass(frozen=True)
class PointwiseOp:
    """One elementwise instruction.

    ``kind`` names the operation (docs/internals.md lists them), ``args`` its operands: ``("in", i)`` is the i-th tensor
    operand of the chain, ``("reg", j)`` the result of its j-th instruction. ``alpha`` and ``beta`` are its scalars.
    ``beta`` is the zero that adds nothing, unless given: x + -0.0 is x, where x + 0.0 makes a 0.0 of a -0.0.
    """

    kind: str
    args: tuple[tuple[str, int], ...]
    alpha: float = 0.0
    beta: float = -0.0

    def __str__(self) -> str:
        operands = ", ".join(f"{where}{index}" for where, index in self.args)
        scalars = f"; {self.alpha:g}, {self.beta:g}" if self.alpha or self.beta else ""
        return f"{self.kind}({operands}{scalars})"


@dataclass(eq=False)
class Node:
    """One operator. ``inputs`` may hold constants.

    ``epilogue`` is what a conv, a conv_transpose or a matmul does to each result before it is stored: a chain of ``PointwiseOp``
    in which ``("in", 0)`` is the result of the operator itself, and ``("in", i)`` the operand ``inputs[epilogue_start + i - 1]``.
    """

    op: str
    inputs: list[Value]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    epilogue: list[PointwiseOp] = field(default_factory=list)
    epilogue_start: int = 0
    name: str = ""

    @property
    def output(self) -> Value:
        return self.outputs[0]

    def __str__(self) -> str:
        shown = {k: v for k, v in self.attrs.items() if not k.startswith("_")}
        attrs = " ".join(f"{k}={v if not isinstance(v, list) else '[' + ', '.join(map(str, v)) + ']'}" for k, v in shown.items())
        epilogue = " | " + ", ".join(map(str, self.epilogue)) if self.epilogue else ""
        inputs = ", ".join(str(v) for v in self.inputs)
        outputs = ", ".join(str(v) for v in self.outputs)
        return f"{outputs} = {self.op}({inputs}) {attrs}{epilogue}".rstrip()

    __repr__ = __str__


@dataclass(eq=False)
class Graph:
    """``nodes`` in running order; ``inputs`` are bound at each call, ``outputs`` are what a call gives."""

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def __str__(self) -> str:
        lines = ["graph(" + ", ".join(map(str, self.inputs)) + ")"]
        lines += [f"  {node}" for node in self.nodes]
        lines.append("  return " + ", ".join(map(str, self.outputs)))
        return "\n".join(lines)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def consumers(self) -> dict[int, list[Node]]:
        """Value id → the nodes that read it, each once a reading."""
        table: dict[int, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                table.setdefault(value.id, []).append(node)
        return table

    def replace(self, old: Value, new: Value) -> None:
        """Every reader of ``old``, and the graph's outputs, read ``new`` from now on."""
        for node in self.nodes:
            if old in node.inputs:
                node.inputs = [new if value is old else value for value in node.inputs]
        self.outputs = [new if value is old else value for value in self.outputs]

    def remove(self, dead: Iterable[Node]) -> None:
        gone = {id(node) for node in dead}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def prune(self) -> Graph:
        """Drop the nodes that nothing reads."""
        live = {value.id for value in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if any(value.id in live for value in node.outputs):
                kept.append(node)
                live.update(value.id for value in node.inputs)
        self.nodes = kept[::-1]
        return self

    def constants(self) -> list[Value]:
        """The constants that nodes read or that are outputs, each once."""
        read = [value for node in self.nodes for value in node.inputs] + self.outputs
        return list({value.id: value for value in read if value.is_constant}.values())

    def check(self) -> None:
        """Raise ``AssertionError`` where a value is read before it is there, or has two producers."""
        known = {value.id for value in self.inputs}
        for node in self.nodes:
            for value in node.inputs:
                assert value.is_constant or value.id in known, f"{value} is read before it is there, in: {node}"
            for value in node.outputs:
                assert value.id not in known, f"{value} has two producers"
                assert value.producer is node, f"{value}.producer is not its node: {node}"
                known.add(value.id)
        for value in self.outputs:
            assert value.is_constant or value.id in known, f"output {value} is never computed"


def origin(node: Node) -> dict[str, Any]:
    """The attributes that tell where a node is from, for one that takes its place."""
    return {key: node.attrs[key] for key in ("_module", "_float32") if key in node.attrs}


def mark_strict(graph: Graph) -> None:
    """Bar the implementations that ``accuracy="strict"`` leaves out."""
    for node in graph:
        node.attrs["_strict"] = True


def make_node(op: str, inputs: list[Value], shape: Iterable[int], dtype: torch.dtype, name: str = "", **attrs: Any) -> Node:
    """A node with one new output of ``shape`` and ``dtype``, not yet in any graph."""
    output = Value(tuple(shape), dtype, name)
    node = Node(op, inputs, [output], attrs, name=name)
    output.producer = node
    return node


def constant(data: torch.Tensor, name: str = "") -> Value:
    return Value(tuple(data.shape), data.dtype, name, data=data)
