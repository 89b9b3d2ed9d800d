"""What can be read off a node of an exported program: sizes, memory, and the functional kin of its operator."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import fx
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from drystone.errors import UnsupportedError
from drystone.graph.tape import Number

# The symbols' values, and what was found of symbolic numbers with them so far: by the id of each, which is kept beside it.
_sizes: ContextVar[tuple[dict[Any, Any], dict[int, tuple[Any, Any]]] | None] = ContextVar("sizes", default=None)


@contextmanager
def resized(symbols: dict[Any, Any]) -> Iterator[None]:
    """Within, symbolic numbers are what they are for these values of the program's symbols, not the example's. The values are
    numbers of sympy's, or of a ``Tape``."""
    token = _sizes.set((symbols, {}))
    try:
        yield
    finally:
        _sizes.reset(token)


def hint(size: Any) -> Any:
    """A symbolic number as the number it had in the example, or has in ``resized``; anything else as it is."""
    if not isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return size
    if (resizing := _sizes.get()) is not None:
        symbols, found = resizing
        node = size.node
        if id(node) not in found:
            if not node.expr.free_symbols <= symbols.keys():
                raise UnsupportedError(f"a size depends on more than the sizes of the inputs ({size})")
            found[id(node)] = node, _evaluated(node, symbols)
        return found[id(node)][1]
    if not size.node.has_hint():
        raise UnsupportedError(f"a size depends on the numbers in a tensor ({size}); give the model a result of fixed size")
    return size.node.hint


def _evaluated(node: Any, symbols: dict[Any, Any]) -> Any:
    if not any(isinstance(value, Number) for value in symbols.values()):
        return node.pytype(node.expr.xreplace(symbols))
    found = sympy_interp(_Arithmetic, symbols, node.expr)
    return found if isinstance(found, Number) else node.pytype(found)


class _Arithmetic(PythonReferenceAnalysis):
    """Of Python, where torch takes only its own numbers."""

    minimum, maximum = staticmethod(min), staticmethod(max)
    int_truediv = staticmethod(operator.truediv)
    not_ = staticmethod(operator.not_)


def sizes(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple([size if type(size) is int else hint(size) for size in tensor.shape])


def storage(node: fx.Node) -> int:
    """What tells tensors that share memory from others: equal for a tensor and its views."""
    return node.meta["val"].untyped_storage()._cdata


def functional(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """``relu_.default`` → ``relu.default``; None where there is none."""
    packet = getattr(getattr(torch.ops, target.namespace), target._schema.name.split("::")[1].removesuffix("_"), None)
    kin = getattr(packet, target._overloadname, None)
    return kin if kin is not target else None
