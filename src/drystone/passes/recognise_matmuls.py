"""Products of two computed matrices that nothing else has taken become ``matmul``, and read permuted operands in place.

before:  permute(k, 0132) → aten.matmul(q, ·)
after:   matmul(q, k) dims=[(0, 1, 2, 3), (0, 1, 3, 2)]
"""

from __future__ import annotations

import torch

from drystone.graph.graph import Graph, Node, Value, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Aten, Matmul, Permute, Pointwise, Reshape
from drystone.graph.ops.aten import Ref

_PRODUCTS = {"aten::matmul", "aten::bmm", "aten::mm"}


def recognise_matmuls(graph: Graph) -> Graph:
    """After attention has been recognised, which looks for the ATen nodes."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if _is_product(node):
            nodes += _converted(node)
        elif _is_product_and_sum(node):
            nodes += _product_and_sum(node)
        else:
            nodes.append(node)
    graph.nodes = nodes
    for node in graph.nodes:
        if isinstance(node.op, Matmul):
            _read_in_place(node)
    return graph.prune()


def _operator(node: Node) -> str:
    schema = getattr(node.op.target, "_schema", None) if isinstance(node.op, Aten) else None
    return schema.name if schema is not None else ""


def _is_product(node: Node) -> bool:
    if _operator(node) not in _PRODUCTS or node.of(Aten).kwargs:
        return False
    operands = [node.inputs[ref.index] for ref in node.of(Aten).args if isinstance(ref, Ref)]
    floats = all(value.dtype.is_floating_point and value.dtype.itemsize < 8 for value in operands)
    return len(operands) == 2 and floats and all(len(value.shape) >= 2 and value.numel for value in operands)


def _converted(node: Node) -> list[Node]:
    """The product, with reshapes before it where an operand has fewer axes than the result."""
    nodes: list[Node] = []
    rank = len(node.output.shape)
    inputs: list[Value] = []
    for ref in node.of(Aten).args:
        value = node.inputs[ref.index]
        if len(value.shape) < rank:
            nodes.append(make_node(Reshape((1,) * (rank - len(value.shape)) + value.shape), [value], name=node.name))
            value = nodes[-1].output
        inputs.append(value)
    order = tuple(range(rank))
    product = make_node(Matmul((order, order)), inputs, node.output.dtype, node.name, instead_of=node)
    product.outputs = [node.output]
    node.output.producer = product
    return [*nodes, product]


def _is_product_and_sum(node: Node) -> bool:
    """A baddbmm in float32: in bfloat16 torch rounds once, at its end."""
    if _operator(node) != "aten::baddbmm":
        return False
    numbers = all(isinstance(factor, (int, float)) for factor in node.of(Aten).kwargs.values())
    return numbers and node.output.dtype is torch.float32 and node.output.numel > 0


def _product_and_sum(node: Node) -> list[Node]:
    """beta * x + alpha * left @ right."""
    call = node.of(Aten)
    x, left, right = (node.inputs[ref.index] for ref in call.args)
    alpha, beta = (float(call.kwargs.get(name, 1)) for name in ("alpha", "beta"))
    order = (0, 1, 2)
    product = make_node(Matmul((order, order)), [left, right], node.output.dtype, node.name, instead_of=node)
    ops = [PointwiseOp("affine", (("in", 0),), alpha)]
    inputs = [product.output]
    if beta != 0:  # or else torch does not look at x, NaN or not
        ops += [PointwiseOp("affine", (("in", 1),), beta), PointwiseOp("add", (("reg", 0), ("reg", 1)))]
        inputs.append(x)
    total = make_node(Pointwise(tuple(ops)), inputs, node.output.dtype, node.name, instead_of=node)
    total.outputs = [node.output]
    node.output.producer = total
    return [product, total]


def _read_in_place(node: Node) -> None:
    """Permuted operands, as long as the elements of a row or of a column still follow each other."""
    orders = list(node.of(Matmul).dims)
    for index, (value, dims) in enumerate(zip(node.inputs, orders, strict=True)):
        permute = value.producer
        if permute is not None and isinstance(permute.op, Permute):
            order = tuple(permute.op.dims[dim] for dim in dims)
            if len(order) - 1 in order[-2:]:
                node.inputs[index] = permute.inputs[0]
                orders[index] = order
    node.op = Matmul((orders[0], orders[1]))
