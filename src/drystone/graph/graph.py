"""The graph: what a model computes, before anything is said of how.

A ``Graph`` is a list of ``Node`` in an order in which they can run. A ``Node`` has an operator (``graph/ops``), inputs and outputs;
a ``Value`` is a tensor with a fixed shape and dtype that one node (or the caller, or a constant) provides.
Everything here is plain data; passes rewrite it, the planner reads it. ``print(graph)`` shows it whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from drystone.graph.instructions import PointwiseOp
from drystone.graph.quantisation import Quantisation
from drystone.graph.tape import Computed, computed, decided

if TYPE_CHECKING:
    from drystone.graph.ops.operator import Operator

T = TypeVar("T")

_ids = itertools.count()


def is_invertible(data: torch.Tensor) -> bool:
    """Whether multiplying by the reciprocals, in float32, is dividing by ``data``: both are normal numbers."""
    normal = torch.finfo(torch.float32)
    sizes = data.detach().to(torch.float64).abs()
    return bool(((sizes >= normal.tiny) & (sizes <= 1 / normal.tiny)).all())


def identity_of(weight: torch.Tensor) -> Hashable:
    """Of a weight that stays where it is, as a constant in any graph."""
    return (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype)


@dataclass(eq=False)
class Value:
    """A tensor in the graph: ``shape`` (ints), ``dtype``, and its ``data`` where it is a constant.

    Data may be a function that makes it: a folded weight is the size of the model's own, so none is held beside it. It is
    ``Computed`` where a graph with symbolic sizes has it computed from these: what looks at its numbers would fix the sizes.
    A value with a ``quantisation`` holds codes of int8 or uint8. ``codes``: of a constant of floats, the codes that it is made of.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str = ""
    data: torch.Tensor | Callable[[], torch.Tensor] | None = None
    producer: Node | None = None
    id: int = field(default_factory=lambda: next(_ids))
    identity: Hashable = None
    quantisation: Quantisation | None = None
    codes: Value | None = None

    @property
    def key(self) -> Hashable:
        """What packed weights are shared by: equal for constants that are the same in every graph of a model."""
        return self.id if self.identity is None else self.identity

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def is_computed(self) -> bool:
        return isinstance(self.data, Computed)

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
        quantised = "" if self.quantisation is None else f"@{max(self.quantisation.scales):g},{self.quantisation.zero_point}"
        return f"{self.name or f'%{self.id}'}:{dtype}{quantised}{list(self.shape)}"

    __repr__ = __str__  # a dataclass's own goes through all producers, again for each use


@dataclass(eq=False)
class Node:
    """One operator on values. ``inputs`` may hold constants.

    Of values that are quantised it computes what their codes stand for, in float32; the result, after the epilogue, is rounded to
    the codes of the output.

    ``epilogue`` is what a product does to each result before it is stored: a chain of ``PointwiseOp`` in which ``("in", 0)`` is the
    result of the operator itself, and ``("in", i)`` the operand ``inputs[epilogue_start + i - 1]``.
    """

    op: Operator
    inputs: list[Value]
    outputs: list[Value]
    epilogue: list[PointwiseOp] = field(default_factory=list)
    name: str = ""
    module: str = ""  # of the model, that it comes from
    float32: bool = False  # whatever precision was asked for
    stored: Hashable = None  # how its weight is to be, where that is known: as it is ("float"), or a ``Kind`` of codes
    accurate: bool = False  # bars the implementations that accuracy="strict" leaves out

    @property
    def output(self) -> Value:
        return self.outputs[0]

    @property
    def epilogue_start(self) -> int:
        return self.op.operands

    def of(self, kind: type[T]) -> T:
        """The operator, which is a ``kind``."""
        assert isinstance(self.op, kind), f"{self.op} is no {kind.__name__}"
        return self.op

    def __str__(self) -> str:
        shown = " ".join(f"{field.name}={_shown(getattr(self.op, field.name))}" for field in fields(self.op))  # type: ignore[arg-type]
        epilogue = " | " + ", ".join(map(str, self.epilogue)) if self.epilogue else ""
        inputs = ", ".join(str(v) for v in self.inputs)
        outputs = ", ".join(str(v) for v in self.outputs)
        return f"{outputs} = {self.op}({inputs}) {shown}{epilogue}".rstrip()

    __repr__ = __str__


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and any(isinstance(entry, PointwiseOp) for entry in value):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value)


@dataclass(eq=False)
class Graph:
    """``nodes`` in running order; ``inputs`` are bound at each call, ``outputs`` are what a call gives.

    ``written``: the inputs, by number, whose memory is to become that of an output.
    """

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    written: dict[int, int] = field(default_factory=dict)

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
            for value in node.outputs:
                if value.id in live:
                    kept.append(node)
                    live.update([value.id for value in node.inputs])
                    break
        self.nodes = kept[::-1]
        return self

    def constants(self) -> list[Value]:
        """The constants that nodes read or that are outputs, each once."""
        read = [value for node in self.nodes for value in node.inputs] + self.outputs
        return list({value.id: value for value in read if value.is_constant}.values())

    def check(self) -> None:
        """``check_order``, and raise ``OperatorError`` where a node's operands and results are not those of its operator.

        It holds to the bounds of what an artefact may have, too, which a model of the user's own may leave.
        """
        from drystone.graph.ops.operator import check

        self.check_order()
        for node in self.nodes:
            check(node)

    def check_order(self) -> None:
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


def mark_accurate(graph: Graph) -> None:
    """Bar the implementations that ``accuracy="strict"`` leaves out."""
    for node in graph:
        node.accurate = True


def make_node(
    op: Operator, inputs: list[Value], dtype: torch.dtype | None = None, name: str = "", instead_of: Node | None = None
) -> Node:
    """A node with a new output (and its places), not yet in any graph; of the first input's dtype unless said.

    ``instead_of``: the node whose place it takes, from the same module and in the same precision.
    Raises ``OperatorError`` where the inputs are no operands of ``op``.
    """
    output = Value(op.shape(inputs), dtype or inputs[0].dtype, name, quantisation=inputs[0].quantisation if op.moves else None)
    node = Node(op, inputs, [output], name=name)
    if instead_of is not None:
        node.module, node.float32, node.stored = instead_of.module, instead_of.float32, instead_of.stored
    if op.places:
        node.outputs.append(Value(output.shape, torch.int64, f"{name}.places"))
    for value in node.outputs:
        value.producer = node
    return node


def constant(data: torch.Tensor, name: str = "") -> Value:
    return Value(tuple(data.shape), data.dtype, name, data=data)


def derived(value: Value, shape: tuple[int, ...], function: Callable[..., torch.Tensor], *operands: Any) -> Value:
    """The constant, of that shape, that ``function`` makes of the data of ``value`` and of operands; sizes may be among these."""
    data = computed(function, _data(value), *operands)
    return Value(shape, (data.value if isinstance(data, Computed) else data).dtype, value.name, data=data)


def said_of(value: Value, function: Callable[..., Any], *operands: Any) -> Any:
    """What ``function`` says of a constant's data and of operands. Where these come from symbolic sizes, they hold as long as it
    says the same."""
    return decided(function, _data(value), *operands)


def _data(value: Value) -> torch.Tensor | Computed:
    return value.data if isinstance(value.data, Computed) else value.constant.detach()
