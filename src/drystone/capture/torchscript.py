"""A TorchScript module → an ``nn.Module`` that torch.export can trace, and so the same program as the module it was made from.

The module's graph, all calls inlined, is run node by node on whatever it is given. Attributes are read from the module when
the interpreter is made, so decisions on them are settled by then; tensors among them, and those that freezing turned into
constants, become buffers on the module's own memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from drystone.capture.torchscript_operators import ALWAYS, WITHOUT_TENSORS
from drystone.errors import CaptureError, UnsupportedError


class ScriptError(RuntimeError):
    """Something failed at a line of a TorchScript module."""


class Interpreter(nn.Module):
    """Runs ``script.forward``: traced, scripted or frozen, from memory or a file. Called as ``script`` is.

    Raises ``UnsupportedError`` for what can't be interpreted, such as a module that ``torch.jit.optimize_for_inference`` has
    packed; a call raises ``CaptureError`` where the module is in training mode, ``ScriptError`` where it fails.
    """

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.training = getattr(script, "training", False)  # freezing drops the attribute
        self._graph = script.inlined_graph
        self._known: dict[str, Any] = {}  # by the name of a value: what does not depend on the call
        self._tensors: dict[str, str] = {}  # by the name of a value: the buffer that it is
        inputs = list(self._graph.inputs())
        self._inputs = [value.debugName() for value in inputs[1:]]
        self._read(script, inputs[0].debugName())
        signature = _signature(script)

        def forward(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return self._call(bound.arguments.values())

        # Of the instance, as each script has parameters of its own.
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward

    def _read(self, script: torch.jit.ScriptModule, root: str) -> None:
        """Read constants and attributes, and look that every node can be run."""
        objects = {root: (script, "")}
        buffers: dict[Any, str] = {}
        for node in _nodes(self._graph):
            if node.kind() == "prim::Constant":
                value, name = _number(node.output().toIValue()), "constant"
            elif node.kind() == "prim::GetAttr":
                owner, path = objects[node.input().debugName()]
                value, name = getattr(owner, node.s("name")), f"{path}{node.s('name')}"
            else:
                _check(node)
                continue
            output = node.output().debugName()
            if isinstance(value, torch.jit.ScriptModule):
                objects[output] = (value, f"{name}_")
            elif isinstance(value, torch.Tensor):
                key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
                if key not in buffers:
                    buffers[key] = self._free(name)
                    self.register_buffer(buffers[key], value.detach())
                self._tensors[output] = buffers[key]
            else:
                self._known[output] = value

    def _free(self, name: str) -> str:
        """``name``, with a number behind it where the module has one of that name."""
        return f"{name}_{len(self._buffers)}" if hasattr(self, name) else name

    def _call(self, inputs: Any) -> Any:
        values = {**self._known, **{value: getattr(self, name) for value, name in self._tensors.items()}}
        values.update(zip(self._inputs, inputs, strict=True))
        results = self._run(self._graph, values)
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, block: Any, values: dict[str, Any]) -> list[Any]:
        """The results of a graph or a block; ``values`` are those that exist so far, by name."""
        for node in block.nodes():
            if node.kind() in ("prim::Constant", "prim::GetAttr"):
                continue
            try:
                results = self._node(node, values)
            except (CaptureError, ScriptError):
                raise
            except Exception as error:
                first = str(error).strip().split("\n", 1)[0]
                raise ScriptError(f"{_line(node)}: {type(error).__name__}: {first}") from error
            values.update(zip([value.debugName() for value in node.outputs()], results, strict=True))
        return [values[value.debugName()] for value in block.outputs()]

    def _node(self, node: Any, values: dict[str, Any]) -> Sequence[Any]:
        """The results of a node."""
        kind = node.kind()
        inputs = [values[value.debugName()] for value in node.inputs()]
        if kind == "prim::If":
            return self._run(list(node.blocks())[0 if inputs[0] else 1], values)
        if kind == "prim::Loop":
            return self._loop(next(node.blocks()), inputs, values)
        if kind == "prim::RaiseException":
            raise RuntimeError(str(inputs[0]))
        if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
            return inputs[0]
        result = _STRUCTURES[kind](inputs) if kind in _STRUCTURES else _operate(node, inputs)
        if node.outputsSize() > 1:
            return result
        return [result] if node.outputsSize() else []

    def _loop(self, body: Any, inputs: Sequence[Any], values: dict[str, Any]) -> Sequence[Any]:
        limit, go_on, *carried = inputs
        names = [value.debugName() for value in body.inputs()]
        for index in range(limit):
            if not go_on:
                break
            values.update(zip(names, [index, *carried], strict=True))
            go_on, *carried = self._run(body, values)
        return carried


_CONTROL = {"prim::If", "prim::Loop", "prim::RaiseException", "prim::ListUnpack", "prim::TupleUnpack"}
_STRUCTURES: dict[str, Callable[[list[Any]], Any]] = {
    "prim::ListConstruct": list,
    "prim::TupleConstruct": tuple,
    "prim::DictConstruct": lambda items: dict(zip(items[::2], items[1::2], strict=True)),
}


def _check(node: Any) -> None:
    kind = node.kind()
    if "mkldnn" in kind.lower():
        raise UnsupportedError(
            f"the TorchScript module holds {kind}: it was made by torch.jit.optimize_for_inference, whose packed weights can't be "
            "read; give the module as it was before that"
        )
    known = kind in _CONTROL or kind in _STRUCTURES or kind.split("::")[1] in ALWAYS
    if not known and node.schema() == "(no schema)":
        raise UnsupportedError(f"the TorchScript module holds {kind}, which drystone does not read: {_line(node)}")


def _number(value: Any) -> Any:
    """Tracing makes tensors of Python's numbers: sizes are computed with them, so they become numbers again."""
    if isinstance(value, torch.Tensor) and value.dim() == 0 and value.dtype in _NUMBERS.values():
        return value.item()
    return value


