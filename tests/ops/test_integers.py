"""Operators on integers and truth values through ``drystone.optimize``, strictly native, against eager: equal to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import leaves, program_of
from drystone import native
from small_models import Calls

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")


IDS = torch.tensor([[5, 3, 2**53 + 1, 0, -7], [1, 1, -(2**62), 9, 1]])
MASK = torch.tensor([[True, False, True, True, False], [False, False, True, True, True]])
TABLE = torch.randn(11, 6)


def position_ids(ids: torch.Tensor) -> torch.Tensor:
    """RoBERTa's: tokens are counted, padding (1) is not."""
    mask = ids.ne(1).int()
    return (torch.cumsum(mask, dim=1).type_as(mask) * mask).long() + 1


FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "comparisons": lambda i, m: (i == 1, i != i[:, :1], i < 3, i <= 9.5, i > -7, i >= 2**53 + 1),
    "comparisons of truth": lambda i, m: (m == m[:1], m != True, m > False),  # noqa: E712
    "logic": lambda i, m: (m & m[:1], m | ~m[1:], m ^ m[:, :1], i & 3, i | 8, ~i, torch.logical_and(i, m), torch.logical_not(i)),
    "arithmetic": lambda i, m: (i + 1, i - i[:, :1], 3 - i, i * 2, -i, torch.add(i, i, alpha=3), torch.rsub(i, i[:1], alpha=2)),
    "arithmetic of two dtypes": lambda i, m: (i + m, i * m, i.int() + i, m.int() - i.short()),
    "into floats": lambda i, m: (i[:, :2] * 0.5, m * 1.5, (1 - m.float()) * torch.finfo(torch.float32).min, i[:, :2] / 4, 2.5 - m.int()),
    "divisions": lambda i, m: (i // 3, i % 3, i // -2, i % -2, i % 2**40, torch.div(i, -1, rounding_mode="floor"), i.int() % 5),
    "limits": lambda i, m: (i.clamp(0, 4), i.clamp(min=1), torch.maximum(i, i[:1]), torch.minimum(i, i[:, 1:2])),
    "conversions": lambda i, m: (i.bool(), m.long(), m.float(), m.bfloat16(), i[:, :2].float(), i.int(), i.short(), m.to(torch.uint8), i.float().long()),
    "choice": lambda i, m: (torch.where(m, i, 0), torch.where(m, i, i[:1]), i.masked_fill(m, -100), torch.where(m, 0.0, -torch.inf)),
    "running sums": lambda i, m: (m.cumsum(1), m.int().cumsum(0), i.cumsum(-1), i.cumsum(1, dtype=torch.int32), m.cumsum(1, dtype=torch.float32)),
    "sums": lambda i, m: (i.sum(), m.sum(1), i.sum(0, keepdim=True), m.sum(dim=1, dtype=torch.float32)),
    "extremes": lambda i, m: (i.argmax(-1), i.argmin(0), i.argmax(), i.amax(1), i.amin(0, keepdim=True), i.argmax(1, keepdim=True)),
    "extremes and places": lambda i, m: (i.max(1), i.min(0, keepdim=True), i.short().max(1), i.max(), i.min(), i.isnan()),
    "order": lambda i, m: (*i.sort(stable=True), *i.sort(0, True), i.topk(2).values, *m.sort(dim=1, stable=True), i.short().argsort(stable=True, descending=True)),
    "k-th": lambda i, m: (i.repeat(1, 9).kthvalue(20).values, i.int().repeat(20, 1).kthvalue(7, 0).values, i.repeat(1, 9).median(-1).values, i.repeat(9, 1).median()),
    "running": lambda i, m: (i.cumprod(1), m.int().cumprod(0), m.cumprod(-1), *i.cummax(1), *i.short().cummin(0)),
    "windows": lambda i, m: (i.unfold(1, 3, 1), m.unfold(0, 2, 1), i.unfold(1, 2, 3)),
    "any and all": lambda i, m: (m.any(), m.all(1), i.any(0), m.any(dim=1, keepdim=True)),
    "shapes": lambda i, m: (i[:, None].expand(2, 3, 5), m[:, None, None, :], i.t(), i.flatten(), i.repeat(2, 1), i.unsqueeze(0).squeeze(0)),
    "parts": lambda i, m: (i[:, 1:4:2], m[1], torch.cat([i, i[:, :2]], 1), torch.stack([m, ~m]), i.unbind(1)[2], i.chunk(2, 1), i.roll(1, 1), i.roll(3)),
    "turned": lambda i, m: (i.flip(0, 1), m.flip(-1), torch.rot90(i, 1), torch.rot90(m, 2), torch.rot90(i.int(), 3, (1, 0)), i.fliplr()),
    "padding": lambda i, m: (nn.functional.pad(i, (1, 2), value=7), nn.functional.pad(m, (0, 1), value=True)),
    "position ids": lambda i, m: position_ids(i),
    "pairs": lambda i, m: (i[torch.arange(2), m.int().argmax(1)], i[:, torch.tensor([0, -1])], i[m.long()], m[m.int()[:, 0]]),
    "gather": lambda i, m: (torch.gather(i, 1, m.long()), torch.gather(i, 0, m[:1, :3].long()), i.index_select(1, m[0].int())),
    "embedding": lambda i, m: nn.functional.embedding(i.clamp(0, 10), TABLE, padding_idx=1),
    "mask of pairs": lambda i, m: torch.where(m[:, None, None, :] & m[:, None, :, None], 0.0, torch.finfo(torch.float32).min),
}  # fmt: skip


