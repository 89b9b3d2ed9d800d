"""Attention over the pages of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from drystone.graph.cache_pages import cached_attention
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Value
from drystone.graph.ops.operator import MAX_STEP, Finite, Operator, Sample, Shape, Size, Tensor, Whole, require, takes

__all__ = ["CachedAttention"]

INT64 = torch.int64


@dataclass(frozen=True)
class CachedAttention(Operator):
    """Keys and values of new positions are written into a cache, then queries attend over it.

    Operands: q (B, H, T, D); k (B, Hk, T, D) and v (B, Hk, T, width) if it ``writes``; pages (layers, B, capacity) and lengths (B),
    both int64; sinks (H) if it ``has_sinks``. The result is (B, T, H, width). What they and the fields mean is said of
    ``drystone.graph.cache_pages.cached_attention``. The memory that ``pages`` leads to is read and written where it lies.
    """

    name: ClassVar[str] = "cached_attention"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (*FLOATS, INT64)
    factors: ClassVar[int] = 3
    sample: ClassVar[Sample] = (
        (0, 0.25, 0, 0.0, True, False, True),
        [(1, 2, 4, 16), (1, 2, 4, 16), (1, 2, 4, 16), (INT64, 1, 1, 1), (INT64, 1)],
        [],
    )

    layer: Annotated[int, Whole(0, MAX_STEP)]
    scale: Finite
    window: Size
    softcap: Finite
    writes: bool
    has_sinks: bool
    causal: bool

    @property
    def operands(self) -> int:
        return 3 + 2 * self.writes + self.has_sinks

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, self.operands)
        require(self.softcap >= 0, "a negative softcap")
        first = 1 + 2 * self.writes  # of the tables
        require(all(len(value.shape) == 4 for value in inputs[:first]), "queries, keys and values have four axes")
        q, (pages, lengths) = inputs[0].shape, inputs[first : first + 2]
        width = q[3]
        if self.writes:
            k, v = inputs[1].shape, inputs[2].shape
            fits = k[0] == q[0] and k[2:] == q[2:] and v[:3] == k[:3] and q[1] % max(k[1], 1) == 0
            require(fits, f"{', '.join(map(str, inputs[:3]))} do not fit together")
            width = v[3]
        fits = len(pages.shape) == 3 and pages.shape[1] == q[0] and lengths.shape == q[:1]
        require(fits, f"{pages} and {lengths} are no tables of {q[0]} rows")
        require(self.layer < pages.shape[0], f"{pages} has no layer {self.layer}")
        if self.has_sinks:
            require(inputs[first + 2].shape == q[1:2], f"{inputs[first + 2]} has no number for each of {q[1]} heads")
        return (q[0], q[2], q[1], width)

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        first = 1 + 2 * self.writes
        require(len({value.dtype for value in [*inputs[:first], output]}) == 1, "it changes its dtype")
        require(inputs[0].dtype in FLOATS, "its queries are no floats")
        require(all(value.dtype == INT64 for value in inputs[first : first + 2]), "the tables of a cache are int64")
        require(all(value.dtype in FLOATS for value in inputs[first + 2 :]), "its sinks are no floats")

    def run(self, inputs: list[Tensor]) -> Tensor:
        q, *rest = inputs
        k, v = (rest.pop(0), rest.pop(0)) if self.writes else (None, None)
        pages, lengths, *sinks = rest
        sink = sinks[0] if sinks else None
        return cached_attention(q, k, v, pages, lengths, self.layer, self.scale, self.window, self.softcap, sink, self.causal)
