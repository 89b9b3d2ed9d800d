import torch
from small_graphs import Small, check_shapes, ops

from drystone.graph.graph import Graph, Value, constant
from drystone.graph.interpreter import run
from drystone.graph.ops import Aggregate, Aten, Cat, Convert, Expand, Softmax
from drystone.graph.ops.aten import aten_node
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
    y = s.binary("mul", s.conv(s.x[0], 4, bias=True), s.constant(4, 1, 1))
    graph = fuse_epilogues(s.returns(s.conv(y, 4)))
    original = graph.nodes[0].inputs[1].constant
    lowered(graph)
    assert ops(graph) == ["convert", "conv", "conv"]
    first, second = graph.nodes[1:]
    assert [value.dtype for value in first.inputs] == [BF16, BF16, F32, F32]
    assert first.output.dtype == BF16 and second.output.dtype == F32, "what leaves the graph is written as it leaves"
    assert original.dtype == F32


def test_what_is_wider_stays_so():
    """The residual of a transformer: products are bfloat16, what they are added to is not."""
    s = Small((2, 7, 16))
    y = s.layer_norm(s.binary("add", s.linear(s.x[0], 16), s.x[0]), 2)
    graph = fuse_epilogues(s.returns(s.binary("add", s.linear(s.unary("relu", s.linear(y, 16)), 16), y)))
    lowered(graph)
    assert ops(graph) == ["convert", "linear", "layer_norm", "convert", "linear", "linear"]
    inputs = [[value.dtype for value in node.inputs] for node in graph]
    assert inputs[1] == inputs[5] == [BF16, BF16, F32] and inputs[2][0] == F32
    assert [node.output.dtype for node in graph] == [BF16, F32, F32, BF16, BF16, F32]


def test_what_is_read_as_bfloat16_alone_is_written_so():
    s = Small((2, 7, 16))
    y = s.reshape(s.layer_norm(s.x[0], 2), 14, 16)
    graph = lowered(s.returns(s.linear(y, 16)))
    assert ops(graph) == ["layer_norm", "reshape", "linear"]
    assert [node.output.dtype for node in graph] == [BF16, BF16, F32]


def test_norms_and_pointwise_keep_their_parameters():
    s = Small((2, 4, 5, 5))
    y = s.layer_norm(s.batch_norm(s.conv(s.x[0], 4)), 3)
    graph = lowered(s.returns(s.conv(s.add(Softmax(1), [s.binary("mul", y, s.constant(5))]), 4)))
    _, conv, shift, norm, scale, softmax, last = graph.nodes
    assert [value.dtype for value in shift.inputs] == [value.dtype for value in norm.inputs] == [BF16, F32, F32]
    assert [value.dtype for value in scale.inputs] == [BF16, F32]
    assert all(node.output.dtype == BF16 for node in (conv, shift, norm, scale, softmax)) and last.output.dtype == F32


def test_constants_of_more_than_a_value_a_channel_widen():
    for shape, dtype in (((8, 1, 1), BF16), ((8, 3, 3), F32)):
        s = Small((2, 8, 3, 3))
        y = s.binary("mul", s.unary("relu", s.conv(s.x[0], 8)), s.constant(*shape))
        graph = lowered(s.returns(y, s.unary("relu", y)))
        assert [node.inputs[1].dtype for node in graph if len(node.inputs) == 2] == [BF16, F32]
        assert graph.nodes[3].output.dtype == dtype


def test_parts_of_one_tensor_are_of_one_dtype():
    s = Small((2, 4, 8))
    graph = lowered(s.returns(s.add(Cat(1), [s.constant(2, 1, 8), s.linear(s.x[0], 8)])))
    assert [value.dtype for value in graph.nodes[-1].inputs] == [F32, F32]
    assert ops(graph) == ["convert", "linear", "cat"]


def test_aggregates_follow_what_they_read():
    """Running sums and extremes are of one dtype with their operand: their kernel does not convert."""
    for lower in (False, True):
        s = Small((2, 4, 8))
        y = s.linear(s.x[0], 8) if lower else s.unary("relu", s.x[0])
        total = s.add(Aggregate("cumsum", (1,), keepdim=True), [y])
        s.add(Aggregate("argmax", (2,), keepdim=False), [y], torch.int64)
        graph = lowered(s.returns(total))
        aggregates = [node for node in graph if isinstance(node.op, Aggregate)]
        assert [node.inputs[0].dtype for node in aggregates] == [BF16 if lower else F32] * 2
        assert [node.output.dtype for node in aggregates] == [BF16 if lower else F32, torch.int64]


def test_an_input_is_converted_once():
    s = Small((2, 4))
    graph = lowered(s.returns(s.linear(s.x[0], 3), s.linear(s.x[0], 4)))
    assert ops(graph) == ["convert", "linear", "linear"]


