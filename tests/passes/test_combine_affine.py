import math

from small_graphs import Small, keeps_numbers, kinds, ops

from drystone.graph.graph import PointwiseOp, constant
from drystone.passes.combine_affine import combine_affine
from drystone.passes.fuse_pointwise import fuse_pointwise


def test_two_batch_norms_become_one():
    s = Small((2, 4, 5))
    graph = keeps_numbers(s.returns(s.batch_norm(s.batch_norm(s.x[0]))), fuse_pointwise, combine_affine)
    assert [kinds(node) for node in graph.nodes] == [["mul", "add"]]
    assert len(graph.nodes[0].inputs) == 3


def test_scalars_become_one_instruction():
    s = Small((2, 4, 5))
    y = s.unary("linear", s.binary("mul", s.x[0], s.constant(1, 1)), 3.0, 1.0)
    y = s.unary("relu", s.unary("neg", s.binary("sub", s.constant(), y)))
    graph = keeps_numbers(s.returns(y), fuse_pointwise, combine_affine)
    assert [kinds(node) for node in graph.nodes] == [["linear", "relu"]]
    assert graph.nodes[0].inputs == graph.inputs


def test_what_cancels_goes():
    s = Small((2, 4, 5))
    y = s.unary("relu", s.unary("neg", s.unary("neg", s.unary("relu", s.x[0]))))
    graph = keeps_numbers(s.returns(y), fuse_pointwise, combine_affine)
    assert [kinds(node) for node in graph.nodes] == [["relu", "relu"]]
    s = Small((2, 4, 5))
    y = s.unary("neg", s.unary("neg", s.conv(s.x[0], 3)))
    graph = keeps_numbers(s.returns(y), fuse_pointwise, combine_affine)
    assert ops(graph) == ["conv"]


def test_an_input_does_not_become_an_output():
    s = Small((2, 4, 5))
    graph = keeps_numbers(s.returns(s.unary("linear", s.x[0], 1.0, 0.0)), combine_affine)
    assert ops(graph) == ["pointwise"]


def test_not_across_a_second_reader():
    s = Small((2, 4, 5))
    chain = [
        PointwiseOp("linear", (("in", 0),), 2.0, 1.0),
        PointwiseOp("linear", (("reg", 0),), 3.0, 0.0),
        PointwiseOp("mul", (("reg", 0), ("reg", 1))),
    ]
    graph = keeps_numbers(s.returns(s.pointwise(chain, s.x[0])), combine_affine)
    assert kinds(graph.nodes[0]) == ["linear", "linear", "mul"]


def test_not_where_the_result_grows():
    s = Small((1, 4))
    y = s.unary("linear", s.binary("add", s.x[0], s.constant(3, 1)), 2.0, 0.0)
    graph = keeps_numbers(s.returns(y), fuse_pointwise, combine_affine)
    assert graph.outputs[0].shape == (3, 4)


def test_infinite_constants_stay():
    s = Small((2,))
    chain = s.unary("linear", s.binary("add", s.x[0], constant(s.constant(2).constant.fill_(-math.inf))), 2.0, 0.0)
    graph = s.returns(chain)
    combine_affine(fuse_pointwise(graph))
    assert kinds(graph.nodes[0]) == ["add", "linear"]
