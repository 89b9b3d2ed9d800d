"""An operator of the graph: one class, which is all that is said of it.

Its fields are what a node of it has besides operands, each with a type and bounds. It gives the shapes of its results from its
operands (raising ``OperatorError`` where the native side could not be trusted with them), computes them plainly with torch, and
has what passes and the planner ask as flags. Adding one is a class here, a builder, and an implementation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Union

import torch

from drystone.errors import DrystoneError
from drystone.graph.dtypes import FLOATS
from drystone.graph.instructions import INSTRUCTIONS, PointwiseOp, run_instructions

if typing.TYPE_CHECKING:
    from drystone.graph.graph import Node, Value

Tensor = torch.Tensor
Shape = tuple[int, ...]

# Strides, dilations, paddings and the like: no model comes near, and products of a few of them fit 64 bits.
MAX_STEP = 1 << 20
# Along an axis that is sliced, gathered, padded, expanded or resized: a table with an entry for each index is made.
MAX_TABLE = 1 << 24
MAX_INSTRUCTIONS = 1000
MAX_SIZE = 2**31 - 1


class OperatorError(DrystoneError):
    """Raised where an operator's fields are out of bounds, or its operands do not fit it or each other."""


def require(condition: object, problem: str) -> None:
    """Raise ``OperatorError`` unless ``condition``."""
    if not condition:
        raise OperatorError(problem)


# -- fields --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """An int from ``low`` to ``high``."""

    low: int
    high: int


class OneOf(tuple[str, ...]):
    """One of some words."""


FINITE = "a finite float"

Step = Annotated[int, Whole(1, MAX_STEP)]
Size = Annotated[int, Whole(0, MAX_STEP)]
Axis = Annotated[int, Whole(0, MAX_TABLE)]
Finite = Annotated[float, FINITE]
Steps = tuple[Step, ...]
Sizes = tuple[Size, ...]
SignedSteps = tuple[Annotated[int, Whole(-MAX_STEP, MAX_STEP)], ...]
Indices = tuple[Axis, ...]
Dims = tuple[Annotated[int, Whole(0, MAX_SIZE)], ...]


def bounded(value: Any, hint: Any, what: str) -> None:
    """Raise ``OperatorError`` unless ``value`` is of the type and within the bounds that ``hint`` says."""
    origin, bounds = typing.get_origin(hint), list[Any]()
    if origin is Annotated:
        hint, *bounds = typing.get_args(hint)
        origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        if value is not None:
            bounded(value, hint, what)
    elif origin is tuple:
        require(type(value) is tuple, f"{what}: {value!r:.80} is no tuple")
        kinds = typing.get_args(hint)
        if kinds[-1] is not ...:
            require(len(value) == len(kinds), f"{what} must have {len(kinds)} entries, and has {len(value)}")
        for entry, kind in zip(value, itertools.repeat(kinds[0]) if kinds[-1] is ... else kinds, strict=False):
            bounded(entry, kind, what)
    else:
        require(type(value) is hint, f"{what}: {value!r:.80} is no {hint.__name__}")
    for bound in bounds:
        if isinstance(bound, Whole):
            require(bound.low <= value <= bound.high, f"{what}: {value!r:.80} is no integer from {bound.low} to {bound.high}")
        elif isinstance(bound, OneOf):
            require(value in bound, f"{what}: {value!r:.80} is none of {', '.join(bound)}")
        elif bound is FINITE:
            require(math.isfinite(value), f"{what} is not finite")


# -- operators -----------------------------------------------------------------------------------------------------------------

OPERATORS: dict[str, type[Operator]] = {}

# A small node of an operator: its fields, the shapes of its operands and of its constants, float32 but where a dtype comes first.
Sample = tuple[tuple[Any, ...], list[tuple[Any, ...]], list[tuple[Any, ...]]]
IMAGE, ROWS = (1, 16, 6, 6), (2, 4, 16)