# The dtypes of the tensors that tracing makes of numbers.
_NUMBERS = {int: torch.int64, float: torch.float64}


def _operate(node: Any, inputs: list[Any]) -> Any:
    """The result, or the tuple of results, of an operator."""
    namespace, name = node.kind().split("::")
    if namespace in ("aten", "prim"):
        if name in ALWAYS:
            return ALWAYS[name](*inputs)
        if name in WITHOUT_TENSORS and not any(isinstance(value, torch.Tensor) for value in inputs):
            return WITHOUT_TENSORS[name](*inputs)
    schema = torch._C.parse_schema(node.schema())
    args, kwargs = [], {}
    for argument, value in zip(schema.arguments, inputs, strict=True):
        if str(argument.type) == "Tensor" and type(value) in _NUMBERS:
            value = torch.tensor(value, dtype=_NUMBERS[type(value)])
        if argument.name in ("train", "training") and value and ("dropout" in name or "batch_norm" in name):
            raise CaptureError(f"the TorchScript module runs {name} in training mode; call model.eval() before it is made")
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    packet = getattr(getattr(torch.ops, namespace), name)
    return getattr(packet, schema.overload_name or "default")(*args, **kwargs)


def _nodes(block: Any) -> Iterator[Any]:
    """All nodes of a graph or a block, with those of the blocks in them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _signature(script: torch.jit.ScriptModule) -> inspect.Signature:
    """How ``script.forward`` is called; the schema says it, Python sees only ``*args``."""
    return inspect.Signature(
        [
            inspect.Parameter(
                argument.name,
                inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
            )
            for argument in script.forward.schema.arguments[1:]  # type: ignore[attr-defined]
        ]
    )


def _line(node: Any) -> str:
    """The line of the model's own code that the node comes from, where TorchScript has kept it."""
    lines = [line.strip() for line in node.sourceRange().splitlines()]
    marked = [i for i, line in enumerate(lines) if "~" in line]
    return lines[marked[0] - 1] if marked and marked[0] else node.kind()
