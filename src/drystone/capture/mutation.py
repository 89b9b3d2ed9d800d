"""In-place operators in an exported program.

torch.export keeps ``relu_`` and ``add_`` as the model has them. Most are harmless: the tensor has one name, or several for
the same shape, so that from there on the result can take the tensor's place. Where a view of other shape sees the change,
or an input or a buffer is changed, torch's own functionalisation has to take the program through a second trace.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from drystone.errors import UnsupportedError
from drystone.graph.traced import functional, storage

# Marked as mutating, but what they change is not the numbers.
HARMLESS = {"aten::detach_", "aten::requires_grad_"}

_aten = torch.ops.aten
DROPOUTS = {getattr(_aten, name).default for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")}


# They write to running statistics, which their schemas do not say.
_UPDATING = {_aten.batch_norm.default, _aten.native_batch_norm.default, _aten.instance_norm.default}


def mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def functionalize(program: ExportedProgram) -> ExportedProgram:
    """The program, or an equal one without in-place operators if it has some that are seen elsewhere."""
    apart = set()
    for node in program.graph.nodes:
        if _updates_statistics(node):
            raise UnsupportedError(
                f"each call of the model updates the running statistics of a norm, as {node.target} with training=True does, and "
                "a program would not"
            )
        if _is_its_input(node):
            # The tracer gives it memory of its own, and views of it are of that.
            apart.add(storage(node))
            node.target, node.args, node.meta["val"] = _aten.alias.default, node.args[:1], node.args[0].meta["val"]
    return program.run_decompositions({}) if _needs_functionalization(program.graph, apart) else program


def _is_its_input(node: fx.Node) -> bool:
    """Whether the result is the very tensor that goes in: a dropout that does nothing."""
    if node.op != "call_function" or node.target not in DROPOUTS:
        return False
    (x, _, train) = node.args
    return not train and isinstance(x, fx.Node)


def _updates_statistics(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target not in _UPDATING:
        return False
    _, _, _, running_mean, running_var, training, *_ = node.args
    return bool(training) and not (running_mean is None and running_var is None)


def _needs_functionalization(graph: fx.Graph, apart: set[int]) -> bool:
    """``apart``: memory that is in truth another tensor's."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    names: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), torch.Tensor):
            names.setdefault(storage(node), []).append(node)
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return True  # no_grad and autocast regions: functionalisation writes them out
        if not mutates(node) or node.target._schema.name in HARMLESS:
            continue
        if (
            not _replaceable(node)
            or storage(node.args[0]) in apart
            or any(_sees(node, name, order) for name in names[storage(node.args[0])])
        ):
            return True
    return False


def _replaceable(node: fx.Node) -> bool:
    """Whether the functional kin of the operator computes the same from the same arguments."""
    assert isinstance(node.target, torch._ops.OpOverload)
    written = [index for index, arg in enumerate(node.target._schema.arguments) if arg.alias_info and arg.alias_info.is_write]
    if written != [0] or functional(node.target) is None:
        return False
    target = node.args[0].meta["val"]  # type: ignore[union-attr]
    operands = [user.meta["val"] for user in node.all_input_nodes if isinstance(user.meta["val"], torch.Tensor)]
    return all(operand.dtype == target.dtype for operand in operands)  # in place, the target's dtype wins


def _sees(node: fx.Node, name: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether the change that ``node`` makes to its first argument shows through ``name``, another tensor on that memory."""
    if name.op == "placeholder":
        return True
    if order[name] >= order[node] or all(order[user] <= order[node] for user in name.users):
        return False
    return _geometry(name) != _geometry(node.args[0])


def _geometry(node: Any) -> tuple[Any, ...]:
    tensor = node.meta["val"]
    return tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset()


def read_by(program: ExportedProgram, outputs: list[str]) -> set[str]:
    """The names of all nodes that the named outputs depend on."""
    by_name = {node.name: node for node in program.graph.nodes}
    stack = [by_name[name] for name in outputs]
    seen = set(stack)
    while stack:
        for source in stack.pop().all_input_nodes:
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return {node.name for node in seen}