def optimized(function: Callable[..., Any], *inputs: torch.Tensor, **options: Any) -> Any:
    return drystone.optimize(Calls(function).eval(), inputs, tuning="estimate", strict=True, **options)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_eager(name: str, no_tuning_cache: None) -> None:
    function = FUNCTIONS[name]
    fast = optimized(function, IDS, MASK)
    for inputs in ((IDS, MASK), (IDS.flip(0, 1).contiguous(), ~MASK), (torch.zeros_like(IDS), torch.ones_like(MASK))):
        for got, want in zip(leaves(fast(*inputs)), leaves(function(*inputs)), strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            assert torch.equal(got, want)
    assert not fast.explain().segments


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embedding_keeps_the_table_as_it_is(dtype: torch.dtype, no_tuning_cache: None) -> None:
    ids = torch.tensor([[3, 10], [0, 3]], dtype=torch.int32)
    got = optimized(lambda i: nn.functional.embedding(i, TABLE), ids, dtype=dtype)(ids)
    assert torch.equal(got, TABLE[ids.long()])


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda i: nn.functional.embedding(i, TABLE), IndexError),
        (lambda i: TABLE.index_select(0, i), IndexError),
        (lambda i: TABLE[i], IndexError),
        (lambda i: torch.gather(TABLE[:, 0], 0, i), RuntimeError),
    ],
)
@pytest.mark.parametrize("bad", [11, -12, 2**40])
def test_indices_out_of_range_raise_as_eager_does(
    function: Callable[..., Any], error: type[Exception], bad: int, no_tuning_cache: None
) -> None:
    good = torch.tensor([1, 10, 0])
    fast = optimized(function, good)
    wrong = torch.tensor([1, bad, 0])
    with pytest.raises(error):
        function(wrong)
    with pytest.raises(error, match=r"out of (range|bounds)"):
        fast(wrong)
    assert torch.equal(fast(good), function(good))  # the program is none the worse


def test_negative_indices() -> None:
    ids = torch.tensor([1, -1, 0])
    assert torch.equal(optimized(lambda i: TABLE[i], ids)(ids), TABLE[ids])
    with pytest.raises(IndexError):
        optimized(lambda i: nn.functional.embedding(i, TABLE), ids.abs())(ids)


def test_many_rows_on_two_threads() -> None:
    table, ids = torch.randn(1000, 64), torch.randint(0, 1000, (4, 512))
    fast = drystone.optimize(Calls(lambda i: nn.functional.embedding(i, table) * 2).eval(), (ids,))
    assert torch.equal(program_of(fast)([ids])[0], table[ids] * 2)
