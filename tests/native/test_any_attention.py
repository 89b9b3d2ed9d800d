"""attention of any lengths, heads and masks, whole rows hidden or not, read from wherever the operands lie."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layout import normal
from test_attention import attention

from agreement import assert_as_exact
from drystone import native

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")

# Around blocks of 64 keys, 8 or 6 rows, and vectors of 16 or 8 features.
lengths = st.one_of(st.sampled_from([1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129]), st.integers(1, 200))
depths = st.one_of(st.sampled_from([1, 8, 15, 16, 17, 32, 64, 65]), st.integers(1, 80))


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """In the operands' precision, heads first; NaN where all keys are hidden."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + added.to(q.dtype), -1) @ v


def placed(x: torch.Tensor, heads_first: bool, offset: int) -> torch.Tensor:
    """The tensor between others along its features, with heads first or after the rows."""
    x = x if heads_first else x.transpose(1, 2)
    wide = torch.full((*x.shape[:3], x.shape[3] + 2 * offset), math.nan, dtype=x.dtype)
    return wide[..., offset : offset + x.shape[3]].copy_(x)


@settings(max_examples=150)
@given(
    batch=st.integers(1, 2),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    queries=lengths,
    keys=lengths,
    depth=depths,
    width=depths,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    kind=st.sampled_from([None, torch.bool, torch.float32, torch.bfloat16]),
    shape=st.tuples(*[st.booleans()] * 4),
    causal=st.booleans(),
    heads_first=st.tuples(*[st.booleans()] * 4),
    offset=st.integers(0, 3),
    nan_if_hidden=st.booleans(),
    threads=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_any_attention(
    batch: int,
    key_heads: int,
    group: int,
    queries: int,
    keys: int,
    depth: int,
    width: int,
    dtype: torch.dtype,
    kind: torch.dtype | None,
    shape: tuple[bool, ...],
    causal: bool,
    heads_first: tuple[bool, bool, bool, bool],
    offset: int,
    nan_if_hidden: bool,
    threads: int,
    seed: int,
) -> None:
    heads = key_heads * group
    q = normal(batch, heads, queries, depth, seed=seed).to(dtype)
    k, v = (
        normal(batch, key_heads, keys, depth, seed=seed + 10).to(dtype),
        normal(batch, key_heads, keys, width, seed=seed + 20).to(dtype),
    )
    whole = (batch, heads, queries, keys)
    mask, added = None, torch.zeros(whole)
    if kind is not None:
        broadcast = [size if whole_axis else 1 for size, whole_axis in zip(whole, shape, strict=True)]
        hides = normal(*broadcast, seed=seed + 30) > 0.7
        hides |= normal(*broadcast[:3], 1, seed=seed + 40) > 0.9  # whole rows
        mask = ~hides if kind == torch.bool else normal(*broadcast, seed=seed + 50).masked_fill(hides, -math.inf).to(kind)
        added = torch.zeros(whole).masked_fill(hides, -math.inf) if kind == torch.bool else mask.float().expand(whole)
    if causal:
        added = added.masked_fill(torch.ones(queries, keys, dtype=torch.bool).triu(1), -math.inf)

    operands = [placed(x, first, offset) for x, first in zip((q, k, v), heads_first[:3], strict=True)]
    scale = 1 / math.sqrt(depth)
    got = attention(
        *operands, mask, causal, scale=scale, heads_first=heads_first, nan_if_hidden=nan_if_hidden, threads=threads
    )  # fmt: skip
    exact = reference(q.double(), k.double(), v.double(), added)
    hidden = added.isinf().all(-1)
    assert torch.equal(exact.isnan().all(-1), hidden)
    assert got[hidden].isnan().all() if nan_if_hidden else (got[hidden] == 0).all()
    got, exact = got[~hidden], exact[~hidden]
    assert_as_exact(got, exact, reference(q, k, v, added)[~hidden])
