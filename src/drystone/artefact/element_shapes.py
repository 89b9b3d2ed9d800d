"""The shapes of operators on integers and truth values, folds and lookups. As shapes.py."""

from __future__ import annotations

import torch

from drystone.artefact.document import require
from drystone.artefact.shapes import Shape, axis_of, rank_of, rising, takes, together
from drystone.graph.graph import INDICES, Node

ELEMENTWISE = {
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), 2),
    **dict.fromkeys(("add", "sub", "mul", "floor_div", "remainder", "maximum", "minimum", "bit_and", "bit_or", "bit_xor"), 2),
    "invert": 1,
    "where": 3,
}
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
FOLDS = ("cumsum", "sum", "any", "all", "amax", "amin", "argmax", "argmin")


def elementwise(node: Node) -> Shape:
    kind = node.attrs["kind"]
    takes(node, ELEMENTWISE[kind])
    dtypes = [value.dtype for value in node.inputs]
    require(kind != "where" or dtypes.pop(0) is torch.bool, f"{node.name}: the condition is not bool")
    result = torch.bool if kind in COMPARISONS else dtypes[0]
    require(set(dtypes) == {dtypes[0]} and node.output.dtype is result, f"{node.name}: {kind} does not mix these dtypes")
    floats = dtypes[0].is_floating_point
    require(not floats or kind == "where" or kind in COMPARISONS, f"{node.name}: {kind} takes no floats")
    logic = kind.startswith("bit_") or kind in ("invert", "where") or kind in COMPARISONS
    require(dtypes[0] is not torch.bool or logic, f"{node.name}: {kind} takes no bools")
    return together(node, [value.shape for value in node.inputs])


def fold(node: Node) -> Shape:
    takes(node, 1)
    (x,), kind, dims = node.inputs, node.attrs["kind"], node.attrs["dims"]
    rising(node, dims, len(x.shape))
    require(len(dims) == 1 or kind != "cumsum", f"{node.name}: a running sum along {len(dims)} axes")
    require(list(dims) == list(range(dims[0], dims[-1] + 1)), f"{node.name}: {list(dims)} are no neighbours")
    result = torch.int64 if kind.startswith("arg") else x.dtype
    wanted = {
        "any": (torch.bool,),
        "all": (torch.bool,),
        "sum": (torch.int64,),
        "cumsum": (torch.int64, torch.float32, torch.bfloat16),
    }
    require(x.dtype in wanted.get(kind, (x.dtype,)) and node.output.dtype is result, f"{node.name}: no {kind} of {x}")
    require(x.dtype is not torch.bool or kind in ("any", "all"), f"{node.name}: no {kind} of {x}")
    if kind == "cumsum":
        return x.shape
    kept = tuple(1 if axis in dims else size for axis, size in enumerate(x.shape))
    return kept if len(node.output.shape) == len(x.shape) else tuple(size for axis, size in enumerate(x.shape) if axis not in dims)


def index(node: Node) -> Shape:
    require(len(node.inputs) >= 2, f"{node.name}: an index needs indices")
    x, *indices = node.inputs
    dim, rank, count = axis_of(node, node.attrs["dim"], rank_of(node, 1)), len(x.shape), len(indices)
    require(all(value.dtype in INDICES for value in indices), f"{node.name}: indices are int64 or int32")
    require(node.output.dtype is x.dtype, f"{node.name} changes its dtype")
    if node.attrs["caller"] == "gather":
        by = indices[0].shape
        fits = count == 1 and len(by) == rank and all(a <= b for i, (a, b) in enumerate(zip(by, x.shape, strict=True)) if i != dim)
        require(fits and not node.attrs["wraps"], f"{node.name}: {indices[0]} does not index {x}")
        return by
    require(dim + count <= rank, f"{node.name}: {count} indices from axis {dim} of {rank}")
    return (*x.shape[:dim], *together(node, [value.shape for value in indices]), *x.shape[dim + count :])
