from small_graphs import Small, keeps_numbers, kinds, ops

from drystone.passes.fuse_pointwise import MAX_INPUTS, MAX_INSTRUCTIONS, RECOMPUTED_ELEMENTS, fuse_pointwise


def test_chain_with_several_operands():
    s = Small((2, 3), (2, 3), (3,))
    y = s.binary("add", s.binary("mul", s.x[0], s.unary("sigmoid", s.x[1])), s.x[2])
    graph = keeps_numbers(s.returns(y), fuse_pointwise)
    assert [kinds(node) for node in graph.nodes] == [["sigmoid", "mul", "add"]]
    assert len(graph.nodes[0].inputs) == 3


def test_diamond():
    s = Small((2, 3))
    y = s.unary("exp", s.x[0])
    graph = keeps_numbers(s.returns(s.binary("mul", y, s.unary("sigmoid", y))), fuse_pointwise)
    assert [kinds(node) for node in graph.nodes] == [["exp", "sigmoid", "mul"]]


def test_not_across_an_output_or_two_nodes_that_read():
    s = Small((2, 3))
    y = s.unary("exp", s.x[0])
    graph = keeps_numbers(s.returns(s.unary("relu", y), y), fuse_pointwise)
    assert len(graph.nodes) == 2
    s = Small((2, 3))
    y = s.unary("exp", s.x[0])
    graph = keeps_numbers(s.returns(s.unary("relu", y), s.unary("tanh", y)), fuse_pointwise)
    assert len(graph.nodes) == 3


def test_a_smaller_operand_is_not_computed_for_every_element():
    s = Small((1, RECOMPUTED_ELEMENTS), (1,))
    large = keeps_numbers(s.returns(s.binary("mul", s.unary("relu", s.x[0]), s.unary("exp", s.x[1]))), fuse_pointwise)
    assert len(large.nodes) == 1
    s = Small((2, RECOMPUTED_ELEMENTS), (1,))
    large = keeps_numbers(s.returns(s.binary("mul", s.unary("relu", s.x[0]), s.unary("exp", s.x[1]))), fuse_pointwise)
    assert len(large.nodes) == 2


def test_bounds():
    shapes = [(2, 3)] * (MAX_INPUTS + 3)
    s = Small(*shapes)
    total = s.x[0]
    for x in s.x[1:]:
        total = s.binary("add", total, x)
    graph = keeps_numbers(s.returns(total), fuse_pointwise)
    assert len(graph.nodes) == 2
    assert all(len(node.inputs) <= MAX_INPUTS for node in graph.nodes)
    s = Small((2, 3))
    y = s.x[0]
    for _ in range(MAX_INSTRUCTIONS + 1):
        y = s.unary("tanh", y)
    graph = keeps_numbers(s.returns(y), fuse_pointwise)
    assert sorted(len(kinds(node)) for node in graph.nodes) == [1, MAX_INSTRUCTIONS]


def test_an_operand_given_twice_is_read_once():
    s = Small((2, 3))
    graph = keeps_numbers(s.returns(s.binary("mul", s.x[0], s.x[0])), fuse_pointwise)
    assert graph.nodes[0].inputs == s.x
    assert ops(graph) == ["pointwise"]
