"""transformers' static caches as inputs: programs write to their tensors, as eager does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import drystone
from agreement import assert_close
from drystone.errors import InputError, UnsupportedError
from drystone.runtime.module import OptimizedModule

transformers = pytest.importorskip("transformers", "5.0")

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen", "ignore::FutureWarning")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]:
        q, k, v = (each.unflatten(-1, (2, 4)).transpose(1, 2) for each in self.project(x).chunk(3, -1))
        length = past.get_seq_length()
        keys, values = past.update(k, v, 0)
        seen = torch.arange(keys.shape[2]) <= length + torch.arange(x.shape[1])[:, None]
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen).transpose(1, 2).flatten(2), past


def static_cache(initialised: bool = True, **config: Any) -> Any:
    made = transformers.StaticCache(
        config=transformers.LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, **config), max_cache_len=6
    )
    if initialised:
        made.early_initialization(batch_size=1, num_heads=2, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))
    return made


def tensors(cache: Any) -> list[torch.Tensor]:
    return [cache.layers[0].keys, cache.layers[0].values, cache.layers[0].cumulative_length]


@pytest.mark.parametrize("way", ["optimize", "in place"])
def test_a_static_cache_is_written_to(way: str) -> None:
    torch.manual_seed(0)
    model, example = Attention().eval(), static_cache()
    eager = copy.deepcopy(model)
    if way == "optimize":
        fast: nn.Module = drystone.optimize(model, (torch.randn(1, 3, 8), example), capture="whole", tuning="estimate")
    else:
        fast = drystone.optimize_(model, (torch.randn(1, 3, 8), example), capture="whole", tuning="estimate")
    assert not any(tensor.any() for tensor in tensors(example))
    caches = [static_cache() for _ in range(2)]
    own = tensors(caches[0])
    with torch.no_grad():
        for length in (3, 1, 1):  # a prompt, then token by token
            x = torch.randn(1, length, 8)
            (ours, past), (want, _) = (module(x, cache) for module, cache in zip((fast, eager), caches, strict=True))
            assert_close(ours, want)
            assert_close(*map(tensors, caches))
            assert all(a is b is c for a, b, c in zip(own, tensors(caches[0]), tensors(past), strict=True))
    explained = fast.explain() if isinstance(fast, OptimizedModule) else drystone.explain(fast).modules[""][-1]
    assert explained.runs == "drystone"


def test_a_cache_without_tensors_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="StaticCache has no tensors yet"):
        drystone.optimize(Attention().eval(), (torch.randn(1, 3, 8), static_cache(initialised=False)), tuning="estimate")


def test_a_model_in_place_takes_the_calls_that_make_the_tensors() -> None:
    model = Attention().eval()
    eager, caches = copy.deepcopy(model), [static_cache(initialised=False) for _ in range(2)]
    fast = drystone.optimize_(model, capture="whole", tuning="estimate")
    with torch.no_grad():
        for length in (3, 1, 1):
            x = torch.randn(1, length, 8)
            if length == 3:
                with pytest.warns(drystone.DrystoneWarning, match="has no tensors yet"):
                    ours = fast(x, caches[0])
            else:
                ours = fast(x, caches[0])
            assert_close(ours[0], eager(x, caches[1])[0])
            assert_close(*map(tensors, caches))
    assert list(drystone.explain(model).modules) == [""]


def test_a_cache_that_counts_in_python_is_refused() -> None:
    class Counts(Attention):
        def forward(self, x: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]:
            past.layers[0].max_cache_len += 1
            return super().forward(x, past)

    with pytest.raises(UnsupportedError, match="changes more in its StaticCache"):
        drystone.optimize(Counts().eval(), (torch.randn(1, 3, 8), static_cache()), capture="whole", tuning="estimate")
