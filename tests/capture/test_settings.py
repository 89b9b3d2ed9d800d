"""What holds around a call, and models of layers that are not torch's plain ones: default devices and dtypes, quantised layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import assert_close

pytestmark = [
    pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
X = torch.randn(4, 8)


class Grid(nn.Module):
    """Makes tensors of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.arange(8) * 2.0 + torch.ones(8)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(1, 16, 3), nn.LSTM(16, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x[:, None]))
        return self.lstm(y.transpose(1, 2))[0].cumsum(1)


MODELS = {"linear": lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)), "grid": Grid, "recurrent": Recurrent}


@pytest.mark.parametrize("capture", ["auto", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_another_default_device(name: str, capture: Any) -> None:
    model, more = MODELS[name]().eval(), torch.cat([X, X])
    with torch.no_grad():
        want, want_more = model(X), model(more)
        with torch.device("meta"):
            inside = drystone.optimize(model, X, tuning="estimate", capture=capture)
        for fast in (inside, drystone.optimize(model, X, tuning="estimate", capture=capture)):
            assert_close(fast(X), want)
            if name == "grid" and capture == "eager":
                continue  # the model itself makes tensors without memory then
            with torch.device("meta"):
                assert_close(fast(X), want)
                assert_close(fast(more), want_more)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("capture", ["auto", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_another_default_dtype(name: str, capture: Any, dtype: torch.dtype) -> None:
    model = MODELS[name]().eval()
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad():
            want = model(X)
            fast = drystone.optimize(model, X, tuning="estimate", capture=capture)
            assert_close(fast(X), want)
            assert_close(fast(torch.cat([X, X])), torch.cat([want, want]))
    finally:
        torch.set_default_dtype(torch.float32)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv1d(1, 16, 3, padding=1), nn.BatchNorm1d(16), nn.Linear(128, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.conv(x[:, None]))).flatten(1))


@pytest.mark.parametrize("capture", ["auto", "eager"])
@pytest.mark.parametrize(
    "model, x",
    [
        (MODELS["linear"](), X),
        (nn.Linear(8, 4), X),
        (nn.LSTM(8, 8), X[None]),
        (nn.GRU(8, 8), X[None]),
        (Mixed(), X),
    ],
    ids=["linears", "linear", "lstm", "gru", "mixed"],
)
def test_dynamically_quantised_layers(model: nn.Module, x: torch.Tensor, capture: Any) -> None:
    kinds = {nn.Linear, nn.LSTM, nn.GRU}
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(model).eval(), kinds, dtype=torch.qint8)
    fast = drystone.optimize(quantised, x, tuning="estimate", capture=capture)
    with torch.no_grad():
        for given in (x, x + 1):
            assert_close(fast(given), quantised(given))
    assert str(fast.explain())
