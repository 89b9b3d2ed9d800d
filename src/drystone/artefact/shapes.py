"""The shape that follows from an operator's attributes and operands, where they fit together.

Each function takes a node whose attributes are of the right kinds, and raises ``ArtefactError`` where the native side, or the
interpreter, could not be trusted with it: a window beyond its input, an index beyond its axis, an operand that does not broadcast.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from drystone.artefact.document import require
from drystone.graph.graph import Node, Value

# Along an axis that is sliced, gathered, padded, expanded or resized: a table with an entry for each index is made.
MAX_TABLE = 1 << 24

Shape = tuple[int, ...]


def numel(shape: Shape) -> int:
    """Elements of a tensor of this shape, empty axes counted as one: what its axes ask for, whether or not it has elements."""
    return math.prod(max(size, 1) for size in shape)


def takes(node: Node, count: int) -> None:
    require(len(node.inputs) == count, f"{node.name}: this {node.op} takes {count} operands, not {len(node.inputs)}")


def rank_of(node: Node, low: int, high: int = 64) -> int:
    rank = len(node.inputs[0].shape)
    require(low <= rank <= high, f"{node.name}: a {node.op} of {rank} axes")
    return rank


def axis_of(node: Node, axis: int, rank: int) -> int:
    require(0 <= axis < rank, f"{node.name}: axis {axis} of {rank}")
    return axis


def rising(node: Node, dims: Sequence[int], rank: int) -> None:
    require(dims and list(dims) == sorted(set(dims)) and dims[-1] < rank, f"{node.name}: {list(dims)} are no axes in rising order")


def _per_axis(node: Node, rank: int, *names: str) -> None:
    for name in names:
        require(len(node.attrs[name]) == rank, f"{node.name}: {name} has {len(node.attrs[name])} entries for {rank} axes")


def _weights(node: Node) -> tuple[Value, Value]:
    """x and the weight of a conv or a matmul, after their operands are counted."""
    bias = node.attrs["has_bias"]
    start = 2 + bias
    require(len(node.inputs) >= start, f"{node.name}: an operand is missing")
    x, weight = node.inputs[:2]
    require(weight.is_constant, f"{node.name}: the weight is no constant")
    if bias:
        value = node.inputs[2]
        require(value.is_constant and value.shape == weight.shape[:1], f"{node.name}: {value} is no bias")
    operands = len(node.inputs) - start
    require(not operands or node.epilogue, f"{node.name} has operands and no epilogue")
    running = ("in", 0)
    for position, op in enumerate(node.epilogue):
        others = [arg for arg in op.args if arg != running]
        fits = running in op.args and all(where == "in" and 1 <= index <= operands for where, index in others)
        require(fits, f"{node.name}: {op} does not go on from the instruction before it, or reads beyond the operands")
        running = ("reg", position)
    for value in node.inputs[start:]:
        require(broadcasts(value.shape, node.output.shape), f"{node.name}: {value} does not fit the output")
    return x, weight


def broadcasts(shape: Shape, to: Shape) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def together(node: Node, operands: Sequence[Shape]) -> Shape:
    """What the shapes broadcast to. (Not by torch.broadcast_shapes, whose first call brings in half of torch's tracer.)"""
    sizes = itertools.zip_longest(*(reversed(shape) for shape in operands), fillvalue=1)
    shape = tuple(max(axis) for axis in sizes)[::-1]
    require(all(broadcasts(operand, shape) for operand in operands), f"{node.name}: the operands do not broadcast")
    return shape


def _kernel(node: Node) -> tuple[Value, Value, Iterator[tuple[int, int, int, int, int, int]]]:
    """x and the weight of a conv or its transpose, and along each axis: size, kernel, stride, padding on both sides, dilation."""
    x, weight = _weights(node)
    a, rank = node.attrs, rank_of(node, 3, 5)
    require(len(weight.shape) == rank, f"{node.name}: {weight} is no weight for {x}")
    names = "stride", "padding_l", "padding_r", "dilation"
    _per_axis(node, rank - 2, *names)
    groups = a["groups"]
    fits = weight.shape[0] % groups == 0 and x.shape[1] == weight.shape[1] * groups
    require(fits, f"{node.name}: {weight} in {groups} groups does not fit {x}")
    return x, weight, zip(x.shape[2:], weight.shape[2:], *(a[name] for name in names), strict=True)


def conv(node: Node) -> Shape:
    x, weight, axes = _kernel(node)
    sizes = []
    for size, kernel, stride, left, right, dilation in axes:
        room = size + left + right - dilation * (kernel - 1) - 1
        require(room >= 0, f"{node.name}: the kernel is larger than its input")
        sizes.append(room // stride + 1)
    return (x.shape[0], weight.shape[0], *sizes)


def conv_transpose(node: Node) -> Shape:
    x, weight, axes = _kernel(node)
    sizes = []
    for size, kernel, stride, left, right, dilation in axes:
        require(right > -stride, f"{node.name}: outputs of no input")
        sizes.append((size - 1) * stride + dilation * (kernel - 1) + 1 - left - right)
        require(sizes[-1] >= 1, f"{node.name}: nothing is left of the output")
    return (x.shape[0], weight.shape[0], *sizes)


def matmul(node: Node) -> Shape:
    x, weight = _weights(node)
    rank_of(node, 1)
    require(len(weight.shape) == 2 and x.shape[-1] == weight.shape[1], f"{node.name}: {weight} does not fit {x}")
    return (*x.shape[:-1], weight.shape[0])


def pointwise(node: Node) -> Shape:
    ops = node.attrs["ops"]
    require(ops, f"{node.name} has no instructions")
    read = max((index for op in ops for where, index in op.args if where == "in"), default=0)
    require(read < len(node.inputs), f"{node.name} reads operand {read} of {len(node.inputs)}")
    return together(node, [value.shape for value in node.inputs])


def pool(node: Node) -> Shape:
    takes(node, 1)
    x, a, rank = node.inputs[0], node.attrs, rank_of(node, 3, 5)
    _per_axis(node, rank - 2, "windows")
    for size, axis in zip(x.shape[2:], a["windows"], strict=True):
        fits = all(start < stop <= size and step >= 1 for start, stop, step in axis)
        require(fits, f"{node.name}: a window is empty or reaches beyond the {size} entries of its axis")
    if a["kind"] == "avg":
        require(a["divisors"] is not None, f"{node.name} has no divisors")
        _per_axis(node, rank - 2, "divisors")
        require([len(axis) for axis in a["divisors"]] == [len(axis) for axis in a["windows"]], f"{node.name}: a divisor a window")
    else:
        require(a["divisors"] is None and a["divisor_override"] is None, f"{node.name}: a maximum has no divisors")
    return (*x.shape[:2], *(len(axis) for axis in a["windows"]))


def reduce(node: Node) -> Shape:
    takes(node, 1)
    dims, shape = node.attrs["dims"], node.inputs[0].shape
    rising(node, dims, len(shape))
    if node.attrs["keepdim"]:
        return tuple(1 if axis in dims else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in dims)


def softmax(node: Node) -> Shape:
    takes(node, 1)
    axis_of(node, node.attrs["dim"], rank_of(node, 1))
    return node.inputs[0].shape


def _parameters(node: Node, shape: Shape) -> None:
    takes(node, 1 + node.attrs["has_weight"] + node.attrs["has_bias"])
    require(all(value.shape == shape for value in node.inputs[1:]), f"{node.name}: weight and bias must be {list(shape)}")


def layer_norm(node: Node) -> Shape:
    shape, dims = node.inputs[0].shape, node.attrs["dims"]
    rising(node, dims, len(shape))
    _parameters(node, tuple(shape[dim] for dim in dims))
    return shape


def group_norm(node: Node) -> Shape:
    rank_of(node, 2)
    shape = node.inputs[0].shape
    require(shape[1] % node.attrs["groups"] == 0, f"{node.name}: {shape[1]} channels in {node.attrs['groups']} groups")
    _parameters(node, shape[1:2])
    return shape


def lrn(node: Node) -> Shape:
    takes(node, 1)
    rank_of(node, 3, 5)
    return node.inputs[0].shape


def _small(node: Node) -> None:
    require(max(node.output.shape, default=1) <= MAX_TABLE, f"{node.name}: an axis longer than {MAX_TABLE}")


def resize(node: Node) -> Shape:
    takes(node, 1)
    _small(node)
    x, rank = node.inputs[0], rank_of(node, 3, 5)
    _per_axis(node, rank - 2, "scales")
    require(node.attrs["mode"] == "linear" or not node.attrs["align_corners"], f"{node.name}: nearest has no corners to align")
    require(len(node.output.shape) == rank, f"{node.name}: {node.output} has other axes than {x}")
    return (*x.shape[:2], *node.output.shape[2:])


def cat(node: Node) -> Shape:
    shapes = [value.shape for value in node.inputs]
    dim = axis_of(node, node.attrs["dim"], rank_of(node, 1))
    rest = {(len(shape), shape[:dim], shape[dim + 1 :]) for shape in shapes}
    require(len(rest) == 1, f"{node.name}: the parts differ beyond axis {dim}")
    return (*shapes[0][:dim], sum(shape[dim] for shape in shapes), *shapes[0][dim + 1 :])


def _along(node: Node, count: int) -> Shape:
    dim, shape = node.attrs["dim"], node.inputs[0].shape
    return (*shape[:dim], count, *shape[dim + 1 :])


def slice_(node: Node) -> Shape:
    takes(node, 1)
    _small(node)
    x, output, a = node.inputs[0], node.output, node.attrs
    dim = axis_of(node, a["dim"], rank_of(node, 1))
    require(len(output.shape) == len(x.shape), f"{node.name}: {output} has other axes than {x}")
    last = a["start"] + (output.shape[dim] - 1) * a["step"]
    require(last < x.shape[dim], f"{node.name}: entry {last} of {x.shape[dim]}")
    return _along(node, output.shape[dim])


def gather(node: Node) -> Shape:
    takes(node, 1)
    dim, indices = axis_of(node, node.attrs["dim"], rank_of(node, 1)), node.attrs["indices"]
    require(max(indices, default=0) < node.inputs[0].shape[dim], f"{node.name}: an index beyond {node.inputs[0].shape[dim]}")
    return _along(node, len(indices))


def permute(node: Node) -> Shape:
    takes(node, 1)
    shape, dims = node.inputs[0].shape, node.attrs["dims"]
    require(sorted(dims) == list(range(len(shape))), f"{node.name}: {list(dims)} is no order of {len(shape)} axes")
    return tuple(shape[dim] for dim in dims)


def reshape(node: Node) -> Shape:
    takes(node, 1)
    require(node.inputs[0].numel == node.output.numel, f"{node.name}: {node.inputs[0]} and {node.output} differ in their elements")
    return node.output.shape


def expand(node: Node) -> Shape:
    takes(node, 1)
    _small(node)
    require(broadcasts(node.inputs[0].shape, node.output.shape), f"{node.name}: {node.inputs[0]} does not expand to {node.output}")
    return node.output.shape


def pad(node: Node) -> Shape:
    takes(node, 1)
    _small(node)
    a, shape = node.attrs, node.inputs[0].shape
    _per_axis(node, len(shape), "before", "after")
    sizes = list(zip(shape, a["before"], a["after"], strict=True))
    if a["mode"] != "constant":
        require(all(before >= 0 and after >= 0 for _, before, after in sizes), f"{node.name}: {a['mode']} padding does not crop")
    if a["mode"] == "reflect":
        require(all(max(before, after) < size for size, before, after in sizes), f"{node.name}: more is reflected than there is")
    require(all(size + before + after > 0 for size, before, after in sizes), f"{node.name} leaves nothing")
    return tuple(size + before + after for size, before, after in sizes)


def convert(node: Node) -> Shape:
    takes(node, 1)
    return node.inputs[0].shape
