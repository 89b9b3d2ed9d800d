"""``torch.ops.drystone.cached_attention``: attention over a cache. Importing this defines it."""

from __future__ import annotations

import torch

from drystone.graph.cache_pages import cached_attention as plain

Tensor = torch.Tensor

NAME = "drystone::cached_attention"
torch.library.define(
    NAME,
    "(Tensor q, Tensor? k, Tensor? v, Tensor pages, Tensor lengths, int layer, float scale, int window, float softcap, "
    "Tensor? sinks, bool causal) -> Tensor",
)


@torch.library.register_fake(NAME)
def _fake(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    pages: Tensor,
    lengths: Tensor,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: Tensor | None,
    causal: bool,
) -> Tensor:
    batch, heads, count, depth = q.shape
    return q.new_empty((batch, count, heads, depth if v is None else v.shape[3]))


@torch.library.impl(NAME, "CPU")
def _eager(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    pages: Tensor,
    lengths: Tensor,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: Tensor | None,
    causal: bool,
) -> Tensor:
    return plain(q, k, v, pages, lengths, layer, scale, window, softcap, sinks, causal)


cached_attention = torch.ops.drystone.cached_attention.default
