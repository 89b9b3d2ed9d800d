"""Models of torch's own that are awkward to trace: transformers with masks, parameters made in inference mode, default devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import assert_close
from drystone.runtime.module import OptimizedModule

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CAUSAL = nn.Transformer.generate_square_subsequent_mask(10)
HIDDEN = torch.arange(10)[None] >= torch.tensor([[6], [8], [7]])
MASKS = {
    "none": {},
    "causal": {"tgt_mask": CAUSAL},
    "bool": {"tgt_mask": CAUSAL.isinf(), "src_mask": CAUSAL.isinf()},
    "hint": {"tgt_mask": CAUSAL, "tgt_is_causal": True},
    "no mask of one": {"tgt_mask": torch.zeros(10, 10)},
    "padding": {"src_key_padding_mask": HIDDEN, "memory_key_padding_mask": HIDDEN, "tgt_key_padding_mask": HIDDEN},
    "both": {"tgt_mask": CAUSAL.isinf(), "memory_key_padding_mask": HIDDEN, "tgt_key_padding_mask": HIDDEN},
}


class Translator(nn.Module):
    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.body = nn.Transformer(32, 4, 1, 1, 64, batch_first=True, norm_first=norm_first)

    def forward(self, a: torch.Tensor, b: torch.Tensor, **masks: Any) -> torch.Tensor:
        return self.body(a, b, **masks)


def check(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    fast = drystone.optimize(model.eval(), args, example_kwargs=kwargs, tuning="estimate")
    assert isinstance(fast, OptimizedModule)
    with torch.no_grad():
        assert_close(fast(*args, **kwargs), model(*args, **kwargs))


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_transformer(masks: dict[str, Any]) -> None:
    check(Translator(norm_first=len(masks) > 1), torch.randn(3, 10, 32), torch.randn(3, 10, 32), **masks)


def test_a_mask_need_not_be_that_of_the_example() -> None:
    model, a, b = Translator().eval(), torch.randn(3, 10, 32), torch.randn(3, 10, 32)
    fast = drystone.optimize(model, (a, b), example_kwargs={"tgt_mask": CAUSAL}, tuning="estimate")
    other = CAUSAL.flip(0, 1)
    with torch.no_grad():
        assert_close(fast(a, b, tgt_mask=other), model(a, b, tgt_mask=other))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_encoder(padded: bool, batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first)
    masks = {"mask": CAUSAL.isinf()} | ({"src_key_padding_mask": HIDDEN} if padded else {})
    x = torch.randn(3, 10, 32) if batch_first else torch.randn(10, 3, 32)
    check(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), x, **masks)


def test_the_way_of_other_models_is_put_back() -> None:
    detect = nn.modules.transformer._detect_is_causal_mask
    check(Translator(), torch.randn(3, 10, 32), torch.randn(3, 10, 32), tgt_mask=CAUSAL)
    assert nn.modules.transformer._detect_is_causal_mask is detect


@pytest.mark.parametrize("layers", ["linear", "conv", "norm", "lstm"])
def test_made_in_inference_mode(layers: str) -> None:
    with torch.inference_mode():
        model = {
            "linear": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
            "conv": lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
            "norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
            "lstm": lambda: nn.LSTM(4, 4),
        }[layers]().eval()
    x = torch.randn(2, 3, 8, 8) if layers == "conv" else torch.randn(2, 4)
    more = torch.cat([x, x])
    with torch.inference_mode():
        inside = drystone.optimize(model, x, tuning="estimate")
        want, want_more = model(x), model(more)
    for fast in (inside, drystone.optimize(model, x, tuning="estimate")):
        torch.testing.assert_close(fast(x), want)
        with torch.inference_mode():
            torch.testing.assert_close(fast(more), want_more)
