"""attention against torch in float64, around the kernel's blocks of 64 keys, 8 or 6 rows and 16 or 32 columns."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from layout import Format, dense, normal, read, run

from agreement import assert_as_exact, assert_same_specials
from drystone import native

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")

PLAIN = Format.plain
DTYPES = [torch.float32, torch.bfloat16]
HEADS_FIRST = (True,) * 4


def qkv(batch=1, heads=2, queries=5, keys=5, depth=16, width=None, key_heads=None, dtype=torch.float32):
    key_heads, width = key_heads or heads, width or depth
    shapes = ((batch, heads, queries, depth), (batch, key_heads, keys, depth), (batch, key_heads, keys, width))
    return tuple(normal(*shape, seed=i).to(dtype) for i, shape in enumerate(shapes))


def desc_of(x):
    return native.TensorDesc(native.DTYPES[x.dtype], PLAIN, list(x.shape), list(x.stride()))


def attention(q, k, v, mask=None, causal=False, scale=None, heads_first=HEADS_FIRST, nan_if_hidden=False, threads=2):
    """The operands are read where they lie; the result comes with the heads first."""
    batch, heads, queries = q.shape[:3] if heads_first[0] else (q.shape[0], q.shape[2], q.shape[1])
    shape = (batch, heads, queries, v.shape[3]) if heads_first[3] else (batch, queries, heads, v.shape[3])
    output = dense(shape, PLAIN, q.dtype)
    result = torch.full(shape, math.nan, dtype=q.dtype)
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    descs = [None if x is None else desc_of(x) for x in (q, k, v, mask)]
    step = native.attention(*descs, output, heads_first, scale, causal, nan_if_hidden)
    run(step, *(x for x in (q, k, v, mask, result) if x is not None), threads=threads)
    result = read(output, result.flatten())
    return result if heads_first[3] else result.transpose(1, 2)


def eager(q, k, v, mask=None, causal=False, scale=None, dtype=None):
    q, k, v = (x.to(dtype or x.dtype) for x in (q, k, v))
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=True)


def check(q, k, v, mask=None, causal=False, **options):
    """Within the project's bounds: against float64 in float32, against what bfloat16 operands cost eager in bfloat16."""
    got = attention(q, k, v, mask, causal, **options)
    assert got.dtype == q.dtype and not got.isnan().any()
    exact, theirs = eager(q, k, v, mask, causal, dtype=torch.float64), eager(q, k, v, mask, causal)
    assert_as_exact(got, exact, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 96, 127, 128, 256])
def test_depths(depth, dtype):
    check(*qkv(queries=9, keys=70, depth=depth, dtype=dtype))
    check(*qkv(queries=9, keys=70, depth=24, width=depth, dtype=dtype))
    check(*qkv(queries=9, keys=70, depth=depth, width=24, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 255, 256, 257, 300])
def test_queries(queries, dtype):
    check(*qkv(queries=queries, keys=20, dtype=dtype))
    check(*qkv(heads=16, queries=queries, keys=20, dtype=dtype))  # in chunks of other lengths


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keys", [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 1000])
def test_keys(keys, dtype):
    check(*qkv(queries=5, keys=keys, dtype=dtype))


