"""A TorchScript module → an ``nn.Module`` that torch.export can trace, and so the same program as the module it was made from.

The module's graph, all calls inlined, is run node by node on whatever it is given. Attributes are read from the module when
the interpreter is made, so decisions on them are settled by then; tensors among them, and those that freezing turned into
constants, become parameters and buffers on the module's own memory. Those that calls set are attributes of the interpreter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.jit._recursive import wrap_cpp_module

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
        script = wrapped(script)
        self._graph = script.inlined_graph
        self._known: dict[str, Any] = {}  # by the name of a value: what does not depend on the call
        self._tensors: dict[str, str] = {}  # by the name of a value: the parameter or buffer that it is
        self._objects: dict[str, str] = {}  # by the name of a value that is a module: what is before the names of its attributes
        self._set: set[str] = set()  # the qualified names of attributes that calls set
        self.paths: dict[str, str] = {}  # by the name of a buffer: the qualified name of the script's attribute
        inputs = list(self._graph.inputs())
        self._inputs = [value.debugName() for value in inputs[1:]]
        self._read(script, inputs[0].debugName())
        signature = _signature(script)

        def forward(self: Interpreter, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return self._call(bound.arguments.values())

        # Of the instance, as each script has parameters of its own.
        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        forward.__signature__ = signature.replace(parameters=[this, *signature.parameters.values()])  # type: ignore[attr-defined]
        self.forward = MethodType(forward, self)

    def _read(self, script: torch.jit.ScriptModule, root: str) -> None:
        """Read constants and attributes, and look that every node can be run."""
        modules: dict[str, Any] = {root: script}
        self._objects[root] = ""
        for node in _nodes(self._graph):
            if node.kind() == "prim::GetAttr":
                value = getattr(modules[node.input().debugName()], node.s("name"))
                if isinstance(value, torch.jit.ScriptModule):
                    modules[node.output().debugName()] = value
                    self._objects[node.output().debugName()] = f"{self._qualified(node)}."
            elif node.kind() == "prim::SetAttr":
                owner, name = modules[next(node.inputs()).debugName()], self._qualified(node)
                self._set.add(name)
                vars(self)[name] = getattr(owner, node.s("name"))
        parameters = {parameter.data_ptr() for parameter in script.parameters()}
        known: dict[Any, str] = {}
        for node in _nodes(self._graph):
            if node.kind() == "prim::Constant":
                value, path = _number(node.output().toIValue()), "constant"
            elif node.kind() == "prim::GetAttr":
                value, path = getattr(modules[node.input().debugName()], node.s("name")), self._qualified(node)
            else:
                _check(node)
                continue
            output = node.output().debugName()
            if output in modules or path in self._set:
                continue
            if isinstance(value, torch.Tensor):
                key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
                if key not in known:
                    known[key] = name = self._free(path.replace(".", "_"))
                    if node.kind() == "prim::Constant" or value.data_ptr() in parameters:
                        self.register_parameter(name, nn.Parameter(value.detach(), requires_grad=False))
                    else:
                        self.register_buffer(name, value.detach())
                        self.paths[name] = path
                self._tensors[output] = known[key]
            else:
                self._known[output] = value

    def _qualified(self, node: Any) -> str:
        """The name of the attribute that a node gets or sets."""
        return f"{self._objects[next(node.inputs()).debugName()]}{node.s('name')}"

    def _free(self, name: str) -> str:
        """``name``, with a number behind it where the module has one of that name."""
        return f"{name}_{len(self._buffers) + len(self._parameters)}" if hasattr(self, name) else name

    def _call(self, inputs: Any) -> Any:
        values = {**self._known, **{value: getattr(self, name) for value, name in self._tensors.items()}}
        values.update(zip(self._inputs, inputs, strict=True))
        results = self._run(self._graph, values)
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, block: Any, values: dict[str, Any]) -> list[Any]:
        """The results of a graph or a block; ``values`` are those that exist so far, by name."""
        for node in block.nodes():
            if node.kind() == "prim::Constant" or self._accesses(node, values):
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

    def _accesses(self, node: Any, values: dict[str, Any]) -> bool:
        """Whether a node gets or sets an attribute; then that is done."""
        if node.kind() == "prim::SetAttr":
            vars(self)[self._qualified(node)] = values[list(node.inputs())[1].debugName()]
        elif node.kind() != "prim::GetAttr":
            return False
        elif (name := self._qualified(node)) in self._set:
            values[node.output().debugName()] = vars(self)[name]
        return True

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


def wrapped(script: torch.jit.ScriptModule) -> Any:
    """The same module, with submodules that are modules too: those of a frozen one are not."""
    return wrap_cpp_module(script._c)  # type: ignore[no-untyped-call]


_CONTROL = {"prim::SetAttr", "prim::If", "prim::Loop", "prim::RaiseException", "prim::ListUnpack", "prim::TupleUnpack"}
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
