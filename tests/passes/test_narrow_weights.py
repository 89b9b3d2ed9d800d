import torch
from small_graphs import Small, ops

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.ops import Recurrent
from drystone.passes import simplify
from drystone.passes.narrow_weights import narrow_weights

BF16, F32 = torch.bfloat16, torch.float32


def test_weights_of_linear_layers_alone_are_narrowed():
    s = Small((2, 4, 6, 6))
    y = s.linear(s.reshape(s.conv(s.x[0], 4, bias=True), 2, 4, 36), 5, bias=True)
    graph = narrow_weights(s.returns(y))
    assert ops(graph) == ["conv", "reshape", "linear"]
    assert {value.dtype for value in graph.nodes[0].inputs} == {F32}
    assert [value.dtype for value in graph.nodes[2].inputs] == [F32, BF16, F32] and y.dtype == F32


def test_recurrent_weights():
    layer = torch.nn.LSTM(6, 8, proj_size=3).eval().requires_grad_(False)
    graph = narrow_weights(simplify(build(capture(layer, (torch.randn(2, 1, 6),)))))
    (node,) = (node for node in graph if isinstance(node.op, Recurrent))
    assert [value.dtype for value in node.inputs] == [F32, BF16, BF16]
    assert {value.dtype for value in node.outputs} == {F32}


def test_a_tied_weight_is_narrowed_once_and_a_kept_one_stays():
    s = Small((2, 4))
    first = s.linear(s.x[0], 4)
    second, third = s.linear(first, 4), s.linear(first, 4)
    weight = first.producer.inputs[1]
    second.producer.inputs[1] = third.producer.inputs[1] = weight
    third.producer.float32 = True
    graph = narrow_weights(s.returns(second, third))
    stored = [node.inputs[1] for node in graph]
    assert stored[0] is stored[1] and stored[0].dtype == BF16 and stored[2] is weight
    assert torch.equal(stored[0].constant, weight.constant.bfloat16())
