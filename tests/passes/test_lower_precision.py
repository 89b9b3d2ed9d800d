import torch
from small_graphs import Small, check_shapes, ops

from drystone.graph.aten import aten_node
from drystone.graph.graph import Graph, Value, constant
from drystone.graph.reference import run
from drystone.passes.fuse_epilogues import fuse_epilogues
from drystone.passes.lower_precision import lower_precision

BF16, F32 = torch.bfloat16, torch.float32


def lowered(graph: Graph) -> Graph:
    """Lower it; the outputs keep their dtypes and are within bfloat16's rounding of what they were."""
    inputs = [torch.randn(value.shape).to(value.dtype) for value in graph.inputs]
    dtypes = [value.dtype for value in graph.outputs]
    expected = run(graph, inputs, torch.float64)
    assert lower_precision(graph) is graph
    graph.check()
    check_shapes(graph)
    assert [value.dtype for value in graph.outputs] == dtypes
    for now, before in zip(run(graph, inputs), expected, strict=True):
        assert (now - before).norm() <= 0.02 * before.norm()
    return graph


def test_conv_with_epilogue():
    s = Small((2, 4, 5, 5))
    y = s.binary("add", s.binary("mul", s.conv(s.x[0], 4, bias=True), s.constant(4, 1, 1)), s.constant(2, 4, 5, 5))
    graph = fuse_epilogues(s.returns(y))
    original = graph.nodes[0].inputs[1].constant
    lowered(graph)
    assert ops(graph) == ["convert", "conv", "convert"]
    assert [value.dtype for value in graph.nodes[1].inputs] == [BF16, BF16, F32, F32, BF16]
    assert original.dtype == F32
    assert graph.inputs[0].dtype == graph.outputs[0].dtype == F32


def test_norms_and_pointwise_keep_their_parameters():
    s = Small((2, 4, 5))
    y = s.layer_norm(s.batch_norm(s.x[0]), 2)
    y = s.binary("add", y, s.constant(4, 5))
    graph = lowered(s.returns(s.add("softmax", [y], y.shape, dim=1)))
    norm, shift, full = graph.nodes[2], graph.nodes[1], graph.nodes[3]
    assert [value.dtype for value in norm.inputs] == [BF16, F32, F32]
    assert [value.dtype for value in shift.inputs] == [BF16, F32, F32]
    assert [value.dtype for value in full.inputs] == [BF16, BF16]
    assert all(node.output.dtype == BF16 for node in graph.nodes[:-1])


def test_an_operand_of_one_value_a_channel_keeps_its_precision_in_any_batch():
    for batch in (1, 2):
        s = Small((batch, 8, 1, 1))
        graph = lowered(s.returns(s.binary("mul", s.x[0], s.constant(8, 1, 1))))
        assert [value.dtype for value in graph.nodes[1].inputs] == [BF16, F32]


def test_an_output_that_is_read_inside():
    s = Small((2, 4))
    y = s.unary("exp", s.x[0])
    graph = lowered(s.returns(y, s.unary("relu", y)))
    assert ops(graph) == ["convert", "pointwise", "pointwise", "convert", "convert"]
    assert graph.nodes[2].inputs[0].dtype == BF16


def test_an_input_is_converted_once():
    s = Small((2, 4))
    graph = lowered(s.returns(s.binary("mul", s.unary("exp", s.x[0]), s.unary("relu", s.x[0]))))
    assert ops(graph).count("convert") == 2


def test_the_models_own_conversions():
    s = Small((2, 4))
    half = s.add("convert", [s.unary("exp", s.x[0])], (2, 4), BF16)
    graph = lowered(s.returns(s.unary("relu", s.add("convert", [half], (2, 4), F32))))
    assert ops(graph) == ["convert", "pointwise", "pointwise", "convert"]


def test_a_bfloat16_output_stays_one():
    s = Small((2, 4))
    graph = lowered(s.returns(s.add("convert", [s.x[0]], (2, 4), BF16)))
    assert len(graph.nodes) >= 1


def test_float64_and_integers_stay():
    s = Small((2, 4), dtype=torch.float64)
    assert ops(lowered(s.returns(s.unary("exp", s.x[0])))) == ["pointwise"]


def test_aten_nodes():
    s = Small((2, 4))
    total = Value((2, 4), F32)
    weight = constant(torch.randn(4))
    s.graph.nodes.append(aten_node(torch.ops.aten.cumsum.default, (s.x[0], 1), {"dtype": F32}, [total], "a test"))
    powered = Value((2, 4), F32)
    s.graph.nodes.append(aten_node(torch.ops.aten.hypot.default, (total, weight), {}, [powered], "a test"))
    ranks, order = Value((2, 2), F32), Value((2, 2), torch.int64)
    s.graph.nodes.append(aten_node(torch.ops.aten.topk.default, (powered, 2), {}, [ranks, order], "a test"))
    graph = lowered(s.returns(s.unary("relu", ranks), powered))
    assert ops(graph) == ["convert", "aten", "aten", "aten", "pointwise", "convert", "convert"]
    assert graph.nodes[1].attrs["kwargs"] == {"dtype": BF16}
    assert [value.dtype for value in graph.nodes[2].inputs] == [BF16, BF16]
    assert weight.dtype == F32 and order.dtype == torch.int64


def test_aten_nodes_that_make_float32_of_nothing_keep_it():
    s = Small((4,))
    made = Value((4,), F32)
    s.graph.nodes.append(aten_node(torch.ops.aten.arange.default, (4,), {"dtype": F32}, [made], "a test"))
    graph = lowered(s.returns(s.binary("add", s.x[0], made), made))
    assert graph.nodes[0].attrs["kwargs"] == {"dtype": F32}
    assert graph.outputs[1] is made


def test_the_lowest_number_of_a_mask_stays_finite():
    lowest = torch.finfo(F32).min
    s = Small((3, 4))
    fill = constant(torch.tensor([lowest, -torch.inf, 1.0, -lowest]))
    graph = lower_precision(s.returns(s.unary("linear", s.x[0], lowest, 0.0), s.add("expand", [fill], (3, 4))))
    first, second = run(graph, [torch.ones(3, 4)])
    assert first.isfinite().all() and (first < -3e38).all()
    assert second[0].isinf().tolist() == [False, True, False, False]


def test_what_is_computed_from_integers_stays_exact():
    s = Small((2, 300, 8), (2, 300))
    s.x[1].dtype = torch.int64
    position = s.unary("linear", s.add("convert", [s.x[1]], (2, 300), F32), 0.01, 0.0)
    angle = s.unary("cos", s.add("reshape", [position], (2, 300, 1)))
    graph = lower_precision(s.returns(s.binary("mul", s.x[0], angle), angle))
    check_shapes(graph)
    x, ids = torch.ones(2, 300, 8), torch.arange(600).reshape(2, 300)
    scaled, angles = run(graph, [x, ids])
    expected = (ids * 0.01).cos()[..., None]
    assert angles.dtype == F32 and (angles - expected).abs().max() < 1e-6
    assert (scaled - expected).abs().max() < 2**-8
