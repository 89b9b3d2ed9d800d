"""Attention over the pages of a cache, plainly with torch: for tests, and where the CPU has no AVX2.

How a page lies in memory is said in native/core/cache_pages.h.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from drystone import native
from drystone.errors import InputError

Tensor = torch.Tensor

# Positions that a page has room for.
PAGE = native.PAGE_POSITIONS

_DTYPES = {native: dtype for dtype, native in native.DTYPES.items()}


def pages_for(positions: int) -> int:
    """How many pages so many positions fill."""
    return -(-positions // PAGE)


@dataclass(frozen=True)
class Page:
    """Views of a page's memory: keys (heads, PAGE, units, pair), values (heads, PAGE / pair, pair, width).

    ``scales`` (2, heads, PAGE), of int8: those of keys, and of values.
    """

    keys: Tensor
    values: Tensor
    scales: Tensor | None
    depth: int

    @classmethod
    def at(cls, address: int) -> Page:
        """Raises ``InputError`` where no page begins."""
        found = native.find_page(address) if address > 0 else None
        if found is None:
            raise InputError(no_page(address))
        kind, heads, depth, width = found
        dtype = _DTYPES[kind]
        head_bytes, values, scales = native.page_offsets(*found)
        memory = torch.frombuffer((ctypes.c_char * (heads * head_bytes)).from_address(address), dtype=torch.uint8)
        memory = memory.view(heads, head_bytes)
        pair = 2 if dtype == torch.bfloat16 else 1
        units = -(-depth // pair)
        return cls(
            memory[:, :values].view(dtype).unflatten(1, (units, PAGE, pair)).transpose(1, 2),
            memory[:, values:scales].view(dtype).unflatten(1, (PAGE // pair, width, pair)).transpose(2, 3),
            None
            if dtype != torch.int8
            else memory[:, scales : scales + 8 * PAGE].view(torch.float32).unflatten(1, (2, PAGE)).transpose(0, 1),
            depth,
        )

    def require(self, heads: int, depth: int, width: int) -> None:
        """Raise ``InputError`` unless queries of so many heads, and so deep, read it."""
        own = self.keys.shape[0], self.depth, self.values.shape[3]
        if heads % own[0] or (depth, width) != own[1:]:
            raise InputError(another_model(heads, depth, width, own))

    def write(self, first: int, keys: Tensor, values: Tensor) -> None:
        """Keys and values (heads, count, depth or width) at positions from ``first`` on."""
        positions = torch.arange(first, first + keys.shape[1])
        if self.scales is not None:
            keys, values = (self._quantised(x, scales, positions) for x, scales in zip((keys, values), self.scales, strict=True))
        units, pair = self.keys.shape[2:]
        padded = torch.nn.functional.pad(keys, (0, units * pair - self.depth))
        self.keys[:, positions] = padded.unflatten(2, (units, pair)).to(self.keys.dtype)
        self.values[:, positions // pair, positions % pair] = values.to(self.values.dtype)

    @staticmethod
    def _quantised(x: Tensor, scales: Tensor, positions: Tensor) -> Tensor:
        scale = x.float().abs().amax(2) / 127
        scales[:, positions] = scale
        return (x / torch.where(scale == 0, 1, scale)[..., None]).round()

    def read(self, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of the first ``count`` positions."""
        keys = self.keys.flatten(2)[:, :count, : self.depth].to(dtype)
        values = self.values.flatten(1, 2)[:, :count].to(dtype)
        if self.scales is None:
            return keys, values
        return keys * self.scales[0, :, :count, None], values * self.scales[1, :, :count, None]


def no_page(address: int) -> str:
    what = "a page that was not reserved (its address is 0)" if address == 0 else f"the address {address:#x}, where no page begins"
    return f"the table of a cache's pages leads to {what}: reserve the positions before a call, and keep the cache alive during it"


def another_model(heads: int, depth: int, width: int, own: tuple[int, int, int]) -> str:
    return (
        f"the cache is another model's: it has {own[0]} heads, of {own[1]} features a key and {own[2]} a value, and is read by "
        f"{heads} heads of {depth} and {width}"
    )


