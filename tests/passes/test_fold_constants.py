import torch
from small_graphs import Small, keeps_numbers, ops

from drystone.graph.graph import constant
from drystone.graph.ops import Convert, Expand
from drystone.passes.fold_constants import ALWAYS_BYTES, fold_constants


def test_chain_of_constants_becomes_one():
    s = Small((2, 3, 4))
    scaled = s.binary("mul", s.permute(s.constant(4, 3), 1, 0), s.constant(3, 1))
    graph = keeps_numbers(s.returns(s.binary("add", s.x[0], scaled)), fold_constants)
    assert ops(graph) == ["pointwise"]
    folded = graph.nodes[0].inputs[1]
    assert folded.producer is None and folded.is_constant and folded.constant.is_contiguous()


def test_arithmetic_is_done_in_float64():
    s = Small((1,))
    large = constant(torch.tensor([1e8]))
    total = s.binary("sub", s.binary("add", large, constant(torch.tensor([1.0]))), large)
    one_node = s.returns(s.binary("add", s.x[0], total))
    fold_constants(one_node)
    # Each node's result is stored in float32: 1e8 + 1 is 1e8 there.
    assert float(one_node.nodes[0].inputs[1].constant) == 0.0
    s = Small((1,))
    exact = s.unary("affine", constant(torch.tensor([3.0])), 1 / 3, 1e-12)
    graph = s.returns(s.binary("add", s.x[0], exact))
    fold_constants(graph)
    assert float(graph.nodes[0].inputs[1].constant) == 1.0


def test_large_expansion_stays():
    s = Small((1,))
    small = s.constant(1, 8)
    large = s.add(Expand((ALWAYS_BYTES // 8, 8)), [small])
    graph = keeps_numbers(s.returns(s.binary("add", s.x[0], large)), fold_constants)
    assert ops(graph) == ["expand", "pointwise"]


def test_output_of_the_graph_stays_computed():
    s = Small((1,))
    graph = keeps_numbers(s.returns(s.unary("relu", s.constant(3))), fold_constants)
    assert ops(graph) == ["pointwise"]


def test_conversion_rounds():
    s = Small((4,), dtype=torch.bfloat16)
    converted = s.add(Convert(), [constant(torch.tensor([1.0, 1.001, 2.0, 3.0]))], torch.bfloat16)
    graph = s.returns(s.binary("add", s.x[0], converted))
    fold_constants(graph)
    assert graph.nodes[0].inputs[1].constant.tolist() == [1.0, 1.0, 2.0, 3.0]
    assert graph.nodes[0].inputs[1].constant.dtype == torch.bfloat16


def test_random_numbers_are_not_constants():
    from drystone.graph.graph import Value
    from drystone.graph.ops.aten import aten_node

    s = Small((4,))
    for target in (torch.ops.aten.rand.default, torch.ops.aten.ones.default):
        s.graph.nodes.append(aten_node(target, ([4],), {}, [Value((4,), torch.float32)], "a test"))
    drawn, ones = (node.output for node in s.graph.nodes)
    graph = fold_constants(s.returns(s.binary("add", s.binary("add", s.x[0], drawn), ones)))
    assert ops(graph) == ["aten", "pointwise", "pointwise"]
    assert graph.nodes[0].output is drawn
    assert graph.nodes[2].inputs[1].constant.tolist() == [1.0] * 4