class Operator:
    """The root of all: subclasses are frozen dataclasses. ``name`` is what graphs, files and ``explain()`` show."""

    name: ClassVar[str]
    sample: ClassVar[Sample | None] = None
    dtypes: ClassVar[tuple[torch.dtype, ...]] = FLOATS  # of operands and results
    keeps_dtype: ClassVar[bool] = False  # operands and result are of one dtype
    converts: ClassVar[bool] = False  # its kernels read one float dtype and write another
    quantises: ClassVar[bool] = False  # its operands and its result may be quantised
    factors: ClassVar[int] = 0  # of a product: its operands that are multiplied, which come first
    takes_epilogue: ClassVar[bool] = False
    moves: ClassVar[bool] = False  # its result holds numbers of its operands, none of them computed
    views: ClassVar[bool] = False  # its result may lie in the memory of its operand
    tabled: ClassVar[bool] = False  # the native side makes a table of an entry for each index along an axis of the result

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "name" in cls.__dict__:
            assert cls.name not in OPERATORS, f"two operators called {cls.name}"
            OPERATORS[cls.name] = cls

    def __str__(self) -> str:
        return self.name

    @classmethod
    @cache
    def hints(cls) -> dict[str, Any]:
        """Field → its type, with bounds."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @property
    def operands(self) -> int:
        """How many operands it has before those of its epilogue."""
        return 1

    def operations(self, inputs: Sequence[Value], output: Value) -> int:
        """The multiplications and additions of a product; 0 of what is none."""
        return 0

    @property
    def places(self) -> bool:
        """Whether a second result says where along an axis each entry of the first was found, in int64."""
        return False

    def shape(self, inputs: Sequence[Value]) -> Shape:
        """Of the result. Raises ``OperatorError`` where these are no operands for it."""
        raise NotImplementedError

    def further(self, inputs: Sequence[Value]) -> list[Shape]:
        """The shapes of results after the first."""
        return [self.shape(inputs)] if self.places else []

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        """Raise ``OperatorError`` where dtypes do not go together."""
        dtypes = {value.dtype for value in [*inputs, output] if self.moves or value.quantisation is None}
        require(not self.keeps_dtype or len(dtypes) <= 1, "it changes its dtype")
        require(not self.moves or len({value.quantisation for value in [*inputs, output]}) == 1, "it changes its quantisation")

    def run(self, inputs: list[Tensor]) -> Tensor | list[Tensor]:
        """The result, or results, by torch; an epilogue is left to the caller."""
        raise NotImplementedError


def evaluate(node: Node, inputs: list[Tensor]) -> list[Tensor]:
    """The outputs of a node. Low precision is computed in float32 and not yet rounded back, but for codes."""
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32

    def widened(value: Value, x: Tensor) -> Tensor:
        if value.quantisation is not None:
            return value.quantisation.real(x, dtype)
        return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

    wide = [widened(value, x) for value, x in zip(node.inputs, inputs, strict=True)]
    result = node.op.run(wide)
    if isinstance(result, list):
        return result
    if node.epilogue:
        result = run_instructions(node.epilogue, [result, *wide[node.epilogue_start :]])
    quantisation = node.output.quantisation
    return [result if quantisation is None else quantisation.codes(result, node.output.dtype)]


def check(node: Node) -> None:
    """Raise ``OperatorError`` unless the native side, and ``evaluate``, can be trusted with ``node``."""
    op = node.op
    if op.name == "aten":
        return  # torch looks at what it is given
    try:
        for field, hint in op.hints().items():
            bounded(getattr(op, field), hint, field)
        for value in [*node.inputs, *node.outputs]:
            if value.quantisation is not None:
                problem = value.quantisation.problem(value.dtype, value.shape)
                require(problem is None, f"{value}: {problem}")
            quantised = op.quantises and value.quantisation is not None
            require(value.dtype in op.dtypes or quantised, f"{value} is no operand of a {op}")
            require(quantised or value.quantisation is None, f"{value}: a {op} has no quantised operands and results")
            require(value.numel > 0, f"{value}: a {op} has no empty tensors")
        require(node.inputs, f"a {op} has inputs")
        made = [op.shape(node.inputs), *op.further(node.inputs)]
        require(len(node.outputs) == len(made), f"this {op} has {len(made)} outputs, not {len(node.outputs)}")
        op.check_dtypes(node.inputs, node.output)
        require(not op.places or node.outputs[1].dtype is torch.int64, f"the places of a {op} are int64")
        for value, shape in zip(node.outputs, made, strict=True):
            require(shape == value.shape, f"{value} is not the result of this {op}, whose shape is {list(shape)}")
        require(not op.tabled or max(node.output.shape, default=1) <= MAX_TABLE, f"an axis longer than {MAX_TABLE}")
        _check_epilogue(node)
    except OperatorError as error:
        raise OperatorError(f"{node.name or op}: {error}") from None


def _check_epilogue(node: Node) -> None:
    require(not node.epilogue or node.op.takes_epilogue, f"a {node.op} has no epilogue")
    if not node.op.takes_epilogue:
        return
    others = node.inputs[node.op.operands :]
    require(not others or node.epilogue, "it has operands and no epilogue")
    check_instructions(node.epilogue)
    running = ("in", 0)
    for position, op in enumerate(node.epilogue):
        rest = [arg for arg in op.args if arg != running]
        fits = running in op.args and all(where == "in" and 1 <= index <= len(others) for where, index in rest)
        require(fits, f"{op} does not go on from the instruction before it, or reads beyond the operands")
        running = ("reg", position)
    for value in others:
        require(broadcasts(value.shape, node.output.shape), f"{value} does not fit the output")


def check_instructions(ops: Sequence[PointwiseOp]) -> None:
    require(len(ops) <= MAX_INSTRUCTIONS, f"more than {MAX_INSTRUCTIONS} instructions")
    for position, op in enumerate(ops):
        require(op.kind in INSTRUCTIONS, f"{op.kind!r:.80} is none of {', '.join(INSTRUCTIONS)}")
        arity = INSTRUCTIONS[op.kind].arity
        require(len(op.args) == arity, f"{op} must have {arity} entries, and has {len(op.args)}")
        for where, index in op.args:
            require(where in ("in", "reg"), f"{where!r:.80} is none of in, reg")
            high = position - 1 if where == "reg" else MAX_STEP
            require(type(index) is int and 0 <= index <= high, f"{op}: {index!r:.80} is no integer from 0 to {high}")


# -- what shapes are made of -----------------------------------------------------------------------------------------------------


def takes(op: Operator, inputs: Sequence[Value], count: int) -> None:
    require(len(inputs) == count, f"this {op} takes {count} operands, not {len(inputs)}")


def rank_of(op: Operator, inputs: Sequence[Value], low: int, high: int = 64) -> int:
    rank = len(inputs[0].shape)
    require(low <= rank <= high, f"a {op} of {rank} axes")
    return rank


def axis_of(axis: int, rank: int) -> int:
    require(0 <= axis < rank, f"axis {axis} of {rank}")
    return axis


def rising(dims: Sequence[int], rank: int) -> None:
    require(dims and list(dims) == sorted(set(dims)) and dims[-1] < rank, f"{list(dims)} are no axes in rising order")


def per_axis(op: Operator, rank: int, *names: str) -> None:
    for name in names:
        entries = len(getattr(op, name))
        require(entries == rank, f"{name} has {entries} entries for {rank} axes")


def broadcasts(shape: Shape, to: Shape) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def together(operands: Sequence[Shape]) -> Shape:
    """The shape that these broadcast to. (Not by torch.broadcast_shapes, whose first call brings in half of torch's tracer.)"""
    sizes = itertools.zip_longest(*(reversed(shape) for shape in operands), fillvalue=1)
    # An empty axis beside one of length 1 is empty.
    shape = tuple(0 if 0 in axis else max(axis) for axis in sizes)[::-1]
    require(all(broadcasts(operand, shape) for operand in operands), "the operands do not broadcast")
    return shape


def without_axes(shape: Shape, dims: Sequence[int], keepdim: bool) -> Shape:
    """``shape`` after a reduction over ``dims``."""
    if keepdim:
        return tuple(1 if axis in dims else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in dims)


def in_order(value: Value, dims: Sequence[int]) -> Shape:
    require(sorted(dims) == list(range(len(value.shape))), f"{list(dims)} is no order of the axes of {value}")
    return tuple(value.shape[dim] for dim in dims)
