"""Products of two computed matrices that nothing else has taken become ``batch_matmul``, and read permuted operands in place.

before:  permute(k, 0132) → aten.matmul(q, ·)
after:   batch_matmul(q, k) dims=[(0, 1, 2, 3), (0, 1, 3, 2)]
"""

from __future__ import annotations

from drystone.graph.aten import Ref
from drystone.graph.graph import Graph, Node, Value, make_node

_PRODUCTS = {"aten::matmul", "aten::bmm", "aten::mm"}


def batch_products(graph: Graph) -> Graph:
    """After attention has been recognised, which looks for the ATen nodes."""
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _converted(node) if _is_product(node) else [node]
    graph.nodes = nodes
    for node in graph.nodes:
        if node.op == "batch_matmul":
            _read_in_place(node)
    return graph.prune()


def _is_product(node: Node) -> bool:
    schema = getattr(node.attrs.get("target"), "_schema", None)
    if node.op != "aten" or schema is None or schema.name not in _PRODUCTS or node.attrs["kwargs"]:
        return False
    operands = [node.inputs[ref.index] for ref in node.attrs["args"] if isinstance(ref, Ref)]
    floats = all(value.dtype.is_floating_point and value.dtype.itemsize < 8 for value in operands)
    return len(operands) == 2 and floats and all(len(value.shape) >= 2 and value.numel for value in operands)


def _converted(node: Node) -> list[Node]:
    """The product, with reshapes before it where an operand has fewer axes than the result."""
    nodes: list[Node] = []
    rank = len(node.output.shape)
    inputs: list[Value] = []
    for ref in node.attrs["args"]:
        value = node.inputs[ref.index]
        if len(value.shape) < rank:
            nodes.append(make_node("reshape", [value], (1,) * (rank - len(value.shape)) + value.shape, value.dtype, node.name))
            value = nodes[-1].output
        inputs.append(value)
    product = make_node("batch_matmul", inputs, node.output.shape, node.output.dtype, node.name, dims=[tuple(range(rank))] * 2)
    product.attrs["_module"] = node.attrs.get("_module", "")
    product.outputs = [node.output]
    node.output.producer = product
    return [*nodes, product]


def _read_in_place(node: Node) -> None:
    """Permuted operands, as long as the elements of a row or of a column still follow each other."""
    for index, (value, dims) in enumerate(zip(node.inputs, node.attrs["dims"], strict=True)):
        permute = value.producer
        if permute is not None and permute.op == "permute":
            order = tuple(permute.attrs["dims"][dim] for dim in dims)
            if len(order) - 1 in order[-2:]:
                node.inputs[index] = permute.inputs[0]
                node.attrs["dims"] = [*node.attrs["dims"][:index], order, *node.attrs["dims"][index + 1 :]]
