"""Products that no kernel computes in bfloat16 are computed in float32, on CPUs that do not multiply bfloat16.

before:  conv(x: bfloat16, w: bfloat16): bfloat16 → pool → conv
after:   x → convert: float32 → conv(·, w: float32): float32 → pool → conv → convert: bfloat16
Such graphs are those of models that are bfloat16 themselves, and those that were saved on another CPU. What only moves numbers, or
takes the largest, stays float32 between two such products; a rounding that lies there is left out.
"""

from __future__ import annotations

import torch

from drystone.graph.graph import Graph, Node, Value, make_node
from drystone.graph.ops import Convert, Convolution, Matmul, Pool
from drystone.passes.lower_precision import absorb_converts

# A linear layer, attention and a recurrent layer have kernels that widen what they read.
PRODUCTS = (Convolution, Matmul)


def widen_products(graph: Graph) -> Graph:
    """Inputs and outputs of the graph keep their dtypes; constants are widened when they are packed."""
    if any(isinstance(node.op, PRODUCTS) and torch.bfloat16 in _dtypes(node) for node in graph):
        _Widening(graph).run()
    return graph


class _Widening:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.wide: dict[int, Value] = {}  # id of a bfloat16 value → the same in float32

    def run(self) -> None:
        for node in self.graph.nodes:
            if (isinstance(node.op, PRODUCTS) and torch.bfloat16 in _dtypes(node)) or self._only_moves(node):
                node.inputs = [self._widened(value) for value in node.inputs]
                self._append_widened(node)
            else:
                if node.op.converts and not node.op.factors:
                    node.inputs = [value if value.is_constant else self.wide.get(value.id, value) for value in node.inputs]
                self.nodes.append(node)
            if isinstance(node.op, Convert) and node.inputs[0].dtype == torch.float32 and node.output.dtype == torch.bfloat16:
                self.wide.setdefault(node.output.id, node.inputs[0])
        self.graph.nodes = self.nodes
        self.graph.prune()
        absorb_converts(self.graph, lambda op: op.converts and not isinstance(op, PRODUCTS))

    def _only_moves(self, node: Node) -> bool:
        """Whether it gives the same numbers in float32, and reads some that are in float32 beside."""
        moves = node.op.moves or (isinstance(node.op, Pool) and node.op.kind == "max")
        computed = [value for value in node.inputs if not value.is_constant]
        return moves and node.output.dtype == torch.bfloat16 and bool(computed) and all(value.id in self.wide for value in computed)

    def _widened(self, value: Value) -> Value:
        if value.dtype != torch.bfloat16:
            return value
        if value.id not in self.wide:
            if value.is_constant:
                wide = Value(value.shape, torch.float32, value.name, data=lambda: value.constant.detach().float())
                wide.identity = ("widened", value.key)
            else:
                self.nodes.append(make_node(Convert(), [value], torch.float32, value.name))
                wide = self.nodes[-1].output
            self.wide[value.id] = wide
        return self.wide[value.id]

    def _append_widened(self, node: Node) -> None:
        """``node`` gives float32; what it gave before is that, rounded, for who still reads it."""
        self.nodes.append(node)
        narrow = node.output
        if narrow.dtype != torch.bfloat16:
            return
        wide = Value(narrow.shape, torch.float32, narrow.name, producer=node)
        node.outputs = [wide]
        rounding = Node(Convert(), [wide], [narrow], name=narrow.name)
        narrow.producer = rounding
        self.nodes.append(rounding)
        self.wide[narrow.id] = wide


def _dtypes(node: Node) -> set[torch.dtype]:
    return {value.dtype for value in [*node.inputs, *node.outputs]}
