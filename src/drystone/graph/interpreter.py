"""A slow interpreter of a graph, plainly right: tests hold builders, passes and programs against it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from drystone.graph.graph import Graph, Value
from drystone.graph.ops import Aten
from drystone.graph.ops.operator import evaluate

Tensor = torch.Tensor


def run(graph: Graph, inputs: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """The graph's outputs for ``inputs``, each value in its own dtype, or all floats in ``dtype`` (float64 for an oracle)."""

    def cast(tensor: Tensor, own: torch.dtype) -> Tensor:
        if dtype is not None:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor
        return tensor.to(own)

    values = {value.id: cast(tensor, value.dtype) for value, tensor in zip(graph.inputs, inputs, strict=True)}

    def read(value: Value) -> Tensor:
        return cast(value.constant.detach(), value.dtype) if value.is_constant else values[value.id]

    with torch.no_grad():
        for node in graph:
            operands = [read(value) for value in node.inputs]
            results = node.op.run(operands) if isinstance(node.op, Aten) else evaluate(node, operands)
            for value, result in zip(node.outputs, results, strict=True):
                assert tuple(result.shape) == value.shape, f"{list(result.shape)} instead of {value}, from: {node}"
                values[value.id] = cast(result, value.dtype)
    return [read(value) for value in graph.outputs]
