"""ATen calls in a file: only operators of a closed list, only arguments of a few kinds, only results that torch confirms."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.utils import _pytree as pytree

from drystone.artefact.allowed import ALLOWED
from drystone.artefact.document import constant_of, listed, number, of_constant, of_number, require, text, whole, word
from drystone.artefact.weights import extremes
from drystone.errors import ArtefactError
from drystone.graph.dtypes import INDICES
from drystone.graph.graph import Node, Value
from drystone.graph.ops import Aten
from drystone.graph.ops.aten import Ref, map_structure

_TARGET = re.compile(r"(\w{1,64})\.(\w{1,64})", re.ASCII)
_MEMORY_FORMATS = {
    str(format).removeprefix("torch."): format
    for format in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
_TENSORS = ("Tensor", "List[Tensor]")


def target_of(item: Any, what: str) -> torch._ops.OpOverload:
    match = _TARGET.fullmatch(text(item, what))
    require(match is not None and match[1] in ALLOWED, f"{what}: {item!r:.80} is no operator that an artefact may call")
    assert match is not None
    packet = getattr(torch.ops.aten, match[1], None)
    known = isinstance(packet, torch._ops.OpOverloadPacket) and match[2] in packet.overloads()
    require(known, f"{what}: this torch has no operator {item!r:.80}")
    target = getattr(packet, match[2])
    returns = [str(result.type) for result in target._schema.returns]
    functional = not target._schema.is_mutable and returns and all(kind in _TENSORS for kind in returns)
    require(functional, f"{what}: {item!r:.80} does not just give tensors")
    return target


def of_target(target: Any, what: str) -> str:
    """What ``target_of`` reads. Raises ``ArtefactError`` for operators that an artefact may not call."""
    require(isinstance(target, torch._ops.OpOverload) and target.namespace == "aten", f"{what}: {target} is no operator of ATen")
    name = f"{target._schema.name.removeprefix('aten::')}.{target._overloadname}"
    require(target_of(name, what) is target, f"{what}: {target} can't be named")
    return name


def argument(item: Any, what: str, inputs: int, depth: int = 0) -> Any:
    """An argument of a call: a constant, ``{"input": i}``, a list of arguments, or one of torch's own kinds by name."""
    if type(item) is list:
        require(depth < 3, f"{what}: lists in lists in lists")
        return [argument(entry, what, inputs, depth + 1) for entry in listed(item, what)]
    kind, value = next(iter(item.items())) if type(item) is dict and len(item) == 1 else ("", None)
    if kind == "input":
        return Ref(whole(value, what, 0, inputs - 1))
    if kind == "complex":
        real, imaginary = listed(value, what, 2)
        return complex(number(real, what), number(imaginary, what))
    if kind == "memory_format":
        return _MEMORY_FORMATS[word(value, what, _MEMORY_FORMATS)]
    if kind == "layout":
        word(value, what, ("strided",))
        return torch.strided
    if kind == "device":
        word(value, what, ("cpu",))
        return torch.device("cpu")
    return constant_of(item, what)


def of_argument(leaf: Any, what: str) -> Any:
    """What ``argument`` reads."""
    if isinstance(leaf, (list, tuple)):
        return [of_argument(entry, what) for entry in leaf]
    if isinstance(leaf, Ref):
        return {"input": leaf.index}
    if isinstance(leaf, complex):
        return {"complex": [of_number(leaf.real), of_number(leaf.imag)]}
    if isinstance(leaf, torch.memory_format):
        return {"memory_format": str(leaf).removeprefix("torch.")}
    if leaf is torch.strided:
        return {"layout": "strided"}
    if isinstance(leaf, torch.device) and leaf.type == "cpu":
        return {"device": "cpu"}
    return of_constant(leaf, what)


def check(node: Node, read: set[int]) -> None:
    """Compare what torch says of the call with the node's outputs, those that nobody reads left out.

    ``read``: the ids of values that a node or the caller reads. Nothing is computed: the operands are on the meta device.
    """
    results = (_KNOWN.get(_name(node), results_of)(node)) or results_of(node)
    require(len(results) == len(node.outputs), f"{node.name} gives {len(results)} tensors, not {len(node.outputs)}")
    for position, (value, result) in enumerate(zip(node.outputs, results, strict=True)):
        if position == 0 or value.id in read:
            require(tuple(result.shape) == value.shape, f"{node.name}: the result is {list(result.shape)}, not {value}")
            # A lowered graph rounds what an operator gives: any float goes to any other.
            same = result.dtype == value.dtype or (result.is_floating_point() and value.dtype.is_floating_point)
            require(same, f"{node.name}: the result is {result.dtype}, not {value}")
    check_indices(node)


