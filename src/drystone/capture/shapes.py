"""One capture for many shapes: which dimensions may vary, and what a symbolic program is for given sizes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import Dim
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from drystone.capture.export import Captured, describe
from drystone.graph.traced import hint

# torch.export takes sizes of 0 and 1 for constants, and a program traced for others need not hold for them.
LEAST = 2


def batch_inputs(tensors: list[torch.Tensor]) -> list[int]:
    """The inputs whose first dimension is taken for the batch: those of the same first size as the first that has any."""
    sizes = [tensor.shape[0] if tensor.dim() else None for tensor in tensors]
    batch = next((size for size in sizes if size is not None), None)
    return [i for i, size in enumerate(sizes) if size is not None and size == batch]


def is_text(tensor: torch.Tensor) -> bool:
    """Whether it is rows of tokens: the next ones are of another length."""
    return tensor.dim() == 2 and tensor.dtype in (torch.int32, torch.int64)


def varying_shapes(parameters: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], axes: Sequence[set[int]]) -> Any:
    """``dynamic_shapes`` for torch.export that leave these axes of each tensor to vary, as far as the model does."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    each = iter(axes)

    def dims(tensor: torch.Tensor) -> Any:
        return {axis: Dim.AUTO for axis in next(each) if tensor.shape[axis] >= LEAST} or None

    varying = [dims(leaf) if isinstance(leaf, torch.Tensor) else None for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(varying, spec)
    return dict(parameters.bind(*args, **kwargs).arguments)


def dynamic_dims(captured: Captured) -> list[set[int]]:
    """For each tensor input the dimensions that a symbolic program lets vary."""
    return [{axis for axis, size in enumerate(shape) if not isinstance(size, int)} for shape in _input_shapes(captured)]


def symbols_for(captured: Captured, shapes: Sequence[tuple[int, ...]], least: int = LEAST) -> dict[Any, int] | None:
    """The values that the symbols of a symbolic capture have where its inputs have these shapes, in an order of the capture's.

    None where they contradict each other, or it does not hold for them: a size below ``least``, or beyond the declared ranges.
    ``least`` below 2 is for a model that is known to treat a size of 1 as any other.
    """
    symbols: dict[Any, int] = {}
    for _, _, symbol, given in _symbols(captured, shapes):
        if symbols.setdefault(symbol, given) != given:
            return None
    if any(value < least for value in symbols.values()):
        return None
    for symbol, bounds in captured.program.range_constraints.items():
        lower = least if bounds.lower == LEAST else bounds.lower
        if symbol in symbols and not lower <= symbols[symbol] <= bounds.upper:
            return None
    return symbols


def resize(captured: Captured) -> Captured | None:
    """A symbolic capture within ``resized``; None where an assertion of the trace bars these sizes."""
    if not all(map(_holds, captured.program.graph.nodes)):
        return None
    return describe(captured.program, captured.signature.parameters, captured.state)


def too_large(captured: Captured, shapes: Sequence[tuple[int, ...]]) -> dict[tuple[int, int], int]:
    """The inputs and axes of these shapes whose size is above what a symbolic capture takes, and that."""
    most = {symbol: bounds.upper for symbol, bounds in captured.program.range_constraints.items()}
    each = _symbols(captured, shapes)
    return {(i, axis): int(most[symbol]) for i, axis, symbol, given in each if symbol in most and given > most[symbol]}


def _symbols(captured: Captured, shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int, Any, int]]:
    """The axes that are a symbol of their own: the input, the axis, the symbol, the size in ``shapes``."""
    for i, (traced, shape) in enumerate(zip(_input_shapes(captured), shapes, strict=True)):
        for axis, (size, given) in enumerate(zip(traced, shape, strict=True)):
            if not isinstance(size, int) and size.node.expr.is_Symbol:
                yield i, axis, size.node.expr, given


def _input_shapes(captured: Captured) -> list[torch.Size]:
    examples = {node.name: node.meta.get("val") for node in captured.program.graph.find_nodes(op="placeholder")}
    specs = captured.program.graph_signature.input_specs
    inputs = [examples.get(getattr(spec.arg, "name", "")) for spec in specs if spec.kind is InputKind.USER_INPUT]
    return [example.shape for example in inputs if isinstance(example, torch.Tensor)]


def _holds(node: fx.Node) -> bool:
    """Whether ``node``, if it is an assertion on sizes, is true for the sizes in force."""
    if node.target is not torch.ops.aten._assert_scalar.default:
        return True
    condition = node.args[0]
    return bool(hint(condition.meta["val"] if isinstance(condition, fx.Node) else condition))
