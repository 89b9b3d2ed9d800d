"""Graphs of a few nodes, built by hand, and the comparison that every pass has to stand."""

from __future__ import annotations

from collections.abc import Callable

import torch

from drystone.graph.graph import Graph, Node, Value, constant, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.interpreter import run
from drystone.graph.ops import Attention, Conv, LayerNorm, Linear, Operator, Pad, Permute, Pointwise, Reduce, Reshape


class Small:
    """A graph under construction; every method appends a node and gives its output."""

    def __init__(self, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        self.graph = Graph([Value(shape, dtype, f"x{index}") for index, shape in enumerate(shapes)])
        self.x = self.graph.inputs
        self.random = torch.Generator().manual_seed(7)

    def constant(self, *shape: int, positive: bool = False) -> Value:
        data = torch.randn(shape, generator=self.random)
        return constant(data.abs() + 0.5 if positive else data)

    def add(self, op: Operator, inputs: list[Value], dtype: torch.dtype | None = None) -> Value:
        node = make_node(op, inputs, dtype)
        self.graph.nodes.append(node)
        return node.output

    def pointwise(self, ops: list[PointwiseOp], *inputs: Value) -> Value:
        return self.add(Pointwise(tuple(ops)), list(inputs))

    def unary(self, kind: str, x: Value, alpha: float = 0.0, beta: float = -0.0) -> Value:
        return self.pointwise([PointwiseOp(kind, (("in", 0),), alpha, beta)], x)

    def binary(self, kind: str, x: Value, y: Value) -> Value:
        return self.pointwise([PointwiseOp(kind, (("in", 0), ("in", 1)))], x, y)

    def batch_norm(self, x: Value, axis: int = 1) -> Value:
        shape = (x.shape[axis],) + (1,) * (len(x.shape) - 1 - axis)
        ops = [PointwiseOp("mul", (("in", 0), ("in", 1))), PointwiseOp("add", (("reg", 0), ("in", 2)))]
        return self.pointwise(ops, x, self.constant(*shape, positive=True), self.constant(*shape))

    def conv(self, x: Value, channels: int, kernel: int = 1, padding: int = 0, groups: int = 1, bias: bool = False) -> Value:
        spatial = len(x.shape) - 2
        inputs = [x, self.constant(channels, x.shape[1] // groups, *(kernel,) * spatial)]
        if bias:
            inputs.append(self.constant(channels))
        ones, pads = (1,) * spatial, (padding,) * spatial
        return self.add(Conv(ones, pads, pads, ones, groups, has_bias=bias), inputs)

    def linear(self, x: Value, features: int, bias: bool = False) -> Value:
        inputs = [x, self.constant(features, x.shape[-1])] + ([self.constant(features)] if bias else [])
        return self.add(Linear(has_bias=bias), inputs)

    def permute(self, x: Value, *dims: int) -> Value:
        return self.add(Permute(dims), [x])

    def reshape(self, x: Value, *shape: int) -> Value:
        return self.add(Reshape(shape), [x])

    def mean(self, x: Value, *dims: int, keepdim: bool = True) -> Value:
        return self.add(Reduce("mean", dims, keepdim), [x])

    def layer_norm(self, x: Value, *dims: int, affine: bool = True) -> Value:
        shape = [x.shape[dim] for dim in dims]
        inputs = [x, self.constant(*shape), self.constant(*shape)] if affine else [x]
        return self.add(LayerNorm(1e-5, affine, affine, dims), inputs)

    def attention(
        self, q: Value, k: Value, v: Value, *mask: Value, heads_first: tuple[bool, bool, bool, bool] = (True,) * 4
    ) -> Value:
        op = Attention(heads_first, scale=0.5, causal=False, has_mask=bool(mask), nan_if_hidden=False)
        return self.add(op, [q, k, v, *mask])

    def pad(self, x: Value, before: tuple[int, ...], after: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Value:
        return self.add(Pad(before, after, mode, value), [x])

    def returns(self, *outputs: Value) -> Graph:
        self.graph.outputs = list(outputs)
        self.graph.check()
        return self.graph


def keeps_numbers(graph: Graph, *passes: Callable[[Graph], Graph], tolerance: float = 1e-6) -> Graph:
    """Run ``passes``; in float64 the outputs are the same as before (constants are rounded to float32 again, though), they have
    the same shapes and dtypes, the graph is well formed, and the constants that it came with are as they were."""
    random = torch.Generator().manual_seed(3)
    inputs = [torch.randn(value.shape, generator=random) for value in graph.inputs]
    constants = [value.constant for node in graph.nodes for value in node.inputs if value.is_constant]
    copies = [tensor.clone() for tensor in constants]
    kinds = [(value.shape, value.dtype) for value in graph.outputs]
    expected = run(graph, inputs, torch.float64)
    for rewrite in passes:
        assert rewrite(graph) is graph
        graph.check()
        check_shapes(graph)
    assert [(value.shape, value.dtype) for value in graph.outputs] == kinds
    for now, before in zip(run(graph, inputs, torch.float64), expected, strict=True):
        assert (now - before).norm() <= tolerance * before.norm()
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(constants, copies, strict=True))
    return graph


def check_shapes(graph: Graph) -> None:
    """Constants have the shape and dtype that their values say, and pointwise instructions read what is there."""
    for node in graph.nodes:
        for value in node.inputs:
            if value.is_constant:
                assert (tuple(value.constant.shape), value.constant.dtype) == (value.shape, value.dtype)
        own = node.op.ops if isinstance(node.op, Pointwise) else ()
        for chain, operands in ((own, len(node.inputs)), (node.epilogue, epilogue_operands(node))):
            for index, op in enumerate(chain):
                assert all(number < (operands if where == "in" else index) for where, number in op.args), node


def epilogue_operands(node: Node) -> int:
    return len(node.inputs) - node.epilogue_start + 1


def ops(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def kinds(node: Node) -> list[str]:
    """The instructions of a pointwise node, or of an epilogue."""
    return [op.kind for op in (node.op.ops if isinstance(node.op, Pointwise) else node.epilogue)]
