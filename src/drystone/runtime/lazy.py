"""A tensor that keeps the memory format of the operator it comes from, and is any other tensor to whoever looks at it.

A ``LazyTensor`` has shape and dtype, but no memory that torch could read. Packed modules and elementwise operators take it
as it is. Everything else, indexing, printing, numpy, an operator that only torch has, finds a plain tensor: the lazy one
is *materialised*: the same object, with a plain tensor inside, so that views and changes in place are seen where they are in eager.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.graph.dtypes import FLOATS
from drystone.graph.ops.aten import map_structure
from drystone.plan.formats import CHANNELS_LAST, PLAIN
from drystone.runtime.facts import FACTS
from drystone.runtime.structures import COMPUTED_FIRST, Operation, Structure, Table

_grad_enabled, _autocast_enabled = torch.is_grad_enabled, torch.is_autocast_enabled
_make = torch.Tensor._make_wrapper_subclass
_bar_memory = torch._C._set_throw_on_mutable_data_ptr
_TENSOR = object()
_SCALARS = (int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass
class Tally:
    """What a call of the model spent between formats: reorders inside programs, and who asked for plain tensors."""

    reorders: int = 0
    asked: Counter[str] = field(default_factory=Counter)


class _Call(threading.local):
    """The call of a model that this thread is in."""

    table: Table | None = None
    tally: Tally = Tally()


call = _Call()


class LazyTensor(torch.Tensor):
    """See above.

    ``_leaves``: the memory that ``_structure`` is computed of, which nobody changes. ``_used``: something else that is not computed
    yet reads it. ``_plain``: what it stands for since something that holds on to its inside kept it from becoming that.
    """

    _table: Table
    _structure: Structure
    _leaves: tuple[torch.Tensor, ...]
    _used = False
    _plain: torch.Tensor | None = None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func is not torch.Tensor.data_ptr:
            result = _deferred(func, args, kwargs)
            if result is not None:
                return result
        return func(*_plainly(args, func), **_plainly(kwargs, func))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """For callers in C++, who come past ``__torch_function__`` and hold on to the inside."""

        def plain(leaf: Any) -> Any:
            return _shell(leaf, str(func)) if type(leaf) is LazyTensor else leaf

        return func(*pytree.tree_map(plain, args), **pytree.tree_map(plain, kwargs or {}))


def make_lazy(table: Table, structure: Structure, leaves: tuple[torch.Tensor, ...]) -> LazyTensor:
    tensor: LazyTensor = _make(LazyTensor, structure.size, dtype=structure.kind[1])
    _bar_memory(tensor)  # C++ that asks for it past the dispatcher gets an error, not a null pointer
    tensor._table, tensor._structure, tensor._leaves = table, structure, leaves
    return tensor


def lazy_input(table: Table, tensor: torch.Tensor) -> torch.Tensor:
    """An input of the model, which the model does not change: what is computed of it need not be at once."""
    if type(tensor) is not torch.Tensor or tensor.dtype not in FLOATS or not tensor.numel() or not tensor.is_contiguous():
        return tensor
    return make_lazy(table, table.memory((tuple(tensor.shape), tensor.dtype), PLAIN), (tensor,))


def apply_to_one(key: Hashable, function: Callable[..., Any], x: Any) -> torch.Tensor | None:
    """``function(x)`` in the call of this thread, computed at once or when it is read; None where only torch can."""
    table = call.table
    if type(x) is LazyTensor and x._plain is not None:
        x = x._plain
    if table is None or not _deferring():
        return None
    if type(x) is not LazyTensor:
        return apply(table, key, function, (x,)) if type(x) is torch.Tensor and x.layout is torch.strided and x.is_cpu else None
    if x._table is not table:  # kept from a call before
        return None
    # What followed from its structure before, by one lookup.
    structure = x._structure
    found = table.following.get((key, structure))
    if found is COMPUTED_FIRST:
        evaluate(x)
        structure = x._structure
        found = table.following.get((key, structure))
    if found is structure:
        return x
    if found is None or _is_read_again(x):
        return apply(table, key, function, (x,))
    if found.operation.changes is None:  # type: ignore[union-attr]
        x._used = True
        return make_lazy(table, found, (*x._leaves,))
    x._structure, x._leaves, x._used = found, (*x._leaves,), False
    return x


def apply(table: Table, key: Hashable, function: Callable[..., Any], operands: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """``function(*operands)``, computed at once or when it is read; None where only torch can."""
    kinds = tuple([x._structure.kind if type(x) is LazyTensor else (tuple(x.shape), x.dtype) for x in operands])
    operation = table.operation(key, function, kinds)
    if operation is None or table.full:
        return None
    first = operands[0]._structure if type(operands[0]) is LazyTensor and len(operands) == 1 else None
    if operation.gives is not None:
        if first is not None:
            table.following[key, first] = first
        return operands[operation.gives]
    if operation.copies is not None:
        return _copy(operands[operation.copies])
    if operation.changes is not None and type(operands[operation.changes]) is not LazyTensor:
        return None
    structures: tuple[Structure, ...] = ()
    leaves: tuple[torch.Tensor, ...] = ()
    at_once = False
    for x in operands:
        below, memory, fixed = _operand(table, x, operation)
        structures, leaves, at_once = (*structures, below), (*leaves, *memory), at_once or not fixed
    structure = table.structure(operation, structures)
    if first is not None:
        table.following[key, structures[0]] = structure
        if not first.waits_for(operation):
            table.following[key, first] = COMPUTED_FIRST
    if operation.changes is None:
        result = make_lazy(table, structure, leaves)
    else:
        result = operands[operation.changes]  # type: ignore[assignment]
        result._structure, result._leaves, result._used = structure, leaves, False
    if at_once:
        evaluate(result)
    return result


def _deferring() -> bool:
    """Programs give no gradients, and what is computed later would be so under another autocast."""
    return not _grad_enabled() and not _autocast_enabled("cpu")


def _is_read_again(x: LazyTensor) -> bool:
    """Whether ``x`` is not computed yet, and would be computed twice: it is so now, or has been in a call before."""
    structure = x._structure
    return structure.operation is not None and (x._used or structure.wanted)


def _copy(x: torch.Tensor) -> torch.Tensor | None:
    """Another tensor with the contents of ``x``; memory that nobody changes serves both."""
    if type(x) is not LazyTensor:
        return None
    evaluate(x)
    return make_lazy(x._table, x._structure, (*x._leaves,))  # a tuple of its own: references to memory are counted


def _operand(table: Table, x: torch.Tensor, reader: Operation) -> tuple[Structure, tuple[torch.Tensor, ...], bool]:
    """``x`` as ``reader`` computes with it: its structure, the memory below it, and whether nobody else can change that."""
    if type(x) is LazyTensor:
        if _is_read_again(x) or not x._structure.waits_for(reader):
            evaluate(x)
        x._used = True
        return x._structure, x._leaves, True
    kind = (tuple(x.shape), x.dtype)
    if x.is_contiguous():
        plain = table.memory(kind, PLAIN)
        if not table.reorders(kind, reader):
            return plain, (x,), table.maker.is_constant(x)
        memory, program = table.run(plain, [x], table.format)
        call.tally.reorders += program.reorders
        return table.memory(kind, table.format), (memory,), True
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return table.memory(kind, CHANNELS_LAST), (x,), False
    return table.memory(kind, PLAIN), (x.contiguous(),), True


def evaluate(x: LazyTensor) -> None:
    """Compute ``x``, in its own format."""
    structure, table = x._structure, x._table
    if structure.operation is None:
        return
    memory, program = table.run(structure, list(x._leaves), structure.format)
    call.tally.reorders += program.reorders
    structure.wanted |= x._used
    x._structure, x._leaves, x._used = table.memory(structure.kind, structure.format), (memory,), False


def materialise(x: LazyTensor, asker: str) -> torch.Tensor:
    """Make ``x`` the plain tensor that it stands for; where it can't be, give that."""
    if x._plain is not None:
        return x._plain
    plain = _shell(x, asker)
    x._plain = None  # or the two would hold each other
    try:
        torch.utils.swap_tensors(x, plain)
    except RuntimeError:  # weak references to it, or a reference in C++
        x._plain = plain
        return plain
    return x


