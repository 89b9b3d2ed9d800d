"""Operators that only move elements: views where the memory allows it, one copy otherwise."""

from __future__ import annotations

import torch

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Cat, Expand, Operator, Pad, Permute, Reshape, Slice, Take, Unfold
from drystone.plan.formats import PLAIN, block_of, dense, formats_of, seen_as
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, joint_layouts

# What may become other strides over the same memory.


def copy_step(source: native.TensorDesc, target: native.TensorDesc) -> native.Step:
    """The same elements in another place or format."""
    if native.isa() == "none":  # plain memory of any dtype, by what oneDNN has for bytes
        return native.Reorder(_as_bytes(source), _as_bytes(target))
    return native.copy(source, target, list(range(len(source.shape))), [[] for _ in source.shape], 0.0)


def _as_bytes(desc: native.TensorDesc) -> native.TensorDesc:
    """Plain memory with an axis more, of the bytes of each element."""
    width = desc.dtype.itemsize
    return native.TensorDesc(native.DType.u8, desc.format, [*desc.shape, width], [*(width * s for s in desc.strides), 1])


class Movement(Implementation):
    name = "drystone"

    def __init__(self, op: type[Operator]) -> None:
        self.op = op
        self.reads_strided = None if op in (Cat, Reshape) else 0

    def layouts(self, node: Node) -> list[Layout]:
        x, output = node.inputs[0], node.output
        if self.op is Reshape:
            return [Layout((PLAIN,), PLAIN)]
        if self.op is Permute:
            sources, targets = ([f for f in formats_of(value) if block_of(f) == 1] for value in (x, output))
            return [Layout((source,), target) for source in sources for target in targets]
        if self.op is Unfold:
            return [Layout((source,), PLAIN) for source in formats_of(x) if block_of(source) == 1]
        return [layout for layout in joint_layouts(node, output) if self._whole_blocks(node, layout)]

    def _whole_blocks(self, node: Node, layout: Layout) -> bool:
        block = block_of(layout.output)
        return all(len(v.shape) < 2 or v.shape[1] % block == 0 for v in [*node.inputs, node.output])

    def is_view(self, node: Node, layout: Layout) -> bool:
        """Whether nothing has to be moved in this layout, if the input lies densely."""
        if self.op is Permute:
            x = dense(node.inputs[0], layout.inputs[0] or PLAIN)
            return _permuted(node, x).same_memory(dense(node.output, layout.output))
        return self.op is Reshape

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        x = inputs[0]
        if self.op is Cat:  # the assembler writes the parts; this is the case of constants and of rank 1 and 2 alike
            raise ValueError("cat is assembled from its parts")
        if self.op is Reshape:
            if not x.is_dense:
                raise ValueError("a reshape reads dense memory")
            return Created(view_of=0)
        if self.op is Permute and _permuted(node, x).same_memory(output):
            return Created(view_of=0)
        if self.op is Slice:
            view = self._slice_view(node, x, output)
            if view is not None:
                return Created(view_of=0, view_offset=view * node.inputs[0].dtype.itemsize)
        if self.op is Unfold:  # what the windows share is read as often as it is in them
            x = _unfolded(node, x)
        axes, tables = self._tables(node)
        value = node.op.value if isinstance(node.op, Pad) else 0.0
        codes = node.output.quantisation
        if codes is not None:
            value = float(codes.codes(torch.tensor(value), node.output.dtype))
        return Created(native.copy(x, output, axes, tables, value), [context.operand(node, 0), ("out", 0)])

    @staticmethod
    def _slice_view(node: Node, x: native.TensorDesc, output: native.TensorDesc) -> int | None:
        """The offset (elements) at which the slice lies in x as it must lie in the output, or None."""
        op = node.of(Slice)
        dim, start, step = op.dim, op.start, op.step
        block = block_of(x.format.name, dim)
        if step != 1 or start % block or output.shape[dim] % block or x.format != output.format:
            return None
        seen = seen_as(x, output.shape, x.strides)
        return start // block * x.strides[dim] if seen.same_memory(output) else None

    def strided_view(self, node: Node, x: native.TensorDesc) -> tuple[int, native.TensorDesc] | None:
        """The offset (elements) and the strides with which the output lies in x, or None where no strides say it."""
        if not self.op.views or x.format != native.FORMATS[PLAIN]:
            return None
        if self.op is Unfold:
            return 0, _unfolded(node, x)
        op, strides, shape = node.op, x.strides, node.output.shape
        if isinstance(op, Permute):
            return 0, seen_as(x, shape, [strides[dim] for dim in op.dims])
        if isinstance(op, Slice):
            step = strides[op.dim]
            strides[op.dim] *= op.step
            return op.start * step, seen_as(x, shape, strides)
        try:
            view = torch.empty_strided(x.shape, strides, device="meta").view(shape)
        except RuntimeError:
            return None
        return 0, seen_as(x, shape, view.stride())

    def _tables(self, node: Node) -> tuple[list[int], list[list[int]]]:
        """For each axis of the output: the axis of x that it reads, and at which indices."""
        x, output, op = node.inputs[0], node.output, node.op
        rank = len(output.shape)
        axes = list(range(rank))
        tables: list[list[int]] = [[] for _ in output.shape]  # an empty table is the identity
        if isinstance(op, Permute):
            axes = list(op.dims)
        elif isinstance(op, Slice):
            tables[op.dim] = [op.start + op.step * i for i in range(op.length)]
        elif isinstance(op, Take):
            for dim, indices in zip(op.dims, op.indices, strict=True):
                tables[dim] = list(indices)
        elif isinstance(op, Expand):
            missing = rank - len(x.shape)
            axes = [-1] * missing + list(range(len(x.shape)))
            for axis in range(missing, rank):
                if x.shape[axis - missing] == 1:
                    tables[axis] = [0] * output.shape[axis]
        elif isinstance(op, Pad):
            tables = [
                [_padded(i - before, size, op.mode) for i in range(size + before + after)]
                for size, before, after in zip(x.shape, op.before, op.after, strict=True)
            ]
        return axes, tables


def _permuted(node: Node, x: native.TensorDesc) -> native.TensorDesc:
    """The input of a permute with its axes in the output's order."""
    return seen_as(x, node.output.shape, [x.strides[d] for d in node.of(Permute).dims], PLAIN)


def _unfolded(node: Node, x: native.TensorDesc) -> native.TensorDesc:
    """The windows over the input, which share memory where they overlap."""
    strides = [x.strides[axis] * step for axis, _, step in node.of(Unfold).ways]
    return seen_as(x, node.output.shape, strides, PLAIN)


def _padded(index: int, size: int, mode: str) -> int:
    """The input index that a padded axis reads at ``index``; -1 for the padding value."""
    if 0 <= index < size:
        return index
    if mode == "constant":
        return -1
    if mode == "replicate":
        return min(max(index, 0), size - 1)
    return -index if index < 0 else 2 * (size - 1) - index  # reflect


MOVEMENT = [Movement(op) for op in (Cat, Slice, Take, Permute, Reshape, Expand, Pad, Unfold)]
