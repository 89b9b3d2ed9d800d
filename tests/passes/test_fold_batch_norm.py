import importlib

import pytest
import torch
from small_graphs import Small, keeps_numbers, kinds, ops

from drystone.graph.graph import constant
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import GroupNorm
from drystone.passes.fold_batch_norm import fold_batch_norm, fold_into_producers
from drystone.passes.fuse_pointwise import fuse_pointwise


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_after_conv(bias, groups):
    s = Small((2, 4, 5, 5))
    graph = keeps_numbers(s.returns(s.unary("relu", s.batch_norm(s.conv(s.x[0], 8, 3, 1, groups, bias)))), fold_batch_norm)
    assert ops(graph) == ["conv", "pointwise"]
    assert graph.nodes[0].op.has_bias and len(graph.nodes[0].inputs) == 3


def test_many_rows_are_scaled_in_parts(monkeypatch):
    # The package has the function under its module's name.
    monkeypatch.setattr(importlib.import_module("drystone.passes.fold_batch_norm"), "CHUNK_ELEMENTS", 100)
    s = Small((1, 4, 5, 5))
    graph = keeps_numbers(s.returns(s.batch_norm(s.conv(s.binary("mul", s.x[0], s.constant(4, 1, 1)), 30, 3))), fold_batch_norm)
    assert ops(graph) == ["conv"]


def test_inside_a_longer_chain_and_on_both_operands():
    s = Small((2, 4, 5, 5))
    left, right = s.conv(s.x[0], 8, 1), s.conv(s.x[0], 8, 3, 1)
    chain = [
        PointwiseOp("mul", (("in", 0), ("in", 1))),
        PointwiseOp("sub", (("in", 2), ("reg", 0))),
        PointwiseOp("div", (("in", 3), ("in", 4))),
        PointwiseOp("add", (("reg", 1), ("reg", 2))),
        PointwiseOp("relu", (("reg", 3),)),
    ]
    y = s.pointwise(chain, left, s.constant(8, 1, 1), s.constant(8, 1, 1), right, s.constant(1, 8, 1, 1, positive=True))
    graph = keeps_numbers(s.returns(y), fold_batch_norm)
    assert kinds(graph.nodes[-1]) == ["add", "relu"]
    assert graph.nodes[-1].inputs == [left, right]


def test_two_in_a_row_after_linear():
    s = Small((3, 4))
    graph = keeps_numbers(s.returns(s.batch_norm(s.batch_norm(s.linear(s.x[0], 6)))), fold_batch_norm)
    assert ops(graph) == ["linear"]


def test_across_a_permute():
    s = Small((2, 5, 5, 4))
    y = s.batch_norm(s.permute(s.linear(s.x[0], 6, bias=True), 0, 3, 1, 2))
    graph = keeps_numbers(s.returns(y), fold_batch_norm)
    assert ops(graph) == ["linear", "permute"]


def test_norms_take_scale_and_shift():
    s = Small((2, 4, 5))
    bare = s.batch_norm(s.layer_norm(s.x[0], 1, affine=False))
    full = s.batch_norm(s.layer_norm(s.x[0], 2), axis=2)
    group = s.batch_norm(s.add(GroupNorm(1e-5, False, False, groups=2), [s.x[0]]))
    graph = keeps_numbers(s.returns(bare, full, group), fold_batch_norm)
    assert ops(graph) == ["layer_norm", "layer_norm", "group_norm"]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_conv_takes_the_scale_before_it(groups, bias, padding):
    s = Small((2, 4, 5, 5))
    scaled = s.binary("mul", s.unary("relu", s.x[0]), s.constant(4, 1, 1))
    graph = keeps_numbers(s.returns(s.conv(scaled, 6, 3, padding, groups, bias)), fold_batch_norm)
    assert [kinds(node) for node in graph.nodes] == [["relu"], []]


def test_a_linear_takes_the_scale_before_it():
    s = Small((3, 4))
    scaled = s.binary("mul", s.x[0], s.constant(4))
    graph = keeps_numbers(s.returns(s.linear(scaled, 6, bias=True)), fold_batch_norm)
    assert ops(graph) == ["linear"]


def test_no_product_takes_a_shift_before_it():
    s = Small((2, 4, 5, 5))
    standardised = s.binary("div", s.binary("sub", s.x[0], s.constant(4, 1, 1)), s.constant(4, 1, 1, positive=True))
    graph = keeps_numbers(s.returns(s.conv(standardised, 6, 3)), fuse_pointwise, fold_batch_norm)
    assert [kinds(node) for node in graph.nodes] == [["sub"], []]
    s = Small((3, 4))
    graph = keeps_numbers(s.returns(s.linear(s.batch_norm(s.x[0]), 6)), fold_batch_norm)
    assert [kinds(node) for node in graph.nodes] == [["mul", "add"], []]


