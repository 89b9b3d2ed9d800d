"""What stands for a model's attention and cache while it is traced: one operator that keeps keys and values in pages.

transformers looks attention up by name, and leaves masks to those it does not know. So what is traced makes no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface
from transformers import Cache as TransformersCache

from drystone.errors import UnsupportedError
from drystone.generation.cached_attention import cached_attention
from drystone.generation.pages import Layer

# The name of the attention among transformers' own.
NAME = "drystone"


@dataclass
class Traced:
    """One call of a model that is traced. ``layers``: what those that were met keep of a position.

    An encoder-decoder model has other pages for its cross-attention. ``written``: where it is asked for no more than the keys and
    values of the encoder's result, these by layer. ``alibi``: the bias of all layers, and whether it is by distance.
    ``by_distance``: biases that the model has made, for all lengths.
    """

    pages: torch.Tensor
    lengths: torch.Tensor
    keep: torch.Tensor
    cross_pages: torch.Tensor | None = None
    cross_lengths: torch.Tensor | None = None
    layers: dict[int, Layer] = field(default_factory=dict)
    written: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None
    alibi: tuple[torch.Tensor, bool] | None = None
    by_distance: list[torch.Tensor] = field(default_factory=list)
    last: tuple[Any, int] = (None, 0)  # what was handed to the cache last, and the layer


_current: ContextVar[Traced] = ContextVar("traced")


@contextmanager
def traced(call: Traced) -> Iterator[Traced]:
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def traced_call() -> Traced:
    return _current.get()


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
    call, layer = _current.get(), getattr(module, "layer_idx", None)
    if layer is None:
        raise UnsupportedError(f"{type(module).__name__} does not say which layer it is")
    scale, cap = query.shape[3] ** -0.5 if scaling is None else float(scaling), float(softcap or 0.0)
    if call.written is not None:  # nobody reads what is attended to
        return query.transpose(1, 2), None
    bias, by_distance = _bias_of(call, position_bias)
    if attention_mask is not None or (bias is None and position_bias is not None and position_bias.numel()):
        raise UnsupportedError(f"{type(module).__name__} attends with a mask or a bias of its own")
    if key is CROSS:
        assert call.cross_pages is not None and call.cross_lengths is not None
        pages, lengths = call.cross_pages, call.cross_lengths
        return cached_attention(query, None, None, pages, lengths, layer, scale, 0, cap, s_aux, None, False, False), None
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise UnsupportedError(f"{type(module).__name__} sees what comes later")
    if layer in call.layers:
        raise UnsupportedError(f"layer {layer} attends more than once")
    window = int(sliding_window or 0)
    call.layers[layer] = Layer(key.shape[1], key.shape[3], value.shape[3], window)
    options = scale, window, cap, s_aux, bias, by_distance, True
    return cached_attention(query, key, value, call.pages, call.lengths, layer, *options), None


def _bias_of(call: Traced, given: torch.Tensor | None) -> tuple[torch.Tensor | None, bool]:
    """(H, size), and whether it is by distance: what the model has made for all lengths, or has for all layers."""
    if given is None:
        return call.alibi or (None, False)
    known = any(given is bias for bias in call.by_distance)
    return (given[0, :, 0].float(), True) if known else (None, False)


class InPlaceOfTorch(TorchFunctionMode):
    """Attends over pages where a model calls torch's attention on the keys that it has just handed to its cache."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            query, key, value, *_ = args
            known, layer = _current.get().last
            if key is known:
                mask = (*args[3:], (kwargs or {}).get("attn_mask"))[0]
                holder: Any = SimpleNamespace(layer_idx=layer)
                return attention(holder, query, key, value, mask, (kwargs or {}).get("scale"))[0].transpose(1, 2)
        return function(*args, **(kwargs or {}))


# Stands for keys and values of the encoder's result that are in pages already. A bias for so many keys is of none.
CROSS: Any = SimpleNamespace(shape=(0, 0, 0, 0))


class TracedCache(TransformersCache):  # type: ignore[misc]
    """An empty cache that hands new keys and values on to the attention, which keeps them."""

    def __init__(self, layers: int, length: Any = 0) -> None:
        """``length``: of what is in the pages, where the model makes positions from it."""
        super().__init__(layers=[])
        self._count, self._past = layers, length

    def __len__(self) -> int:
        return self._count

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _current.get().last = key_states, layer_idx
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self._past

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[Any, int]:
        return query_length, 0

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * self._count


class TracedCrossCache(TracedCache):
    """The cache of cross-attention: filled, where the traced call has pages for it, else to be ``written``."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        filled: Any = SimpleNamespace(keys=CROSS, values=CROSS)
        self.layers = [filled] * layers

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        written = _current.get().written
        assert written is not None
        written[layer_idx] = key_states, value_states
        return key_states, value_states


AttentionInterface.register(NAME, attention)
