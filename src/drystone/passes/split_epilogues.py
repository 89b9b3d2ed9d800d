"""The opposite of fuse_epilogues, into a new graph: what follows a conv or a matmul is a pointwise node of its own.

before:  y = conv(x, w, r) | add(in0, in1), relu(reg0)
after:   c = conv(x, w)    y = pointwise(c, r) ops=[add(in0, in1), relu(reg0)]

oneDNN's relu and clamp make a number of a NaN; the pointwise kernel keeps it. This graph is what runs where an input holds NaN
or infinity. Constants, and with them packed weights, are shared with the graph that is given.
"""

from __future__ import annotations

from drystone.graph.graph import Graph, Node, Value, make_node


def split_epilogues(graph: Graph) -> Graph:
    fresh: dict[int, Value] = {}

    def copied(value: Value) -> Value:
        if value.is_constant:
            return value
        if value.id not in fresh:
            fresh[value.id] = Value(value.shape, value.dtype, value.name)
        return fresh[value.id]

    def node_of(node: Node, inputs: list[Value], outputs: list[Value]) -> Node:
        made = Node(node.op, inputs, outputs, dict(node.attrs), name=node.name)
        for value in outputs:
            value.producer = made
        return made

    nodes = []
    for node in graph:
        inputs = [copied(value) for value in node.inputs]
        if not node.epilogue:
            nodes.append(node_of(node, inputs, [copied(value) for value in node.outputs]))
            continue
        bare = Value(node.output.shape, node.output.dtype, node.output.name)
        nodes.append(node_of(node, inputs[: node.epilogue_start], [bare]))
        after = make_node("pointwise", [bare, *inputs[node.epilogue_start :]], (), bare.dtype, node.name, ops=list(node.epilogue))
        after.outputs = [copied(node.output)]
        after.output.producer = after
        nodes.append(after)
    inputs = [copied(value) for value in graph.inputs]
    return Graph(inputs, [copied(value) for value in graph.outputs], nodes)
