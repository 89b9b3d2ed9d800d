"""Recurrent layers are traced by their shapes: what is traced is what torch's own way of tracing gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._decomp import decompositions

from drystone.capture.export import capture
from drystone.capture.whole_recurrent import whole_recurrent


class Net(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layers = kind(5, 6, 2, **options)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(x)


KINDS = [
    (nn.LSTM, {}),
    (nn.LSTM, {"proj_size": 3, "bidirectional": True, "batch_first": True}),
    (nn.GRU, {"bidirectional": True}),
    (nn.GRU, {"batch_first": True, "bias": False}),
    (nn.RNN, {}),
    (nn.RNN, {"nonlinearity": "relu", "batch_first": True}),
]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_shapes_and_strides_are_eagers(kind: Any, options: dict[str, Any], symbolic: bool, inference: bool) -> None:
    model, x = Net(kind, **options).eval(), torch.randn(4, 3, 5)
    batch = 0 if options.get("batch_first") else 1
    with torch.inference_mode(inference):
        captured = capture(model, (x,), dynamic_shapes={"x": {batch: torch.export.Dim.AUTO}} if symbolic else None)
    nodes = {node.name: node for node in captured.program.graph.nodes}
    assert sum("lstm" in name or "gru" in name or "rnn" in name for name in nodes) >= 1
    output, last = model(x)
    want = [output, *(last if isinstance(last, tuple) else (last,))]
    for name, tensor in zip(captured.output_names, want, strict=True):
        traced = nodes[name].meta["val"]
        if symbolic:
            assert [None if not isinstance(size, int) else size for size in traced.shape] == [
                None if axis == (batch if tensor is output else 1) else size for axis, size in enumerate(tensor.shape)
            ]
        else:
            assert traced.shape == tensor.shape
            assert traced.stride() == tensor.stride()
        assert traced.dtype == tensor.dtype


def test_torch_has_its_own_way_again() -> None:
    kernels = dict(torch.ops.aten.lstm.input.py_kernels)
    with whole_recurrent():
        assert torch.ops.aten.lstm.input.py_kernels != kernels
    assert torch.ops.aten.lstm.input.py_kernels == kernels
    assert decompositions.lstm_impl in kernels.values()