def cached_attention(
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
    bias: Tensor | None,
    by_distance: bool,
    causal: bool,
) -> Tensor:
    """Write ``k`` and ``v`` into the cache, then attend over it.

    Args:
        q: (B, H, T, D).
        k, v: new positions, (B, Hk, T, D) and (B, Hk, T, width), H a multiple of Hk; None where nothing is written.
        pages: int64 (layers, B, capacity): the addresses of pages. Page p of a row holds its positions from p * PAGE on.
        lengths: int64 (B): the positions of each row that are valid before this call. New ones follow them.
        layer: whose pages are meant.
        scale: of the products of queries and keys.
        window: each query attends to so many positions at most, its own included; 0: to all.
        softcap: c of c * tanh(score / c); 0: none.
        sinks: (H): a further score of each head, which has no value.
        bias: (H, size), added to the scores: column i to that of the key at position i; the last column beyond.
        by_distance: of the bias the last column belongs to the query's own position, the one before it to the position before,
            and the first one to all that are farther.
        causal: query t attends to positions up to lengths + t, which this call or one for another layer has written; else each
            query attends to all positions.

    Returns:
        (B, T, H, width).

    Raises:
        InputError: lengths are out of bounds, or the table leads to what is no page, or to pages of other heads.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    count, new = q.shape[2], q.shape[2] if k is not None or causal else 0
    rows = []
    for row, length in enumerate(lengths.tolist()):
        total = length + new
        if not 0 <= length <= total <= pages.shape[2] * PAGE:
            raise InputError(
                f"row {row} of a cache has {length} positions and {new} new ones, beyond the {pages.shape[2]} pages of its table"
            )
        if not total:
            rows.append(torch.zeros_like(q[row], dtype=dtype))  # over nothing
            continue
        last = total - count if causal else total - 1  # that the first query sees
        begin = max(0, last - window + 1) // PAGE if window else 0
        if k is not None:
            begin = min(begin, length // PAGE)
        used = {number: Page.at(int(pages[layer, row, number])) for number in range(begin, pages_for(total))}
        for page in used.values():
            page.require(q.shape[1], q.shape[3], q.shape[3] if v is None else v.shape[3])
        if k is not None and v is not None:
            for number in range(length // PAGE, pages_for(total)):
                start = max(number * PAGE, length)
                part = slice(start - length, (number + 1) * PAGE - length)
                used[number].write(start - number * PAGE, k[row, :, part], v[row, :, part])
        parts = [page.read(min(PAGE, total - number * PAGE), dtype) for number, page in used.items()]
        seen = torch.arange(count if causal else 1)[:, None] + last
        rows.append(_attend(q[row].to(dtype), parts, begin * PAGE, seen, scale, window, softcap, sinks, bias, by_distance))
    return torch.stack(rows).to(q.dtype).transpose(1, 2).contiguous()


def _attend(
    q: Tensor,
    parts: list[tuple[Tensor, Tensor]],
    begin: int,
    last: Tensor,
    scale: float,
    window: int,
    softcap: float,
    sinks: Tensor | None,
    bias: Tensor | None,
    by_distance: bool,
) -> Tensor:
    """Of one row, (heads, T, width). ``parts``: keys and values from position ``begin`` on. ``last``: what each query sees last."""
    heads, count, _ = q.shape
    keys, values = (torch.cat(part, 1).repeat_interleave(heads // part[0].shape[0], 0) for part in zip(*parts, strict=True))
    scores = q @ keys.transpose(1, 2) * scale
    if softcap:
        scores = (scores / softcap).tanh() * softcap
    places = torch.arange(begin, begin + keys.shape[1])
    if bias is not None:
        columns = places - last + bias.shape[1] - 1 if by_distance else places.expand(last.shape[0], -1)
        scores = scores + bias.to(q.dtype)[:, columns.clamp(0, bias.shape[1] - 1)]
    hidden = places > last
    if window:
        hidden |= places <= last - window
    scores = scores.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(q.dtype)[:, None, None].expand(heads, count, 1)], 2)
    return scores.softmax(2)[..., : keys.shape[1]] @ values