def results_of(node: Node) -> list[torch.Tensor]:
    op, meta = node.of(Aten), torch.device("meta")
    target = op.target
    assert isinstance(target, torch._ops.OpOverload)
    operands = [torch.empty(value.shape, dtype=value.dtype, device=meta) for value in node.inputs]

    def resolve(leaf: Any) -> Any:
        return operands[leaf.index] if isinstance(leaf, Ref) else meta if isinstance(leaf, torch.device) else leaf

    args = list(map_structure(resolve, op.args))
    kwargs = map_structure(resolve, op.kwargs)
    names = [argument.name for argument in target._schema.arguments]
    require(set(kwargs) <= set(names[len(args) :]), f"{node.name}: {target} has no such arguments")
    if "device" in names[len(args) :]:
        kwargs["device"] = meta
    try:
        with torch.no_grad():
            return [leaf for leaf in pytree.tree_leaves(target(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
    except Exception as error:  # whatever torch thinks of the arguments
        raise ArtefactError(f"{node.name}: torch refuses this call of {target}: {error!s:.300}") from None


def _name(node: Node) -> str:
    return str(node.of(Aten).target._schema.name.removeprefix("aten::"))  # type: ignore[attr-defined]


def _embedding(node: Node) -> list[torch.Tensor]:
    weight, indices = (_value(node, leaf) for leaf in node.of(Aten).args[:2])
    if weight is None or indices is None or len(weight.shape) != 2 or indices.dtype not in INDICES:
        return []
    return [torch.empty((*indices.shape, weight.shape[1]), dtype=weight.dtype, device="meta")]


def _attention(node: Node) -> list[torch.Tensor]:
    args = node.of(Aten).args
    q, k, v = (_value(node, leaf) for leaf in args[:3])
    mask = _value(node, args[3]) if len(args) > 3 else None
    if q is None or k is None or v is None or "attn_mask" in node.of(Aten).kwargs:
        return []
    if not q.dtype.is_floating_point or {k.dtype, v.dtype} != {q.dtype} or not len(q.shape) == len(v.shape) == 4:
        return []
    lead, rows, depth, columns, width = q.shape[:2], *q.shape[2:], *v.shape[2:]
    if k.shape != (*lead, columns, depth) or v.shape[:2] != lead:
        return []
    if mask is not None and (mask.dtype not in (torch.bool, q.dtype) or not _fits(mask.shape, (*lead, rows, columns))):
        return []
    return [torch.empty((*lead, rows, width), dtype=q.dtype, device="meta")]


def _fits(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) in (2, 4) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


# What follows from the shapes, for the operators of every transformer: torch's own answer brings in half a second of imports.
# Nothing where torch has to be asked.
_KNOWN = {"embedding": _embedding, "scaled_dot_product_attention": _attention}


def check_indices(node: Node) -> None:
    """Constants that index an operand must stay within it; torch finds what an input holds at each call."""
    args, name = node.of(Aten).args, _name(node)
    if name == "embedding":
        indexed = [(0, args[1])]
    elif name in ("index_select", "gather", "scatter", "scatter_add") and len(args) > 2:
        indexed = [(args[1], args[2])]
    elif name in ("index", "index_put"):
        indexed = list(enumerate(args[1])) if isinstance(args[1], list) else []
    else:
        return
    x = _value(node, args[0])
    for dim, ref in indexed:
        value = _value(node, ref)
        if x is None or type(dim) is not int or value is None or not value.is_constant or value.dtype not in INDICES:
            continue
        require(-len(x.shape) <= dim < len(x.shape), f"{node.name}: axis {dim} of {x}")
        (low, high), size = extremes(value), x.shape[dim]
        require(not value.numel or -size <= low <= high < size, f"{node.name}: an index beyond {x}")


def _value(node: Node, leaf: Any) -> Value | None:
    return node.inputs[leaf.index] if isinstance(leaf, Ref) else None