def test_long():
    check(*qkv(heads=1, queries=4096, keys=4096, depth=8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries,keys", [(1, 1), (1, 9), (9, 1), (64, 64), (65, 65), (100, 30), (30, 100), (300, 300), (7, 200)])
def test_causal(queries, keys, dtype):
    check(*qkv(queries=queries, keys=keys, dtype=dtype), causal=True)
    check(*qkv(heads=6, key_heads=2, queries=queries, keys=keys, dtype=dtype), causal=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads,key_heads", [(2, 1), (8, 2), (6, 3), (5, 5), (16, 1)])
def test_grouped_heads(heads, key_heads, dtype):
    for queries in (1, 37):
        check(*qkv(2, heads, queries, 70, key_heads=key_heads, dtype=dtype))


MASKS = [(2, 3, 37, 70), (1, 1, 37, 70), (2, 1, 1, 70), (1, 3, 37, 1), (37, 70), (70,), (3, 1, 1), (2, 1, 37, 70)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_masks(shape, kind, dtype):
    values = normal(*shape, seed=9) if kind == torch.bool else 2 * normal(*shape, seed=9).bfloat16().float()
    mask = values > -0.3 if kind == torch.bool else values.to(kind)
    if mask.dtype == torch.bool and mask.shape[-1] > 1:
        mask[..., 3] = True  # each row sees something
    q, k, v = qkv(2, 3, 37, 70, dtype=dtype)
    full = mask.expand(2, 3, 37, 70)
    got = attention(q, k, v, mask)
    assert torch.equal(got, attention(q, k, v, full.contiguous()))
    seen = full.any(-1) if kind == torch.bool else torch.ones(2, 3, 37, dtype=torch.bool)
    assert (got[~seen] == 0).all()
    assert_as_exact(got, eager(q, k, v, full, dtype=torch.float64), eager(q, k, v, full))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_a_mask_that_hides_nothing_counts_for_nothing(shape, kind, causal):
    """And one that differs in its last element alone counts."""
    q, k, v = qkv(batch=2, heads=3, queries=37, keys=70)
    idle = torch.ones(shape, dtype=kind) if kind == torch.bool else torch.zeros(shape, dtype=kind).neg()
    plain = attention(q, k, v, causal=causal)
    assert torch.equal(attention(q, k, v, idle, causal), plain)
    idle.view(-1)[-1] = 0 if kind == torch.bool else 3.0
    got = attention(q, k, v, idle, causal)
    if not causal and shape[-1] > 1:  # what is added to all keys alike changes nothing, and causally the last key hides anyway
        assert not torch.equal(got[-1, -1, -1], plain[-1, -1, -1])
        check(q, k, v, idle.expand(2, 3, 37, 70))


def test_mask_with_causal():
    q, k, v = qkv(queries=70, keys=70)
    mask = normal(70, 70, seed=5)
    both = mask.masked_fill(torch.ones(70, 70, dtype=torch.bool).triu(1), -math.inf)
    assert torch.equal(attention(q, k, v, mask, causal=True), attention(q, k, v, both))


@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_rows(dtype):
    q, k, v = qkv(queries=20, keys=130, dtype=dtype)
    mask = torch.zeros(20, 130)
    mask[3] = -math.inf
    mask[5, :100] = -math.inf  # whole blocks at first
    mask[6, 64:] = -math.inf
    mask[7] = torch.finfo(torch.float32).min  # all alike: none is hidden
    got, nan = attention(q, k, v, mask), attention(q, k, v, mask, nan_if_hidden=True)
    assert (got[:, :, 3] == 0).all() and nan[:, :, 3].isnan().all()
    others = [i for i in range(20) if i != 3]
    assert torch.equal(got[:, :, others], nan[:, :, others])
    expected = eager(q, k, v, mask, dtype=torch.float64)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(attention(q, k, v, mask == 0)[:, :, 6], got[:, :, 6])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_specials_go_where_eagers_go(which, value, dtype):
    operands = [x.float() for x in qkv(queries=70, keys=130, depth=64, dtype=dtype)]
    operands[which][0, 1, 66, 5] = value
    operands[which][0, 0, 2, 6] = value
    expected = eager(*(x.double() for x in operands))
    got = attention(*(x.to(dtype) for x in operands))
    assert_same_specials(got, expected)


def test_specials_in_hidden_keys():
    q, k, v = qkv(queries=70, keys=70)
    k[0, 0, 40, 3] = v[0, 1, 50, 2] = math.nan
    mask = torch.zeros(70, 70)
    mask[:, 40] = mask[:, 50] = -math.inf
    expected = eager(q, k, v, mask, dtype=torch.float64)
    assert torch.equal(attention(q, k, v, mask).isnan(), expected.isnan())


def test_specials_in_keys_behind_a_causal_query():
    """They reach the rows that see them, and none but the few that are computed together with one."""
    q, k, v = qkv(queries=200, keys=200)
    for operand in (k, v):
        spoiled = operand.clone()
        spoiled[0, 0, 100, 3] = math.nan
        got = attention(q, *((spoiled, v) if operand is k else (k, spoiled)), causal=True)
        rows = got.isnan().any(-1)
        assert rows[0, 0, 100:].all() and not rows[0, 0, :92].any() and not rows[0, 1].any()


def test_far_scores():
    q, k, v = qkv(queries=10, keys=200)
    check(q * 100, k, v)
    check(q * 1e-30, k, v)
    check(q, k * torch.linspace(0, 300, 200)[:, None], v)  # the maximum grows from block to block
    check(q, k * torch.linspace(300, 0, 200)[:, None], v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [16, 33, 64])
def test_operands_of_one_product(depth, dtype):
    """Slices of (B, T, 3 H D), as one linear for queries, keys and values makes them."""
    merged = normal(2, 75, 9, depth).to(dtype)
    q, k, v = merged[:, :, :3], merged[:, :, 3:6], merged[:, :, 6:]
    expected = attention(*(x.transpose(1, 2).contiguous() for x in (q, k, v)))
    assert torch.equal(attention(q, k, v, heads_first=(False,) * 4), expected)
    assert torch.equal(attention(q.transpose(1, 2), k, v.transpose(1, 2), heads_first=(True, False, True, False)), expected)
    assert torch.equal(attention(*(x.transpose(1, 2) for x in (q, k, v))), expected)


def test_repeats_whatever_the_threads():
    for options in ({}, {"causal": True}):
        operands = qkv(2, 3, 300, 300, 40)
        once = attention(*operands, **options)
        for threads in (1, 2, 2):
            assert torch.equal(attention(*operands, threads=threads, **options), once)


def test_empty():
    for q, k, v in (qkv(batch=0), qkv(queries=0), qkv(width=1, keys=0)):
        v = v[..., :0] if k.shape[2] else v
        assert (attention(q, k, v) == 0).all()


def test_refusals():
    q, k, v = (desc_of(x) for x in qkv())
    y = dense((1, 2, 5, 16), PLAIN)

    def make(q=q, k=k, v=v, mask=None, y=y):
        return lambda: native.attention(q, k, v, mask, y, HEADS_FIRST, 1.0, False, False)

    gaps = native.TensorDesc(native.DType.f32, PLAIN, [1, 2, 5, 16], [320, 160, 32, 2])
    refused = [
        ("gaps", make(q=gaps)),
        ("four axes", make(q=dense((2, 5, 16), PLAIN))),
        ("four axes", make(q=dense((1, 16, 5, 16), Format.channels_last))),
        ("f64", make(q=dense((1, 2, 5, 16), PLAIN, torch.float64))),
        ("differ in dtype", make(k=dense((1, 2, 5, 16), PLAIN, torch.bfloat16))),
        ("fit together", make(k=dense((1, 2, 5, 17), PLAIN))),
        ("fit together", make(k=dense((1, 2, 6, 16), PLAIN))),
        ("fit together", make(k=dense((1, 3, 5, 16), PLAIN), v=dense((1, 3, 5, 16), PLAIN))),
        ("fit together", make(y=dense((1, 2, 5, 17), PLAIN))),
        ("no features", make(q=dense((1, 2, 5, 0), PLAIN), k=dense((1, 2, 5, 0), PLAIN))),
        ("broadcast", make(mask=dense((2, 1, 5, 5), PLAIN))),
        ("up to four", make(mask=dense((1, 1, 1, 5, 5), PLAIN))),
        ("s64", make(mask=dense((5, 5), PLAIN, torch.int64))),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()
