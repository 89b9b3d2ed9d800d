"""How a model is called and what it gives back, as JSON: nested tuples, lists, dicts, and results with named fields.

A file names no class that would be imported. A dataclass of transformers' kind comes back as that class where its library has
been imported and registered it, and as ``Fields`` otherwise.
"""

from __future__ import annotations

import dataclasses
import inspect
import keyword
from collections import OrderedDict
from typing import Any

from torch.utils import _pytree as pytree

from drystone.artefact.document import (
    constant_of,
    entries,
    listed,
    of_constant,
    require,
    text,
    truth,
    whole,
    word,
)
from drystone.capture.signature import InputLeaf, OutputLeaf, Signature, inner_specs
from drystone.errors import ArtefactError

MAX_DEPTH = 100
_KINDS = {kind.name: kind for kind in inspect._ParameterKind}


class Fields(OrderedDict[str, Any]):
    """A result with named fields, as transformers' models give: ``r.logits``, ``r["logits"]``, ``r[0]``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the result has no {name!r}; it has {', '.join(self)}") from None

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())


def _flatten(fields: Fields) -> tuple[list[Any], list[str]]:
    return list(fields.values()), list(fields)


pytree.register_pytree_node(
    Fields,
    _flatten,
    lambda values, names: Fields(zip(names, values, strict=True)),
    serialized_type_name="drystone.Fields",
)


class _Default:
    """What stands for a parameter's default that the file does not hold."""


# -- structures ----------------------------------------------------------------------------------------------------------


def of_structure(spec: pytree.TreeSpec, what: str) -> Any:
    """A spec as JSON: null for a leaf, ``{"tuple": […]}``, ``{"dict": [[key, …], …]}``, ``{"fields": [class, names, […]]}``."""
    if spec.is_leaf():
        return None
    children = [of_structure(child, what) for child in inner_specs(spec)]
    kind = spec.type
    if kind in (tuple, list):
        return {kind.__name__: children}
    if kind in (dict, OrderedDict):
        keys = list(spec.context or [])
        require(all(type(key) in (str, int) for key in keys), f"{what} is a dict whose keys are neither text nor integers")
        return {"dict" if kind is dict else "ordered": [list(pair) for pair in zip(keys, children, strict=True)]}
    names = list(spec.context) if _has_fields(kind) else None
    require(names, f"{what} is or holds a {kind.__name__}, which no artefact holds: let the model take and give tuples or dicts")
    return {"fields": [pytree.SUPPORTED_SERIALIZED_TYPES[kind].serialized_type_name, names, children]}


def _has_fields(kind: Any) -> bool:
    """Whether it is a dataclass that is an OrderedDict of its fields too, which all of transformers' results are."""
    known = pytree.SUPPORTED_SERIALIZED_TYPES.get(kind)
    ours = kind is Fields or (isinstance(kind, type) and issubclass(kind, OrderedDict) and dataclasses.is_dataclass(kind))
    return ours and known is not None and isinstance(known.serialized_type_name, str)


def structure(item: Any, what: str) -> tuple[pytree.TreeSpec, int]:
    """The spec, and how many leaves it has."""
    leaves = 0

    def build(item: Any, depth: int) -> Any:
        nonlocal leaves
        require(depth < MAX_DEPTH, f"{what} is nested more than {MAX_DEPTH} deep")
        if item is None:
            leaves += 1
            return object()
        require(type(item) is dict and len(item) == 1, f"{what}: {item!r:.80} is no structure")
        (kind, content), *_ = item.items()
        word(kind, what, ("tuple", "list", "dict", "ordered", "fields"))
        if kind == "fields":
            name, names, children = listed(content, what, 3)
            values = [build(child, depth + 1) for child in listed(children, what)]
            return _with_fields(text(name, what), [_field(entry, what) for entry in listed(names, what, len(values))], values)
        if kind in ("dict", "ordered"):
            pairs = [listed(pair, what, 2) for pair in listed(content, what)]
            keys = [text(key, what) if type(key) is str else whole(key, what, -(2**63)) for key, _ in pairs]
            require(len(set(keys)) == len(keys), f"{what}: a key is given twice")
            table = zip(keys, [build(value, depth + 1) for _, value in pairs], strict=True)
            return dict(table) if kind == "dict" else OrderedDict(table)
        children = [build(child, depth + 1) for child in listed(content, what)]
        return tuple(children) if kind == "tuple" else children

    return pytree.tree_structure(build(item, 0)), leaves