def _shell(x: LazyTensor, asker: str) -> torch.Tensor:
    if x._plain is None:
        x._plain, x._leaves = _memory(x, asker), ()
    return x._plain


def _memory(x: LazyTensor, asker: str) -> torch.Tensor:
    """The plain tensor of ``x``, with memory of its own."""
    structure, table = x._structure, x._table
    call.tally.asked[asker] += 1
    if structure.operation is None and structure.format == PLAIN:
        (memory,) = x._leaves
        # References: the tuple, the name here, the argument of getrefcount. With more, it is someone else's too.
        return memory if sys.getrefcount(memory) <= 3 else memory.clone(memory_format=torch.contiguous_format)
    memory, program = table.run(structure, list(x._leaves), PLAIN)
    structure.wanted |= x._used and structure.operation is not None
    call.tally.reorders += program.reorders
    return memory


# -- functions ---------------------------------------------------------------------------------------------------------------


def _plainly(item: Any, func: Any) -> Any:
    """Arguments with plain tensors for lazy ones; mostly the very objects, which have become plain."""
    if type(item) is LazyTensor:
        return materialise(item, _name(func))
    if type(item) in (list, tuple):
        return type(item)([_plainly(entry, func) for entry in item])
    if type(item) is dict:
        return {name: _plainly(entry, func) for name, entry in item.items()}
    if isinstance(item, slice):
        return slice(*(_plainly(entry, func) for entry in (item.start, item.stop, item.step)))
    return item


