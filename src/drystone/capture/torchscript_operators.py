"""TorchScript's operators on what is no tensor: numbers, lists, dicts, sizes. Python's own do the same."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch


def _add(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a + b if alpha == 1 else a + alpha * b


def _div(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return a / b
    return a // b if rounding_mode == "floor" or (a < 0) == (b < 0) else -(-a // b)


def _min(a: Any, b: Any = None) -> Any:
    return min(a) if b is None else min(a, b)


def _max(a: Any, b: Any = None) -> Any:
    return max(a) if b is None else max(a, b)


def _size(tensor: torch.Tensor, dim: int | None = None) -> Any:
    return list(tensor.shape) if dim is None else tensor.shape[dim]


def _int(value: Any) -> Any:
    # A symbolic size stays one.
    return value if isinstance(value, torch.SymInt) else int(value)


def _append(items: list[Any], item: Any) -> list[Any]:
    items.append(item)
    return items


def _set_item(items: Any, index: Any, item: Any) -> Any:
    items[index] = item
    return items


# Where no argument is a tensor; with tensors, the operators of the same names are torch's. Keyed by the name after "aten::"
# or "prim::", as the overloads differ only in the types that Python tells apart itself.
WITHOUT_TENSORS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": lambda a, b, alpha=1: _add(a, -b, alpha),
    "mul": operator.mul,
    "div": _div,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "neg": operator.neg,
    "ceil": math.ceil,
    "floor": math.floor,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "min": _min,
    "max": _max,
    "slice": lambda items, start, stop, step: items[start:stop:step],
    "__range_length": lambda start, stop, step: len(range(start, stop, step)),
    "__derive_index": lambda index, start, step: start + index * step,
}

# Whatever the arguments are.
ALWAYS: dict[str, Callable[..., Any]] = {
    "size": _size,
    "dim": lambda tensor: tensor.dim(),
    "data": lambda tensor: tensor.detach(),  # what torch's own gives, its tracer loses sight of
    "len": len,
    "NumToTensor": lambda number: number,
    "Int": _int,
    "IntImplicit": _int,
    "Float": float,
    "FloatImplicit": float,
    "Bool": bool,
    "ScalarImplicit": lambda value: value.item() if isinstance(value, torch.Tensor) else value,
    "__not__": operator.not_,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__getitem__": operator.getitem,
    "__contains__": operator.contains,
    "_set_item": _set_item,
    "append": _append,
    "extend": lambda items, more: items.extend(more),
    "insert": lambda items, index, item: items.insert(index, item),
    "pop": lambda items, *index: items.pop(*index),
    "list": list,
    "dict": dict,
    "keys": lambda table: list(table.keys()),
    "values": lambda table: list(table.values()),
    "items": lambda table: list(table.items()),
    "format": lambda text, *values: text.format(*values),
    "warn": lambda *arguments: None,
    "Print": lambda *arguments: None,
    "unchecked_cast": lambda value: value,
    "Uninitialized": lambda: None,
    "TupleIndex": operator.getitem,
}
