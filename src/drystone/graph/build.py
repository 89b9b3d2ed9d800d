"""ATen → Graph: each call of an exported program becomes nodes of the graph by the function its operator has in ``builders``.

A call that has no function, or whose function declines, becomes an ``aten`` node that keeps the reason. Calls on constants
alone are computed here, once. In-place operators become their functional kin: capture lets through only those whose effect
nothing sees but through names of the very same tensor (drystone/capture/mutation.py).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from drystone.errors import UnsupportedError
from drystone.graph import builders  # noqa: F401  (fills the table)
from drystone.graph.builders.registry import Built, Declined, Function, table, table_of_elements
from drystone.graph.control_flow import REASON, control_flow
from drystone.graph.dtypes import FLOATS, INTEGERS
from drystone.graph.graph import Graph, Node, Value, constant, derived, identity_of, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.local_response_norm import recognize_local_response_norm
from drystone.graph.ops import Operator, OperatorError, Pointwise, Reshape
from drystone.graph.ops.aten import aten_node, is_strided, map_structure
from drystone.graph.tape import Computed, computed
from drystone.graph.traced import functional, hint, sizes, storage

if TYPE_CHECKING:
    from drystone.capture.export import Captured

# Whatever the dtypes of their operands: batch norm, whose constants are folded in float64, attention, its mask and its tables.
MIXED_DTYPES = {
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "scaled_dot_product_attention",
    "drystone::cached_attention",
}
# Their result does not depend on the numbers in their operand.
LIKE = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}


def build(captured: Captured) -> Graph:
    """The graph of a captured model.

    ``graph.inputs`` are the model's tensor inputs in flattened order, ``graph.outputs`` its tensor outputs likewise (an
    output may be an input or a constant, and one value may be several outputs). Constants are the model's own tensors,
    with whatever strides they have. The graph has no dead nodes.
    """
    with torch.no_grad():
        return _Builder(captured).run()


class _Builder:
    """Translates call after call. To the builder functions it is their ``Emitter``."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.graph = Graph()
        self.values: dict[fx.Node, Any] = {}  # a Value; a list of them (None among them) where a call gives several
        self.names_of_storage: dict[int, list[fx.Node]] = {}
        self.pending: list[Node] = []  # emitted for the current call
        self.current: fx.Node
        self.name = ""
        self.shape: tuple[int, ...] = ()
        self.dtype = torch.float32

    def run(self) -> Graph:
        program = self.captured.program
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self.placeholder(node)
            elif node.op == "call_function":
                try:
                    self.call(node)
                except UnsupportedError as error:
                    raise UnsupportedError(f"{error}\n{node.meta.get('stack_trace', '')}".rstrip()) from None
        by_name = {node.name: node for node in program.graph.nodes}
        hidden = [self.values[by_name[name]] for name in self.captured.hidden]
        self.graph.inputs = [value for value in self.graph.inputs if value not in hidden] + hidden
        self.graph.outputs = [self.values[by_name[name]] for name in self.captured.output_names]
        signature = self.captured.signature  # single operators have none
        if signature and (state := signature.state):
            first = len(self.graph.outputs) - state.results
            self.graph.written = {index: first + result for index, result in state.written.items()}
        return recognize_local_response_norm(self.graph.prune())

    def placeholder(self, node: fx.Node) -> None:
        name = node.name
        if name in self.captured.constants:
            qualified, tensor = self.captured.constants[name]
            value = constant(tensor.detach(), qualified)
            if name in self.captured.weights:  # the model's own, which stay where they are
                value.identity = identity_of(tensor)
            self.assign(node, value)
        elif isinstance(node.meta["val"], torch.Tensor):
            value = Value(sizes(node.meta["val"]), node.meta["val"].dtype, name)
            self.graph.inputs.append(value)
            self.assign(node, value)

    def assign(self, node: fx.Node, value: Any) -> None:
        self.values[node] = value
        if isinstance(node.meta.get("val"), torch.Tensor):
            self.names_of_storage.setdefault(storage(node), []).append(node)

    # One call

    def call(self, node: fx.Node) -> None:
        if node.target is operator.getitem and node.args[0] in self.values:
            source, index = node.args
            self.assign(node, self.values[source][index])  # type: ignore[index]
            return
        results = node.meta.get("val")
        tensors = [
            leaf for leaf in (results if isinstance(results, (list, tuple)) else [results]) if isinstance(leaf, torch.Tensor)
        ]
        if not tensors:
            return  # assertions, and arithmetic on sizes: their numbers are read where they are used
        if not isinstance(node.target, torch._ops.OpOverload):
            return self.assign(node, self.control_flow(node, results))
        target, mutates = node.target, node.target._schema.is_mutable
        if mutates:
            target = functional(target) or target
        if is_strided(target) and not _alone(node.all_input_nodes[0].meta["val"], tensors[0]):
            raise UnsupportedError(f"{target} reads past its operand's own elements, where a program holds something else")
        args = tuple([self.resolved(arg) for arg in node.args])
        kwargs = {name: self.resolved(arg) for name, arg in node.kwargs.items()}
        self.current, self.shape, self.dtype = node, sizes(tensors[0]), tensors[0].dtype
        value = self.translate(target, args, kwargs, results)
        if mutates:
            for name in list(self.names_of_storage[storage(node.args[0])]):  # type: ignore[arg-type]
                self.values[name] = value
        self.assign(node, value)

    def control_flow(self, node: fx.Node, results: Any) -> Any:
        found = control_flow(node)
        if found is None:
            raise UnsupportedError(f"{node.target} is control flow that a graph can't hold; move the decision out of the model")
        target, args = found
        self.current = node
        return self.aten(target, map_structure(self.resolve, args), {}, results, REASON)

    def resolve(self, leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return self.values[leaf] if leaf in self.values else hint(leaf.meta["val"])
        return hint(leaf)

    def resolved(self, item: Any) -> Any:
        return self.resolve(item) if isinstance(item, (fx.Node, int)) else map_structure(self.resolve, item)

    def translate(self, target: torch._ops.OpOverload, args: Any, kwargs: Any, results: Any) -> Any:
        operands: list[Value] = []
        for item in (*args, *kwargs.values()):
            if isinstance(item, Value):
                operands.append(item)
            elif isinstance(item, (list, tuple, dict)):
                map_structure(lambda leaf: operands.append(leaf) if isinstance(leaf, Value) else None, item)
        name = target._schema.name.removeprefix("aten::")
        folded = self.fold(target, name, args, kwargs, operands)
        if folded is not None:
            return folded
        self.pending = []
        try:
            built = self.native(target, name, args, kwargs, operands)
            self.verify(built, results)
        except Declined as declined:
            return self.aten(target, args, kwargs, results, str(declined))
        if self.pending:
            last = self.pending[-1]
            last.name = last.output.name = self.current.name
        self.graph.nodes += self.pending
        return built

    def native(self, target: torch._ops.OpOverload, name: str, args: Any, kwargs: Any, operands: list[Value]) -> Built:
        self.name = name
        function = self.function(target, name, operands)
        if 0 in self.shape or (name != "cat" and any(value.numel == 0 for value in operands)):
            raise Declined("an empty tensor")
        try:
            return function(self, *args, **kwargs)
        except OperatorError as error:
            raise Declined(str(error)) from None
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the call itself
                raise Declined(f"{target} with arguments that no builder knows: {error}") from error
            raise

    def function(self, target: torch._ops.OpOverload, name: str, operands: list[Value]) -> Function:
        """The builder for these operands: of floats where they and the result are of one float dtype."""
        of_floats, of_elements = (t.get(f"{name}.{target._overloadname}") or t.get(name) for t in (table, table_of_elements))
        if (of_floats or of_elements) is None:  # other namespaces are part of the name
            raise Declined(f"{target} has no native implementation")
        if name in MIXED_DTYPES:
            dtypes = {operands[0].dtype}
        else:  # a constant number does not promote what it meets
            dtypes = {value.dtype for value in operands if not value.is_constant or value.shape or len(operands) == 1}
        if of_floats is not None and len(dtypes | {self.dtype}) == 1 and self.dtype in FLOATS:
            return of_floats
        others = (dtypes | {self.dtype}).difference(FLOATS)
        if of_elements is None and not others:
            raise Declined("operands of different dtypes")
        if of_elements is None or others.difference(INTEGERS):
            raise Declined(f"a dtype other than float32 and bfloat16: {', '.join(sorted(map(str, others)))}")
        return of_elements

    def verify(self, built: Built, results: Any) -> None:
        """What a builder made must have the shape and dtype that torch says."""
        if isinstance(built, Value) and (built.shape, built.dtype) == (self.shape, self.dtype):
            return
        pairs = zip(built, results, strict=True) if isinstance(built, list) else [(built, results)]
        for value, fake in pairs:
            if value is not None and (value.shape, value.dtype) != (sizes(fake), fake.dtype):
                raise Declined(f"the builder made {value} where torch makes {fake.dtype} {list(sizes(fake))}")

    def aten(self, target: Callable[..., Any], args: Any, kwargs: Any, results: Any, reason: str) -> Any:
        outputs: list[Value] = []

        def output(fake: Any) -> Value | None:
            if not isinstance(fake, torch.Tensor):
                return None
            outputs.append(Value(sizes(fake), fake.dtype, f"{self.current.name}.{len(outputs)}" if outputs else self.current.name))
            return outputs[-1]

        built = [output(fake) for fake in results] if isinstance(results, (list, tuple)) else output(results)
        self.graph.nodes.append(self.located(aten_node(target, args, kwargs, outputs, reason, self.current.name)))
        return built

    def fold(self, target: torch._ops.OpOverload, name: str, args: Any, kwargs: Any, operands: list[Value]) -> Any:
        """The result as constants, where the operands are; None where it is computed at each call."""
        if any(not value.is_constant for value in operands) and name not in LIKE:
            return None
        if torch.Tag.nondeterministic_seeded in target.tags or target.namespace != "aten":
            return None

        def data(leaf: Any) -> Any:
            if not isinstance(leaf, Value):
                return leaf
            if leaf.is_constant:
                return leaf.data if leaf.is_computed else leaf.constant
            return _Like(leaf.shape, leaf.dtype)

        def call(args: Any, kwargs: Any) -> Any:
            made = target(*map_structure(_made_like, args), **map_structure(_made_like, kwargs))
            return made if isinstance(made, torch.Tensor) else list(made)

        given = map_structure(data, args), map_structure(data, kwargs)

        def folded(data: Any, fake: Any) -> Value | None:
            if isinstance(data, Computed):
                return Value(sizes(fake), fake.dtype, self.current.name, data=data)
            return constant(data, self.current.name) if isinstance(data, torch.Tensor) else None

        result, results = computed(call, *given), self.current.meta["val"]
        if isinstance(result, torch.Tensor):
            return constant(result, operands[0].name if operands else self.current.name)
        if isinstance(result, Computed):
            return folded(result, results)
        return [folded(item, fake) for item, fake in zip(result, results, strict=True)]

    def located(self, node: Node) -> Node:
        """Note the module of the model that the node comes from."""
        stack = self.current.meta.get("nn_module_stack")
        if stack:
            node.module = next(reversed(stack.values()))[0]
        return node

    # What builder functions use

    def emit(self, op: Operator, inputs: list[Value], dtype: torch.dtype | None = None) -> Value:
        node = make_node(op, inputs, dtype, f"{self.current.name}.{len(self.pending)}")
        self.pending.append(self.located(node))
        return node.output

    def pointwise(self, inputs: list[Value], ops: list[PointwiseOp]) -> Value:
        return self.emit(Pointwise(tuple(ops)), inputs)

    def reshape(self, x: Value, shape: Iterable[int]) -> Value:
        shape = tuple(shape)
        if x.shape == shape:
            return x
        if x.is_constant:
            return derived(x, shape, torch.reshape, shape)
        return self.emit(Reshape(shape), [x])

    def constant(self, data: torch.Tensor, name: str = "") -> Value:
        return constant(data, name or self.current.name)

    def reads(self, index: int) -> bool:
        return any(user.target is operator.getitem and user.args[1] == index and user.users for user in self.current.users)


@dataclass(frozen=True)
class _Like:
    """Stands for a tensor whose numbers do not matter."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def _made_like(leaf: Any) -> Any:
    return torch.empty(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, _Like) else leaf


def _alone(operand: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether ``result``, a view by strides, stays within ``operand``, which lies densely from the beginning of its memory."""
    last = hint(result.storage_offset()) + sum((hint(n) - 1) * hint(s) for n, s in zip(result.shape, result.stride(), strict=True))
    return operand.is_contiguous() and hint(operand.storage_offset()) == 0 and last < math.prod(sizes(operand))
