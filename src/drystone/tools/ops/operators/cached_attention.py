"""One token's queries over the pages of a cache, by length: 16 heads of 64 with keys of their own, and four to a key.

torch has the same keys and values in one tensor each, heads first; drystone writes the token's own besides. Layers take turns, so
that each is read from memory, as in a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from drystone import native
from drystone.generation.pages import Layer, Pages, Rows, Sequence
from drystone.graph.cache_pages import PAGE, Page

from ...bench.workload import DTYPES
from ..case import Call, Case, Contest, copies_to_be_cold, last_level_cache_bytes
from ..step import call_of, desc

LENGTHS = (128, 512, 2048, 8192)
HEADS, SIZE = 16, 64
INT8 = torch.int8


def cases(dtype: str) -> Iterator[Case]:
    """A cache of ``dtype``, and one of int8 for queries of it."""
    cache = last_level_cache_bytes()
    for kept in (DTYPES[dtype], INT8):
        for key_heads in (HEADS, HEADS // 4):
            for length in LENGTHS:
                size = 2 * length * key_heads * (SIZE * kept.itemsize + 4 * (kept == INT8))
                copies = copies_to_be_cold(size, cache)
                yield Case(
                    operator="cached_attention",
                    tag="int8" if kept == INT8 else "own",
                    dtype=dtype,
                    sizes={"T": length, "Hk": key_heads, "cache": str(kept).removeprefix("torch.")},
                    axis="T",
                    group=f"{HEADS // key_heads} a key, {str(kept).removeprefix('torch.')}",
                    flops=4 * length * HEADS * SIZE,
                    bytes=size,
                    copies=copies,
                    make=partial(_token, length, key_heads, DTYPES[dtype], kept, copies),
                )


def _token(length: int, key_heads: int, dtype: torch.dtype, kept: torch.dtype, copies: int) -> Contest:
    """The token is the last of ``length`` positions."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, HEADS, 1, SIZE, generator=generator).to(dtype)
    k, v = (torch.randn(1, key_heads, length, SIZE, generator=generator).to(dtype) for _ in range(2))

    def drystone() -> Call:
        sequence = Sequence(Pages([Layer(key_heads, SIZE, SIZE)] * copies, length, kept))
        sequence.reserve(length)
        for addresses in sequence.table.tolist():
            for number, address in enumerate(addresses):
                part = slice(number * PAGE, (number + 1) * PAGE)
                Page.at(address).write(0, k[0, :, part], v[0, :, part])
        sequence.advance(length - 1)
        tables, y = Rows([sequence]).tables(), torch.empty(1, 1, HEADS, SIZE, dtype=dtype)
        slots = [q, k[:, :, -1:].contiguous(), v[:, :, -1:].contiguous(), *(table.contiguous() for table in tables), y]
        query, key, value, pages, lengths, output = (desc(x) for x in slots)
        scale = 1 / math.sqrt(SIZE)
        calls = []
        for layer in range(copies):
            operands = query, key, value, None, None, pages, lengths, None, None, output
            step = native.cached_attention(*operands, layer, scale, 0, 0.0, False, True)
            calls.append(call_of(step, [slots], y.transpose(1, 2)))

        def call(i: int) -> torch.Tensor:
            assert sequence  # whose pages are read
            return calls[i](0)

        return call

    def stock() -> Call:
        layers = [(k.clone(), v.clone()) for _ in range(copies)]
        return lambda i: F.scaled_dot_product_attention(q, *layers[i], enable_gqa=True)

    def exact() -> torch.Tensor:
        return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True)

    return Contest({"drystone": drystone, "torch": stock}, exact)


OPERATORS = {"cached_attention": cases}
