"""An operator of the graph as JSON: its fields by name, each read as its type and bounds say.

What comes from a file is then held to what the operator itself demands of its operands (``graph/ops``).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Union

from drystone.artefact.document import entries, finite, listed, number, plain, text, truth, whole, word
from drystone.errors import ArtefactError
from drystone.graph.graph import Node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Operator, OperatorError
from drystone.graph.ops.operator import FINITE, MAX_STEP, OneOf, Whole
from drystone.graph.ops.operator import check as fits


def check(node: Node) -> None:
    """Raise ``ArtefactError`` unless the native side, and torch, can be trusted with ``node``."""
    try:
        fits(node)
    except OperatorError as error:
        raise ArtefactError(str(error)) from None


def of_operator(op: Operator) -> dict[str, Any]:
    """The object that ``operator`` reads."""
    return {field: _plain(getattr(op, field)) for field in op.hints()}


def operator(kind: type[Operator], item: Any, what: str) -> Operator:
    """An operator of this kind, with fields of the right types and within bounds. Raises ``ArtefactError``."""
    hints = kind.hints()
    given = entries(item, f"{what}: the attributes", *hints)
    fields = {field: _typed(entry, hint, f"{what}: {field}") for (field, hint), entry in zip(hints.items(), given, strict=True)}
    return kind(**fields)


def instructions(item: Any, what: str) -> list[PointwiseOp]:
    """A chain: ``[[kind, [["in", i] or ["reg", j], …], alpha, beta], …]``."""
    return [_instruction(entry, what) for entry in listed(item, what)]


def of_instructions(ops: Sequence[PointwiseOp]) -> list[Any]:
    """The list that ``instructions`` reads."""
    return [plain([op.kind, op.args, op.alpha, op.beta]) for op in ops]


def _instruction(item: Any, what: str) -> PointwiseOp:
    kind, args, alpha, beta = listed(item, what, 4)
    pairs = [listed(arg, what, 2) for arg in listed(args, what)]
    operands = tuple((text(where, what), whole(index, what, 0, MAX_STEP)) for where, index in pairs)
    return PointwiseOp(text(kind, what), operands, number(alpha, what), number(beta, what))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and value and isinstance(value[0], PointwiseOp):
        return of_instructions(value)
    return plain(value)


def _typed(item: Any, hint: Any, what: str) -> Any:
    """A value of the type that ``hint`` says, out of JSON."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        inner, *bounds = arguments
        for bound in bounds:
            if isinstance(bound, Whole):
                return whole(item, what, bound.low, bound.high)
            if isinstance(bound, OneOf):
                return word(item, what, bound)
            if bound is FINITE:
                return finite(item, what)
        return _typed(item, inner, what)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if item is None else _typed(item, inner, what)
    if origin is tuple:
        if arguments[-1] is ...:
            return tuple(_typed(entry, arguments[0], what) for entry in listed(item, what))
        return tuple(_typed(entry, kind, what) for entry, kind in zip(listed(item, what, len(arguments)), arguments, strict=True))
    return _READERS[hint](item, what)


_READERS: dict[Any, Any] = {bool: truth, float: number, int: whole, str: text, PointwiseOp: _instruction}
