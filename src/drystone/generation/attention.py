"""What stands for a model's attention and cache while it is traced: one operator that keeps keys and values in pages.

transformers looks attention up by name, and leaves masks to those it does not know. So what is traced makes no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers import Cache as TransformersCache

from drystone.errors import UnsupportedError
from drystone.generation.cached_attention import cached_attention
from drystone.generation.pages import Layer

# The name of the attention among transformers' own.
NAME = "drystone"


@dataclass
class Traced:
    """One call of a model that is traced. ``layers``: what those that were met keep of a position."""

    pages: torch.Tensor
    lengths: torch.Tensor
    keep: torch.Tensor
    layers: dict[int, Layer] = field(default_factory=dict)


_current: ContextVar[Traced] = ContextVar("traced")


@contextmanager
def traced(call: Traced) -> Iterator[Traced]:
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def kept_positions(hidden: torch.Tensor) -> torch.Tensor:
    """Of (B, T, C) the positions whose logits are asked for."""
    return hidden.index_select(1, _current.get().keep)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (B, H, T, D), key and value (B, Hk, T, D) of the new positions → (B, T, H, D)."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is not None or position_bias is not None or not causal:
        raise UnsupportedError(f"{type(module).__name__} attends with a mask or a bias of its own")
    call, layer = _current.get(), getattr(module, "layer_idx", None)
    if layer is None:
        raise UnsupportedError(f"{type(module).__name__} does not say which layer it is")
    if layer in call.layers:
        raise UnsupportedError(f"layer {layer} attends more than once")
    scale = query.shape[3] ** -0.5 if scaling is None else float(scaling)
    window, cap = int(sliding_window or 0), float(softcap or 0.0)
    call.layers[layer] = Layer(key.shape[1], key.shape[3], value.shape[3], window)
    result = cached_attention(query, key, value, call.pages, call.lengths, layer, scale, window, cap, s_aux, True)
    return result, None


class TracedCache(TransformersCache):  # type: ignore[misc]
    """An empty cache that hands new keys and values on to the attention, which keeps them."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self._count = layers

    def __len__(self) -> int:
        return self._count

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[Any, int]:
        return query_length, 0

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * self._count


AttentionInterface.register(NAME, attention)
