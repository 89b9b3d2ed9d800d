"""The table of builder functions, and what they say when they can't serve a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

import torch

from drystone.graph.graph import Value
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Operator
from drystone.graph.tape import Number

# What a builder function gives: a value, or the values of an operator with several results (None where nothing reads one).
Built: TypeAlias = Value | list[Value | None]


class Declined(Exception):
    """A builder function does not serve these arguments; the message says why, for ``explain()``."""


class Emitter(Protocol):
    """What builder functions see of the graph under construction, and of the ATen call that is being translated."""

    name: str  # of the operator, without its overload
    shape: tuple[int, ...]  # of the call's (first) result
    dtype: torch.dtype

    def emit(self, op: Operator, inputs: list[Value], dtype: torch.dtype | None = None) -> Value:
        """Append a node and give its output; its dtype is the first input's unless said."""

    def pointwise(self, inputs: list[Value], ops: list[PointwiseOp]) -> Value:
        """Append a ``pointwise`` node; its shape is what the inputs broadcast to."""

    def reshape(self, x: Value, shape: Iterable[int]) -> Value:
        """``x`` in another shape; itself where it has it already."""

    def constant(self, data: torch.Tensor, name: str = "") -> Value:
        """A constant."""

    def reads(self, index: int) -> bool:
        """Whether anything reads result ``index`` of the call."""


Function = Callable[..., Built]
table: dict[str, Function] = {}  # of floats, all operands of one dtype
table_of_elements: dict[str, Function] = {}  # of integers and truth values too, in any mixture


def builds(*names: str, any_dtype: bool = False) -> Callable[[Function], Function]:
    """Enter a function for ATen operators by name, all overloads and the in-place variant (``relu_``) included.

    A name may hold an overload (``"view.dtype"``), which then wins over the bare name. ``any_dtype``: it serves integers and truth
    values as well.
    """

    def enter(function: Function) -> Function:
        for tables in [table, table_of_elements] if any_dtype else [table]:
            for name in names:
                assert name not in tables, f"two builders for {name}"
                tables[name] = function
        return function

    return enter


def builds_elements(*names: str) -> Callable[[Function], Function]:
    """As ``builds``, for calls with an operand or a result that is no float, and for operators that no other builder serves."""

    def enter(function: Function) -> Function:
        for name in names:
            assert name not in table_of_elements, f"two builders for {name}"
            table_of_elements[name] = function
        return function

    return enter


def axis(dim: int, rank: int) -> int:
    return dim + rank if dim < 0 else dim


def as_list(item: int | Iterable[int], count: int) -> tuple[int, ...]:
    """ATen's int[n] arguments: one int, or a list of one, stands for all axes."""
    listed = (item,) if isinstance(item, int) else tuple(item)
    return listed * count if len(listed) == 1 else listed


def scalar(item: Any) -> float | None:
    """The number, where ``item`` is a Python number or a constant tensor of no dimensions; None otherwise."""
    if isinstance(item, (bool, int, float, Number)):
        return float(item)
    if isinstance(item, Value) and item.shape == () and item.is_constant and not item.dtype.is_complex:
        return float(item.constant)
    return None