def test_the_models_own_conversions():
    s = Small((2, 4))
    half = s.add(Convert(), [s.unary("exp", s.x[0])], BF16)
    graph = lowered(s.returns(s.unary("relu", s.add(Convert(), [half], F32))))
    assert ops(graph) == ["pointwise", "pointwise"], "rounding between them is not what bfloat16 was asked for"


def test_a_bfloat16_output_stays_one():
    s = Small((2, 4))
    graph = lowered(s.returns(s.add(Convert(), [s.x[0]], BF16)))
    assert len(graph.nodes) >= 1


def test_integers_stay():
    s = Small((2, 4), dtype=torch.int64)
    graph = lower_precision(s.returns(s.reshape(s.x[0], 8)))
    assert ops(graph) == ["reshape"] and graph.outputs[0].dtype == torch.int64


def test_products_of_kept_modules_stay():
    s = Small((2, 4))
    y = s.linear(s.x[0], 4)
    z = s.linear(y, 4)
    y.producer.float32 = True
    graph = lower_precision(s.returns(z))
    assert [value.dtype for value in graph.nodes[0].inputs] == [F32, F32]
    assert [value.dtype for value in graph.nodes[1].inputs] == [BF16, BF16]
    assert graph.nodes[0].output.dtype == BF16, "it is read as bfloat16 alone"


def test_aten_nodes():
    """Products are lowered, as by autocast; the rest follows what it reads, and is in one dtype."""
    s = Small((4, 4))
    weight = constant(torch.randn(4))
    total, product, powered = (Value((4, 4), F32) for _ in range(3))
    s.graph.nodes.append(aten_node(torch.ops.aten.cumsum.default, (s.x[0], 1), {"dtype": F32}, [total], "a test"))
    s.graph.nodes.append(aten_node(torch.ops.aten.mm.default, (total, s.x[0]), {}, [product], "a test"))
    s.graph.nodes.append(aten_node(torch.ops.aten.hypot.default, (product, weight), {}, [powered], "a test"))
    ranks, order, mixed = Value((4, 2), F32), Value((4, 2), torch.int64), Value((4, 4), F32)
    s.graph.nodes.append(aten_node(torch.ops.aten.topk.default, (powered, 2), {}, [ranks, order], "a test"))
    s.graph.nodes.append(aten_node(torch.ops.aten.hypot.default, (powered, total), {}, [mixed], "a test"))
    graph = lowered(s.returns(s.unary("relu", ranks), mixed))
    given = {node.name: [value.dtype for value in node.inputs] for node in graph if isinstance(node.op, Aten)}
    assert [node.output.dtype for node in graph if isinstance(node.op, Aten)] == [F32, BF16, BF16, BF16, F32], given
    assert graph.nodes[0].op.kwargs == {"dtype": F32}
    assert weight.dtype == F32 and order.dtype == torch.int64


def test_aten_nodes_that_make_float32_of_nothing_keep_it():
    s = Small((4,))
    made = Value((4,), F32)
    s.graph.nodes.append(aten_node(torch.ops.aten.arange.default, (4,), {"dtype": F32}, [made], "a test"))
    graph = lowered(s.returns(s.binary("add", s.x[0], made), made))
    assert graph.nodes[0].op.kwargs == {"dtype": F32}
    assert graph.outputs[1] is made


def test_the_lowest_number_of_a_mask_stays_finite():
    lowest = torch.finfo(F32).min
    s = Small((3, 4))
    fill = constant(torch.tensor([lowest, -torch.inf, 1.0, -lowest]))
    narrow = s.add(Convert(), [s.x[0]], BF16)
    graph = lower_precision(s.returns(s.unary("affine", narrow, lowest, 0.0), s.add(Expand((3, 4)), [fill])))
    first, second = run(graph, [torch.ones(3, 4)])
    assert first.isfinite().all() and (first < -3e38).all()
    assert second[0].isinf().tolist() == [False, True, False, False]


def test_what_is_computed_from_integers_stays_exact():
    s = Small((2, 300, 8), (2, 300))
    s.x[1].dtype = torch.int64
    position = s.unary("affine", s.add(Convert(), [s.x[1]], F32), 0.01, 0.0)
    angle = s.unary("cos", s.reshape(position, 2, 300, 1))
    graph = lower_precision(s.returns(s.binary("mul", s.x[0], angle), angle))
    check_shapes(graph)
    x, ids = torch.ones(2, 300, 8), torch.arange(600).reshape(2, 300)
    scaled, angles = run(graph, [x, ids])
    expected = (ids * 0.01).cos()[..., None]
    assert angles.dtype == F32 and (angles - expected).abs().max() < 1e-6
    assert (scaled - expected).abs().max() < 2**-8
