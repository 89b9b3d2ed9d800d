"""Scaled dot product attention, and attention over a cache."""

from __future__ import annotations

import math

import torch

from drystone.graph.attention import Mask, simplified
from drystone.graph.builders.registry import Built, Declined, Emitter, builds
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Value
from drystone.graph.ops import Attention, CachedAttention


@builds("scaled_dot_product_attention")
def scaled_dot_product_attention(
    b: Emitter,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Built:
    operands = [query, key, value]
    if dropout_p > 0:
        raise Declined("an attention that drops")
    if any(operand.dtype != b.dtype for operand in operands):
        raise Declined("operands of different dtypes")
    if attn_mask is not None and attn_mask.dtype not in (*FLOATS, torch.bool):
        raise Declined(f"an attention mask of {attn_mask.dtype}")
    rank = len(query.shape)
    if rank < 2 or any(len(operand.shape) != rank for operand in operands):
        raise Declined("an attention whose operands broadcast")
    if any(operand.shape[:-3] != query.shape[:-3] for operand in operands):
        raise Declined("an attention whose operands broadcast")
    if attn_mask is not None:
        attn_mask = _four_axes(b, attn_mask, rank, query.shape)
    operands = [_four_axes(b, operand, rank, query.shape) for operand in operands]
    q, k, v = (operand.shape for operand in operands)
    shared = k[1] == 1 or (enable_gqa and q[1] % k[1] == 0)
    if k[0] != q[0] or v[0] != q[0] or k[1] != v[1] or not (shared or k[1] == q[1]):
        raise Declined("an attention whose operands broadcast")
    mask = simplified(Mask(attn_mask, is_causal), q[2], k[2])
    op = Attention(
        heads_first=(True, True, True, True),
        scale=1 / math.sqrt(q[3]) if scale is None else float(scale),
        causal=mask.causal,
        has_mask=mask.value is not None,
        nan_if_hidden=False,
    )
    result = b.emit(op, operands if mask.value is None else [*operands, mask.value])
    return b.reshape(result, b.shape)


def _four_axes(b: Emitter, x: Value, rank: int, query: tuple[int, ...]) -> Value:
    """An operand or a mask of an attention of ``rank`` axes, its axes before the last two as batch and heads.

    Of three axes the heads are the batch; of more than four, all but the heads are.
    """
    if rank == 4 or (len(x.shape) < 3 and rank > 2):
        return x
    leading = (*(1,) * (rank - len(x.shape)), *x.shape[:-2])
    batch, heads = (leading, 1) if rank < 4 else (leading[:-1], leading[-1])
    whole = query[: len(batch)]
    if batch != whole and math.prod(batch) > 1:
        raise Declined("an attention mask for some of several batch axes")
    return b.reshape(x, (math.prod(batch), heads, *x.shape[-2:]))


@builds("drystone::cached_attention")
def cached_attention(
    b: Emitter,
    q: Value,
    k: Value | None,
    v: Value | None,
    pages: Value,
    lengths: Value,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: Value | None,
    bias: Value | None,
    by_distance: bool,
    causal: bool,
) -> Built:
    if any(operand is not None and operand.dtype != b.dtype for operand in (q, k, v)):
        raise Declined("operands of different dtypes")
    if bias is not None and bias.dtype != torch.float32:
        raise Declined(f"a bias of {bias.dtype}")
    op = CachedAttention(
        layer=layer,
        scale=float(scale),
        window=window,
        softcap=float(softcap),
        writes=k is not None,
        rotary=False,
        has_sinks=sinks is not None,
        has_bias=bias is not None,
        by_distance=by_distance,
        causal=causal,
    )
    return b.emit(op, [operand for operand in (q, k, v, pages, lengths, sinks, bias) if operand is not None])