def _field(item: Any, what: str) -> str:
    name = text(item, what)
    require(name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_"), f"{what}: {name!r} is no field")
    return name


def _with_fields(name: str, names: list[str], values: list[Any]) -> Any:
    """The class that is registered under ``name`` already, if it takes these fields; ``Fields`` otherwise."""
    require(len(set(names)) == len(names), "a field is given twice")
    kind = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
    if (
        kind is not None
        and kind is not Fields
        and _has_fields(kind)
        and set(names) <= {field.name for field in dataclasses.fields(kind)}
    ):
        try:
            built = pytree.SUPPORTED_NODES[kind].unflatten_fn(values, names)
            if pytree.tree_leaves(built) == pytree.tree_leaves(values):
                return built
        except Exception:  # a class of the same name from another version
            pass
    return Fields(zip(names, values, strict=True))


# -- calls ---------------------------------------------------------------------------------------------------------------


def of_call(signature: Signature) -> dict[str, Any]:
    """How the model is called."""
    leaves = [
        {"name": leaf.name, "tensor": True}
        if leaf.tensor
        else {"name": leaf.name, "constant": of_constant(leaf.constant, f"the input {leaf.name!r}")}
        for leaf in signature.inputs
    ]
    parameters = [[p.name, p.kind.name, *_of_default(p.default)] for p in signature.parameters.parameters.values()]
    return {"structure": of_structure(signature.in_spec, "an input"), "leaves": leaves, "parameters": parameters}


def _of_default(default: Any) -> list[Any]:
    if default is inspect.Parameter.empty:
        return []
    try:
        return [of_constant(default, "a default")]
    except ArtefactError:
        return [{"other": True}]  # only whether there is one matters then


def of_result(signature: Signature) -> dict[str, Any]:
    """What the model gives back."""
    leaves = [
        {"output": leaf.index} if leaf.index is not None else {"constant": of_constant(leaf.constant, "a constant result")}
        for leaf in signature.outputs
    ]
    return {"structure": of_structure(signature.out_spec, "the result"), "leaves": leaves}


def signature(call: Any, result: Any, inputs: int, outputs: int) -> Signature:
    """The signature of a graph of so many inputs and outputs."""
    structure_of_call, leaves, parameters = entries(call, "the call", "structure", "leaves", "parameters")
    in_spec, count = structure(structure_of_call, "the call")
    taken = [_input_leaf(leaf) for leaf in listed(leaves, "the call's leaves", count)]
    require(sum(leaf.tensor for leaf in taken) == inputs, f"the call has other inputs than the {inputs} of the graph")
    halves = inner_specs(in_spec) if in_spec.type is tuple else []
    fits = len(halves) == 2 and halves[0].type is tuple and halves[1].type is dict
    require(fits and all(type(key) is str for key in halves[1].context), "the call is no tuple of arguments and dict of named ones")
    structure_of_result, leaves = entries(result, "the result", "structure", "leaves")
    out_spec, count = structure(structure_of_result, "the result")
    given = [_output_leaf(leaf, outputs) for leaf in listed(leaves, "the result's leaves", count)]
    return Signature(taken, given, in_spec, out_spec, _parameters(parameters))


def _input_leaf(item: Any) -> InputLeaf:
    require(type(item) is dict, "an input is no object")
    if "tensor" in item:
        name, tensor = entries(item, "an input", "name", "tensor")
        require(truth(tensor, "an input"), "an input that is no tensor")
        return InputLeaf(text(name, "an input"), True)
    name, constant = entries(item, "an input", "name", "constant")
    return InputLeaf(text(name, "an input"), False, constant_of(constant, "an input"))


def _output_leaf(item: Any, outputs: int) -> OutputLeaf:
    require(type(item) is dict and len(item) == 1, "a result is no object of one entry")
    if "output" in item:
        return OutputLeaf(whole(item["output"], "a result", 0, outputs - 1))
    return OutputLeaf(None, constant_of(entries(item, "a result", "constant")[0], "a result"))


def _parameters(item: Any) -> inspect.Signature:
    parameters = []
    for entry in listed(item, "the parameters"):
        require(len(listed(entry, "a parameter")) in (2, 3), "a parameter has a name, a kind and perhaps a default")
        name, kind, *default = entry
        require(text(name, "a parameter").isidentifier(), f"{name!r} is no parameter")
        value: Any = inspect.Parameter.empty
        if default:
            value = _Default() if default[0] == {"other": True} else constant_of(default[0], "a default")
        try:
            parameters.append(inspect.Parameter(name, _KINDS[word(kind, "a parameter", _KINDS)], default=value))
        except ValueError as error:
            raise ArtefactError(f"a parameter: {error}") from None
    try:
        return inspect.Signature(parameters)
    except ValueError as error:
        raise ArtefactError(f"the parameters: {error}") from None
