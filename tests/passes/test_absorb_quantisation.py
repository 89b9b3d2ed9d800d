"""Nodes that compute on codes, from quantize and dequantize around operators of floats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Graph
from drystone.graph.interpreter import run
from drystone.graph.ops import Aten, Cat, Conv, Linear, Reduce, Reshape
from drystone.passes import simplify
from quantised_models import BLOCK, Quantised, block, q, rounded

Tensor = torch.Tensor
IMAGE, ROWS = (2, 16, 8, 8), (4, 16)
KERNEL = (16, 16, 3, 3)


def simplified(model: Quantised, *inputs: Tensor) -> Graph:
    """The graph, which gives what the model gives before and after its passes."""
    graph = build(capture(model, inputs))
    expected = model(*inputs)
    for _ in range(2):
        torch.testing.assert_close(run(graph, inputs), [expected], rtol=1e-6, atol=0)
        simplify(graph)
        graph.check()
    assert not any(isinstance(node.op, Aten) for node in graph)
    return graph


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph]


def test_a_block_is_codes_from_its_input_to_its_last_product() -> None:
    graph = simplified(Quantised(block, *BLOCK), torch.randn(IMAGE))
    assert names(graph) == ["quantise", "conv", "conv", "pool", "reduce", "linear"]
    quantised = [node.output.quantisation is not None for node in graph]
    assert quantised == [True, True, True, True, True, False]
    first, second = (node for node in graph if isinstance(node.op, Conv))
    assert first.inputs[1].dtype == torch.int8 and [op.kind for op in first.epilogue] == ["relu"]
    assert second.inputs[-1] is graph.nodes[0].output and [op.kind for op in second.epilogue] == ["add", "relu"]


def test_a_pool_before_the_rounding_is_of_codes() -> None:
    model = Quantised(lambda x, w: rounded(F.max_pool2d(F.conv2d(rounded(x, 0.03, 128), w), 2), 0.5, 100), KERNEL)
    graph = simplified(model, torch.randn(IMAGE))
    assert names(graph) == ["quantise", "conv", "pool", "dequantise"]


def test_parts_of_a_cat_take_its_scale() -> None:
    def function(x: Tensor, v: Tensor, w: Tensor) -> Tensor:
        x = rounded(x, 0.03, 128)
        parts = [F.conv2d(x, v), F.conv2d(x, w), x[:, :, 1:-1, 1:-1]]
        return F.conv2d(rounded(torch.cat(parts, 1), 0.5, 100), torch.cat([v, w, v], 1))

    graph = simplified(Quantised(function, KERNEL, KERNEL), torch.randn(IMAGE))
    cat = next(node for node in graph if isinstance(node.op, Cat))
    assert len({value.quantisation for value in [*cat.inputs, cat.output]}) == 1
    assert names(graph).count("quantise") == 2  # the input, and the part of it that has another scale


def test_views_are_of_codes() -> None:
    model = Quantised(lambda x, w: F.linear(rounded(x, 0.03, 128).flatten(1)[:, :16], w), (8, 16))
    graph = simplified(model, torch.randn(IMAGE))
    assert {node.op.name for node in graph} == {"quantise", "reshape", "slice", "linear"}
    assert all(node.output.dtype == torch.uint8 for node in graph.nodes[:-1])
    assert any(isinstance(node.op, Reshape) for node in graph)


def test_what_is_read_as_floats_too_stays_float() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        y = F.relu(F.linear(rounded(x, 0.03, 128), w))
        return F.linear(rounded(y, 0.1), w) + y

    graph = simplified(Quantised(function, (16, 16)), torch.randn(ROWS))
    assert names(graph) == ["quantise", "linear", "quantise", "linear"]
    assert graph.nodes[1].output.dtype == torch.float32


def test_a_product_of_floats_keeps_them() -> None:
    graph = simplified(Quantised(lambda x, w: F.linear(x, w), (8, 16)), torch.randn(ROWS))
    (linear,) = graph.nodes
    assert isinstance(linear.op, Linear) and linear.inputs[1].dtype == torch.float32


def test_narrower_codes_are_clamped_first() -> None:
    model = Quantised(lambda x, w: F.linear(rounded(x, 0.01, 20, ends=(0, 127)), w), (8, 16))
    graph = simplified(model, 3 * torch.randn(ROWS))
    assert names(graph) == ["pointwise", "linear"]


def test_a_mean_reads_and_writes_codes() -> None:
    model = Quantised(lambda x: rounded(rounded(x, 0.03, 128).mean((2, 3)), 0.01, 100))
    graph = simplified(model, torch.randn(IMAGE))
    assert names(graph) == ["quantise", "reduce", "dequantise"] and isinstance(graph.nodes[1].op, Reduce)


def test_norms_and_pointwise_chains_of_floats_write_codes() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        y = F.layer_norm(x, (16,))
        return F.linear(rounded(y, 0.03, 128), w) + F.linear(rounded(x * x, 0.1), w)

    graph = simplified(Quantised(function, (16, 16)), torch.randn(ROWS))
    assert "quantise" not in names(graph)
    assert {node.op.name for node in graph if node.output.quantisation} == {"layer_norm", "pointwise"}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: q.dequantize_per_tensor(q.quantize_per_tensor(x, 0.0, 0, 0, 255, torch.uint8), 0.5, 0, 0, 255, torch.uint8), "the scale 0.0"),
        (lambda x: rounded(x, 1e-42), "the scale"),
        (lambda x: rounded(x, float("inf")), "the scale inf"),
        (lambda x: rounded(x, 0.1, 0, torch.int16), "codes of torch.int16"),
        (lambda x: rounded(x, 0.1, 300), "the zero point 300 is none of 0 to 255"),
        (lambda x: rounded(x, 0.1, -1), "the zero point -1"),
    ],
)  # fmt: skip
def test_what_no_codes_can_have_runs_on_aten(function: Callable[[Tensor], Tensor], reason: str) -> None:
    graph = build(capture(Quantised(function), (torch.randn(ROWS),)))
    assert any(isinstance(node.op, Aten) and reason in node.op.reason for node in graph)
