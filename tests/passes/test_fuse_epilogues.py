import pytest
from small_graphs import Small, keeps_numbers, kinds, ops

from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Softmax
from drystone.passes.fuse_epilogues import MAX_INSTRUCTIONS, fuse_epilogues
from drystone.passes.fuse_pointwise import fuse_pointwise


@pytest.mark.parametrize("kind", ["relu", "silu", "hardswish", "gelu_erf", "neg"])
def test_activation(kind):
    s = Small((2, 4, 5, 5))
    graph = keeps_numbers(s.returns(s.unary(kind, s.conv(s.x[0], 4, bias=True))), fuse_epilogues)
    assert ops(graph) == ["conv"]
    assert kinds(graph.nodes[0]) == ["affine" if kind == "neg" else kind]
    assert graph.nodes[0].epilogue_start == 3


@pytest.mark.parametrize("merged", [False, True])
def test_residual_then_activation(merged):
    s = Small((2, 4, 5, 5))
    y = s.unary("relu", s.binary("add", s.conv(s.x[0], 4), s.x[0]))
    graph = keeps_numbers(s.returns(y), *([fuse_pointwise] if merged else []), fuse_epilogues)
    assert ops(graph) == ["conv"]
    assert graph.nodes[0].epilogue == [
        PointwiseOp("add", (("in", 0), ("in", 1))),
        PointwiseOp("relu", (("reg", 0),)),
    ]
    assert graph.nodes[0].inputs[2] is s.x[0]


def test_of_two_convs_the_later_adds():
    s = Small((2, 4, 5, 5))
    one, two = s.conv(s.x[0], 4), s.conv(s.x[0], 4, 3, 1)
    graph = keeps_numbers(s.returns(s.binary("add", one, two)), fuse_epilogues)
    assert ops(graph) == ["conv", "conv"]
    assert (graph.nodes[0].epilogue, kinds(graph.nodes[1])) == ([], ["add"])


def test_where_the_later_is_full_the_earlier_adds():
    s = Small((2, 4, 5, 5))
    one, two = s.conv(s.x[0], 4), s.conv(s.x[0], 4, 3, 1)
    for _ in range(MAX_INSTRUCTIONS):
        two = s.unary("tanh", two)
    graph = keeps_numbers(s.returns(s.binary("add", one, two)), fuse_pointwise, fuse_epilogues)
    assert [kinds(node) for node in graph.nodes] == [["tanh"] * MAX_INSTRUCTIONS, ["add"]]


def test_each_conv_takes_its_own_activation():
    s = Small((2, 4, 5, 5))
    one, two = s.unary("relu", s.conv(s.x[0], 4)), s.unary("silu", s.conv(s.x[0], 4))
    graph = keeps_numbers(s.returns(s.unary("tanh", s.binary("sub", one, two))), fuse_pointwise, fuse_epilogues)
    assert [kinds(node) for node in graph.nodes] == [["relu"], ["silu", "affine", "add", "tanh"]]


def test_operand_computed_after_the_conv():
    s = Small((2, 4, 5, 5))
    y = s.conv(s.x[0], 4)
    late = s.add(Softmax(1), [s.x[0]])
    graph = keeps_numbers(s.returns(s.binary("mul", late, y)), fuse_epilogues)
    assert ops(graph) == ["softmax", "conv"]


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1), (2, 4, 5, 5)])
def test_operands_that_an_epilogue_can_read(shape):
    s = Small((2, 4, 5, 5), shape)
    graph = keeps_numbers(s.returns(s.binary("mul", s.conv(s.x[0], 4), s.x[1])), fuse_epilogues)
    assert ops(graph) == ["conv"]


@pytest.mark.parametrize("shape", [(5,), (2, 1, 1, 1), (2, 4, 1, 1), (1, 4, 5, 5), (1, 1, 5, 5), (3, 2, 4, 5, 5)])
def test_operands_that_it_cannot_read(shape):
    s = Small((2, 4, 5, 5), shape)
    graph = keeps_numbers(s.returns(s.binary("mul", s.conv(s.x[0], 4), s.x[1])), fuse_epilogues)
    assert ops(graph) == ["conv", "pointwise"]


@pytest.mark.parametrize(
    ("shape", "fused"), [((6,), True), ((2, 3, 6), True), ((1, 3, 6), False), ((3, 1), False), ((2, 1, 6), False)]
)
def test_operands_of_linear(shape, fused):
    s = Small((2, 3, 4), shape)
    graph = keeps_numbers(s.returns(s.binary("add", s.linear(s.x[0], 6, bias=True), s.x[1])), fuse_epilogues)
    assert ops(graph) == (["linear"] if fused else ["linear", "pointwise"])


def test_division_by_the_result_stays():
    s = Small((2, 4, 5, 5))
    graph = keeps_numbers(s.returns(s.binary("div", s.x[0], s.conv(s.x[0], 4))), fuse_epilogues)
    assert ops(graph) == ["conv", "pointwise"]


def test_one_residual_only():
    s = Small((2, 4, 5, 5))
    y = s.binary("add", s.binary("add", s.conv(s.x[0], 4), s.x[0]), s.unary("exp", s.x[0]))
    graph = keeps_numbers(s.returns(y), fuse_epilogues)
    assert [kinds(node) for node in graph.nodes] == [["add"], ["exp"], ["add"]]


def test_long_chains_are_split():
    s = Small((2, 4, 5, 5))
    y = s.conv(s.x[0], 4)
    for _ in range(MAX_INSTRUCTIONS + 2):
        y = s.unary("tanh", y)
    graph = keeps_numbers(s.returns(y), fuse_pointwise, fuse_epilogues)
    assert [len(kinds(node)) for node in graph.nodes] == [MAX_INSTRUCTIONS, 2]


def test_a_result_read_twice_stops_the_chain():
    s = Small((2, 4, 5, 5))
    y = s.unary("tanh", s.conv(s.x[0], 4))
    graph = keeps_numbers(s.returns(s.binary("mul", y, s.unary("exp", y))), fuse_pointwise, fuse_epilogues)
    assert [kinds(node) for node in graph.nodes] == [["tanh"], ["exp", "mul"]]


def test_squeeze_and_excite_stays():
    s = Small((2, 4, 5, 5))
    y = s.unary("relu", s.conv(s.x[0], 4))
    gate = s.unary("sigmoid", s.conv(s.mean(y, 2, 3), 4))
    graph = keeps_numbers(s.returns(s.binary("mul", y, gate)), fuse_pointwise, fuse_epilogues)
    assert ops(graph) == ["conv", "reduce", "conv", "pointwise"]
    assert kinds(graph.nodes[2]) == ["sigmoid"]


@pytest.mark.parametrize("output", [False, True])
def test_not_with_another_reader(output):
    s = Small((2, 4, 5, 5))
    y = s.conv(s.x[0], 4)
    other = y if output else s.mean(y, 2, 3)
    graph = keeps_numbers(s.returns(s.unary("relu", y), other), fuse_epilogues)
    assert "pointwise" in ops(graph)