def test_densenet_order_folds_what_follows_the_conv():
    s = Small((2, 4, 5, 5))
    y = s.conv(s.unary("relu", s.batch_norm(s.x[0])), 8)
    y = s.conv(s.unary("relu", s.batch_norm(y)), 4, 3, 1)
    graph = keeps_numbers(s.returns(y), fold_batch_norm)
    assert ops(graph) == ["pointwise", "pointwise", "conv", "pointwise", "conv"]  # batch norm, relu of x; relu between


def test_not_where_something_else_reads_the_conv():
    s = Small((2, 4, 5, 5))
    y = s.conv(s.x[0], 4)
    graph = keeps_numbers(s.returns(s.batch_norm(y), s.unary("relu", y)), fold_batch_norm)
    assert ops(graph) == ["conv", "pointwise", "pointwise"]


def test_not_where_the_conv_is_an_output():
    s = Small((2, 4, 5, 5))
    y = s.conv(s.x[0], 4)
    graph = keeps_numbers(s.returns(s.batch_norm(y), y), fold_batch_norm)
    assert ops(graph) == ["conv", "pointwise"]


def test_readers_of_a_folded_result_are_counted_again():
    s = Small((2, 4, 5, 5))
    y = s.batch_norm(s.conv(s.x[0], 4))
    graph = keeps_numbers(s.returns(s.batch_norm(y), s.unary("relu", y)), fold_batch_norm)
    assert ops(graph) == ["conv", "pointwise", "pointwise"]


@pytest.mark.parametrize("shape", [(5, 5), (2, 1, 1, 1), (1, 4, 5, 5)])
def test_not_what_varies_over_another_axis(shape):
    s = Small((2, 4, 5, 5))
    graph = keeps_numbers(s.returns(s.binary("mul", s.conv(s.x[0], 4), s.constant(*shape))), fold_batch_norm)
    assert ops(graph) == ["conv", "pointwise"]


def test_not_what_is_not_finite():
    s = Small((2, 4, 5, 5))
    zero = s.constant(4, 1, 1)
    zero.constant[1] = 0.0
    graph = s.returns(s.binary("div", s.conv(s.x[0], 4), zero))
    fold_batch_norm(graph)
    assert ops(graph) == ["conv", "pointwise"]


@pytest.mark.parametrize("factor", [0.0, -0.0, 1e-40, 1e-30, 1e30, 3e38])
def test_not_what_leaves_the_range_of_float32(factor):
    s = Small((2, 4, 5, 5))
    y = s.conv(s.unary("affine", s.conv(s.x[0], 4), factor), 4)
    y = s.conv(s.binary("mul", y, constant(torch.full((4, 1, 1), factor))), 4)
    graph = fold_batch_norm(s.returns(y))
    assert ops(graph) == ["conv", "pointwise", "conv", "pointwise", "conv"]


def test_not_factors_that_leave_it_together():
    s = Small((2, 4))
    y = s.linear(s.x[0], 3)
    for _ in range(2):
        y = s.unary("affine", y, 2.0**-30)
    graph = fold_into_producers(fuse_pointwise(s.returns(y)))
    assert [kinds(node) for node in graph.nodes] == [[], ["affine"]]


def test_channels_that_a_batch_norm_scales_to_nothing():
    s = Small((2, 4, 5, 5))
    scale = constant(torch.tensor([0.0, 1e-41, 1.0, 2.0]).reshape(4, 1, 1))
    y = s.binary("add", s.binary("mul", s.conv(s.x[0], 4), scale), s.constant(4, 1, 1))
    graph = keeps_numbers(s.returns(y), fuse_pointwise, fold_batch_norm)
    assert ops(graph) == ["conv"]


def test_not_a_value_read_twice_in_the_node():
    s = Small((2, 4, 5, 5))
    twice = [PointwiseOp("affine", (("in", 0),), 2.0, 1.0), PointwiseOp("mul", (("in", 0), ("reg", 0)))]
    graph = keeps_numbers(s.returns(s.pointwise(twice, s.conv(s.x[0], 4))), fold_batch_norm)
    assert kinds(graph.nodes[1]) == ["affine", "mul"]


def test_shift_alone_leaves_the_weight_as_it_is():
    s = Small((2, 4, 5, 5))
    y = s.conv(s.x[0], 4)
    weight = y.producer.inputs[1]
    keeps_numbers(s.returns(s.binary("add", y, s.constant(4, 1, 1))), fold_into_producers)
    assert y.producer.inputs[1] is weight


def test_strided_weights():
    s = Small((2, 4, 5, 5))
    y = s.conv(s.x[0], 4, 3)
    weight = y.producer.inputs[1]
    weight.data = weight.constant.contiguous(memory_format=torch.channels_last)
    graph = keeps_numbers(s.returns(s.batch_norm(y)), fold_batch_norm)
    assert graph.nodes[0].inputs[1].constant.is_contiguous()
