import math

import pytest
import torch
from small_graphs import Small, keeps_numbers, kinds, ops

from drystone.graph.graph import constant
from drystone.graph.instructions import PointwiseOp
from drystone.graph.interpreter import run
from drystone.passes.combine_affine import combine_affine
from drystone.passes.fuse_pointwise import fuse_pointwise


def test_scalars_become_instructions_and_signs_go():
    s = Small((2, 4, 5))
    y = s.unary("affine", s.binary("mul", s.x[0], s.constant(1, 1)), 3.0, 1.0)
    y = s.unary("relu", s.unary("neg", s.binary("sub", s.constant(), y)))
    graph = keeps_numbers(s.returns(y), fuse_pointwise, combine_affine)
    assert [kinds(node) for node in graph.nodes] == [["affine", "affine", "affine", "neg", "relu"]]
    assert graph.nodes[0].inputs == graph.inputs


STEPS = {
    "shift": lambda s, x: s.unary("affine", x, 1.0, -32768.0),
    "other shift": lambda s, x: s.unary("affine", x, 1.0, 32760.3),
    "scale": lambda s, x: s.unary("affine", x, 0.3),
    "zero": lambda s, x: s.unary("affine", x, -0.0),
    "plus zero": lambda s, x: s.unary("affine", x, 1.0, 0.0),
    "huge": lambda s, x: s.unary("affine", x, 1e20),
    "tiny": lambda s, x: s.unary("affine", x, 1e-30),
    "channels": lambda s, x: s.batch_norm(x),
    "neg": lambda s, x: s.unary("neg", x),
    "from": lambda s, x: s.binary("sub", constant(torch.tensor(32768.0)), x),
    "over": lambda s, x: s.binary("div", x, constant(torch.tensor(1e-40))),
}


@pytest.mark.parametrize("first", STEPS)
@pytest.mark.parametrize("second", STEPS)
def test_no_rounding_is_left_out_or_moved(first, second):
    s = Small((2, 4, 5))
    graph = s.returns(STEPS["neg"](s, STEPS[second](s, STEPS[first](s, s.x[0]))))
    x = torch.cat([torch.randn(18) * 10 + 32768, torch.randn(18) * 1e-20, torch.tensor([0.0, -0.0, 1e25, math.inf])]).reshape(
        2, 4, 5
    )
    (before,) = run(graph, [x])
    (after,) = run(combine_affine(fuse_pointwise(graph)), [x])
    assert torch.equal(*(y.nan_to_num(nan=7, posinf=math.inf, neginf=-math.inf).view(torch.int32) for y in (before, after)))


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
    graph = keeps_numbers(s.returns(s.unary("affine", s.x[0], 1.0)), combine_affine)
    assert ops(graph) == ["pointwise"]


def test_x_plus_zero_is_not_x():
    s = Small((2, 4, 5))
    graph = s.returns(s.unary("relu", s.unary("affine", s.x[0], 1.0, 0.0)))
    assert kinds(combine_affine(fuse_pointwise(graph)).nodes[0]) == ["affine", "relu"]


def test_not_across_a_second_reader():
    s = Small((2, 4, 5))
    chain = [
        PointwiseOp("affine", (("in", 0),), 2.0, 1.0),
        PointwiseOp("affine", (("reg", 0),), 3.0, 0.0),
        PointwiseOp("mul", (("reg", 0), ("reg", 1))),
    ]
    graph = keeps_numbers(s.returns(s.pointwise(chain, s.x[0])), combine_affine)
    assert kinds(graph.nodes[0]) == ["affine", "affine", "mul"]


def test_not_where_the_result_grows():
    s = Small((1, 4))
    y = s.unary("affine", s.binary("add", s.x[0], s.constant(3, 1)), 2.0, 0.0)
    graph = keeps_numbers(s.returns(y), fuse_pointwise, combine_affine)
    assert graph.outputs[0].shape == (3, 4)


def test_infinite_constants_stay():
    s = Small((2,))
    chain = s.unary("affine", s.binary("add", s.x[0], constant(s.constant(2).constant.fill_(-math.inf))), 2.0, 0.0)
    graph = s.returns(chain)
    combine_affine(fuse_pointwise(graph))
    assert kinds(graph.nodes[0]) == ["add", "affine"]
