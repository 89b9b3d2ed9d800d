import torch
from small_graphs import Small, check_shapes, ops

from drystone.graph.graph import Graph
from drystone.graph.instructions import PointwiseOp
from drystone.graph.interpreter import run
from drystone.graph.ops import Cat, Matmul
from drystone.passes.lower_precision import rounded
from drystone.passes.widen_products import widen_products

BF16, F32 = torch.bfloat16, torch.float32


def narrowed(graph: Graph) -> Graph:
    """The graph of a model that is bfloat16 itself."""
    for node in graph:
        node.inputs = [rounded(value) if value.is_constant else value for value in node.inputs]
        for value in node.outputs:
            value.dtype = BF16
    return graph


def widened(graph: Graph) -> Graph:
    """Widen it; the outputs keep their dtypes, and are no further from the truth than they were."""
    inputs = [torch.randn(value.shape).to(value.dtype) for value in graph.inputs]
    dtypes, exact, before = [value.dtype for value in graph.outputs], run(graph, inputs, torch.float64), run(graph, inputs)
    assert widen_products(graph) is graph
    graph.check()
    check_shapes(graph)
    assert [value.dtype for value in graph.outputs] == dtypes
    for now, then, want in zip(run(graph, inputs), before, exact, strict=True):
        assert (now - want).norm() <= 1.1 * (then - want).norm() + 1e-3 * want.norm()
    return graph


def dtypes_of(graph: Graph, op: str) -> list[set[torch.dtype]]:
    return [{value.dtype for value in [*node.inputs, *node.outputs]} for node in graph if node.op.name == op]


def test_convolutions_and_what_moves_between_them():
    s = Small((2, 4, 6, 6), dtype=BF16)
    first = s.conv(s.x[0], 4, bias=True)
    moved = s.add(Cat(1), [s.reshape(first, 2, 4, 6, 6), first])
    graph = widened(narrowed(s.returns(s.conv(moved, 3))))
    assert ops(graph) == ["convert", "conv", "reshape", "cat", "conv", "convert"]
    assert dtypes_of(graph, "conv") == [{F32}, {F32}] and dtypes_of(graph, "cat") == [{F32}]


def test_operands_of_an_epilogue():
    s = Small((2, 4, 5, 5), (2, 4, 5, 5), dtype=BF16)
    y = s.conv(s.x[0], 4)
    node = y.producer
    node.epilogue = [PointwiseOp("add", (("in", 0), ("in", 1)))]
    node.inputs.append(s.x[1])
    graph = widened(narrowed(s.returns(y)))
    assert dtypes_of(graph, "conv") == [{F32}]


def test_what_computes_in_float32_inside_reads_and_writes_what_its_neighbours_do():
    s = Small((2, 4, 5, 5), dtype=BF16)
    scaled = s.layer_norm(s.unary("silu", s.conv(s.x[0], 4)), 3)
    graph = widened(narrowed(s.returns(s.conv(scaled, 4), s.mean(s.conv(s.x[0], 4), 2, 3))))
    assert ops(graph).count("convert") == 2, "of the input, and of the first output; a mean writes bfloat16 itself"


def test_what_still_reads_bfloat16_gets_it():
    s = Small((2, 4, 6), dtype=BF16)
    y = s.add(Matmul(((0, 1, 2), (0, 2, 1))), [s.x[0], s.x[0]])
    graph = widened(narrowed(s.returns(s.linear(y, 3), y)))
    assert dtypes_of(graph, "matmul") == [{F32}] and dtypes_of(graph, "linear") == [{BF16}]


def test_graphs_without_such_products_stay():
    s = Small((2, 4, 6), dtype=BF16)
    graph = narrowed(s.returns(s.unary("relu", s.linear(s.x[0], 3))))
    nodes = graph.nodes
    assert widen_products(graph).nodes is nodes
    t = Small((2, 4, 5, 5))
    graph = t.returns(t.conv(t.x[0], 4))
    nodes = graph.nodes
    assert widen_products(graph).nodes is nodes