def _name(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):  # of an attribute
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name


class _Strange(Exception):
    """An argument that no key can be made of."""


def _deferred(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """What ``func`` gives, still lazy; None where it needs plain tensors."""
    if not _deferring():
        return None
    operands: list[torch.Tensor] = []
    try:
        key: Hashable = (func, _key(args, operands), tuple((name, _key(value, operands)) for name, value in kwargs.items()))
        table = next(x._table for x in operands if type(x) is LazyTensor)
        for x in operands:
            if type(x) is LazyTensor:
                if x._table is not table:
                    return None
            elif type(x) not in (torch.Tensor, nn.Parameter) or not _computable(x):
                return None
        fixed = {id(x): x for x in operands if type(x) is nn.Parameter and table.maker.is_constant(x)}
    except (_Strange, StopIteration):
        return None
    if fixed:
        key = (key, tuple([id(x) if id(x) in fixed else 0 for x in operands]))
        operands = [x for x in operands if id(x) not in fixed]
    return apply(table, key, _rebuilt(func, args, kwargs, fixed), operands)


def _computable(x: torch.Tensor) -> bool:
    return x.dtype in FLOATS and x.is_cpu and x.layout is torch.strided and x.numel() > 0 and not x.is_neg()


def _key(item: Any, operands: list[torch.Tensor]) -> Hashable:
    """What tells ``item`` from other arguments, but for its tensors, which go to ``operands``."""
    if isinstance(item, torch.Tensor):
        if type(item) is LazyTensor and item._plain is not None:
            item = item._plain
        operands.append(item)
        return _TENSOR
    if type(item) in (list, tuple, torch.Size):
        return tuple([_key(entry, operands) for entry in item])
    if type(item) is bool or type(item) is float:  # True is 1, and 0.0 is -0.0
        return type(item), str(item)
    if type(item) in _SCALARS:
        return item  # type: ignore[no-any-return]
    raise _Strange


def _rebuilt(func: Any, args: Any, kwargs: Any, fixed: Collection[int]) -> Callable[..., Any]:
    """``func`` as a function of its tensors alone, but for those that are ``fixed``."""

    def function(*tensors: torch.Tensor) -> Any:
        given = iter(tensors)

        def fill(leaf: Any) -> Any:
            return next(given) if isinstance(leaf, torch.Tensor) and id(leaf) not in fixed else leaf

        return func(*map_structure(fill, args), **map_structure(fill, kwargs))

    return function
