"""One call of a function or a small module → the ATen calls that it makes, without its capture by torch.export.

The function runs once on tensors without data, and every operator that comes by is written down. Several of these, applied to
each other's results, are a model to ``graph/build.py`` as an exported program is.

conv(x)                     aten.convolution(x, weight, bias, …)
bn(%0)           →          aten.batch_norm(%0, …)
%1 + y                      aten.add.Tensor(%1, y)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from drystone.capture.alone import alone
from drystone.capture.export import Captured
from drystone.graph.ops.aten import map_structure
from drystone.graph.traced import functional as functional_kin

aten = torch.ops.aten


def _statistics_last(  # batch_norm and instance_norm; ``flag``: whether they take the statistics of the batch
    input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None, *more: Any, **named: Any
) -> tuple[Any, ...]:
    flag, momentum, eps = (*more, *named.values())
    return input, weight, bias, running_mean, running_var, flag, momentum, eps, False


# What dispatch would show in pieces, and the builders know whole, as torch.export has it.
_WHOLE: dict[Any, torch._ops.OpOverload] = {
    functional.linear: aten.linear.default,
    functional.batch_norm: aten.batch_norm.default,
    functional.instance_norm: aten.instance_norm.default,
    functional.layer_norm: aten.layer_norm.default,
    functional.group_norm: aten.group_norm.default,
    functional.rms_norm: aten.rms_norm.default,
}


@dataclass(frozen=True)
class Slot:
    """A tensor among the arguments of recorded calls: operand ``index`` of the whole, or (``item``) of what call ``index`` gave."""

    kind: str  # "operand" or "call"
    index: int
    item: int | None = None


@dataclass
class Call:
    """``target(*args, **kwargs)`` with a ``Slot`` for each computed tensor; ``result`` as the trace has it, without data."""

    target: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


@dataclass
class Trace:
    """What a function does to its operands.

    ``changes``: the operand that it changes in place, and gives back. Without calls it gives back the operand as it is.
    """

    operands: list[torch.Tensor]
    calls: list[Call] = field(default_factory=list)
    result: Slot = field(default_factory=lambda: Slot("operand", 0))
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    changes: int | None = None


class Untraceable(Exception):
    """The function does more than give one new tensor."""


def trace(function: Callable[..., Any], kinds: Sequence[tuple[Sequence[int], torch.dtype]]) -> Trace:
    """The ATen calls of ``function(*operands)`` for operands of these shapes and dtypes.

    Raises ``Untraceable`` where it gives anything but one tensor, shares memory with an operand that it does not merely give back
    changed, draws random numbers, or can't be run without data.
    """
    try:
        # Modes that the model has set are none of the trace's.
        with alone(), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            operands = [torch.empty(shape, dtype=dtype, device="cpu") for shape, dtype in kinds]
            recorder = _Recorder(operands)
            with recorder, _WholeFunctions(recorder):
                result = function(*operands)
            return recorder.finish(result)
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(str(error)) from error


class _Recorder(TorchDispatchMode):
    def __init__(self, operands: list[torch.Tensor]) -> None:
        super().__init__()
        self.trace = Trace(operands)
        self.slots = {id(operand): Slot("operand", i) for i, operand in enumerate(operands)}
        self.written: list[torch.Tensor] = []
        self.kept: list[Any] = []  # an id is a tensor's only while it lives
        self.inside = False  # of a function that is recorded whole

    def __torch_dispatch__(self, target: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = target(*args, **kwargs)
        if self.inside or not any(isinstance(leaf, torch.Tensor) for leaf in _several(result)):
            return result
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise Untraceable(f"{target} draws random numbers")
        if target._schema.is_mutable:
            self.written.append(args[0])
            target = functional_kin(target)
            if target is None or result is not args[0]:
                raise Untraceable("it writes to what it is given")
        self.record(target, args, kwargs, result)
        return result

    def record(self, target: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        index = len(self.trace.calls)
        given_args, given_kwargs = (map_structure(self.slot, item) for item in (args, kwargs))
        self.trace.calls.append(Call(target, given_args, given_kwargs, result))
        self.kept.append((args, kwargs, result))
        if isinstance(result, torch.Tensor):
            self.slots[id(result)] = Slot("call", index)
        else:
            self.slots.update({id(leaf): Slot("call", index, item) for item, leaf in enumerate(result)})

    def slot(self, leaf: Any) -> Any:
        return self.slots.get(id(leaf), leaf) if isinstance(leaf, torch.Tensor) else leaf

    def finish(self, result: Any) -> Trace:
        if not isinstance(result, torch.Tensor) or id(result) not in self.slots:
            raise Untraceable("it does not give one tensor")
        found, operands = self.trace, self.trace.operands
        found.result, found.shape, found.dtype = self.slots[id(result)], tuple(result.shape), result.dtype
        same = next((i for i, operand in enumerate(operands) if operand is result), None)
        memory = {operand.untyped_storage()._cdata: i for i, operand in enumerate(operands)}
        written = {memory.get(tensor.untyped_storage()._cdata) for tensor in self.written} - {None}
        if len(memory) < len(operands) or (same is None and result.untyped_storage()._cdata in memory):
            raise Untraceable("its result shares memory with what it is given")
        if written - {same}:
            raise Untraceable("it changes what it is given")
        found.changes = same if written else None
        return found


def _several(result: Any) -> Any:
    return result if isinstance(result, (list, tuple)) else [result]


class _WholeFunctions(TorchFunctionMode):
    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in _WHOLE or self.recorder.inside:
            return function(*args, **kwargs)
        self.recorder.inside = True
        try:
            result = function(*args, **kwargs)
        finally:
            self.recorder.inside = False
        if function in (functional.batch_norm, functional.instance_norm):
            args, kwargs = _statistics_last(*args, **kwargs), {}
        self.recorder.record(_WHOLE[function], args, kwargs, result)
        return result


class Composer:
    """Puts traces together, the operands of one being the results of others, to what ``graph/build.py`` takes."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.constants: dict[str, tuple[str, torch.Tensor]] = {}
        self.named: dict[int, fx.Node] = {}

    def input(self, shape: Sequence[int], dtype: torch.dtype) -> fx.Node:
        return self._placeholder("x", torch.empty(tuple(shape), dtype=dtype, device="meta"))

    def apply(self, trace: Trace, operands: Sequence[fx.Node]) -> fx.Node:
        """The node of the result of ``trace`` on these operands."""
        nodes: list[fx.Node] = []

        def resolve(leaf: Any) -> Any:
            if isinstance(leaf, torch.Tensor):
                return self._constant(leaf)
            return self._node(leaf, operands, nodes) if isinstance(leaf, Slot) else leaf

        for call in trace.calls:
            args, kwargs = (map_structure(resolve, item) for item in (call.args, call.kwargs))
            node = self.graph.call_function(call.target, args, kwargs)
            node.meta["val"] = call.result
            nodes.append(node)
        return self._node(trace.result, operands, nodes)

    def captured(self, result: fx.Node) -> Captured:
        program: Any = SimpleNamespace(graph=self.graph)
        signature: Any = None  # nobody calls this as a module
        return Captured(program, signature, self.constants, [result.name], set(self.constants))

    def _node(self, slot: Slot, operands: Sequence[fx.Node], nodes: list[fx.Node]) -> fx.Node:
        node = operands[slot.index] if slot.kind == "operand" else nodes[slot.index]
        if slot.item is None:
            return node
        item = self.graph.call_function(operator.getitem, (node, slot.item))
        item.meta["val"] = node.meta["val"][slot.item]
        return item

    def _constant(self, tensor: torch.Tensor) -> fx.Node:
        if id(tensor) not in self.named:
            node = self._placeholder("w", tensor)
            self.constants[node.name] = (node.name, tensor)
            self.named[id(tensor)] = node
        return self.named[id(tensor)]

    def _placeholder(self, name: str, value: torch.Tensor) -> fx.Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = value
        return node
