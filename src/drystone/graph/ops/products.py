"""Products of matrices, attention, and rotary embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F

from drystone.graph.cache_pages import cached_attention
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Value
from drystone.graph.ops.operator import (
    MAX_STEP,
    ROWS,
    Dims,
    Finite,
    Operator,
    Sample,
    Shape,
    Size,
    Sizes,
    Tensor,
    Whole,
    broadcasts,
    in_order,
    rank_of,
    require,
    takes,
    together,
)
from drystone.graph.ops.weight_product import WeightProduct

__all__ = ["Attention", "CachedAttention", "Linear", "Matmul", "Rotary"]


@dataclass(frozen=True)
class Linear(WeightProduct):
    """(…, K) by a constant (N, K), as ``torch.nn.functional.linear``.

    Operands: x, weight (of x's dtype, or stored as bfloat16 for a float32 x), bias (N) if ``has_bias``, then those of the epilogue.
    """

    name: ClassVar[str] = "linear"
    sample: ClassVar[Sample] = ((False,), [ROWS], [(16, 16)])

    has_bias: bool

    def shape(self, inputs: Sequence[Value]) -> Shape:
        weight, x = self.weight(inputs), inputs[0]
        rank_of(self, inputs, 1)
        require(len(weight.shape) == 2 and x.shape[-1] == weight.shape[1], f"{weight} does not fit {x}")
        return (*x.shape[:-1], weight.shape[0])

    def run(self, inputs: list[Tensor]) -> Tensor:
        return F.linear(inputs[0], inputs[1], inputs[2] if self.has_bias else None)


@dataclass(frozen=True)
class Matmul(Operator):
    """(…, M, K) by (…, K, N), both computed; axes of 1 before the last two are broadcast.

    ``dims``: for each operand the order in which the product takes its axes.
    """

    name: ClassVar[str] = "matmul"
    keeps_dtype: ClassVar[bool] = True
    factors: ClassVar[int] = 2
    sample: ClassVar[Sample] = ((((0, 1, 2), (0, 1, 2)),), [ROWS, (2, 16, 4)], [])

    dims: tuple[Dims, Dims]

    @property
    def operands(self) -> int:
        return 2

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 2)
        a, b = (in_order(value, dims) for value, dims in zip(inputs, self.dims, strict=True))
        require(len(a) == len(b) >= 2 and a[-1] == b[-2], f"{list(a)} and {list(b)} have no product")
        return (*together([a[:-2], b[:-2]]), a[-2], b[-1])

    def operations(self, inputs: Sequence[Value], output: Value) -> int:
        return 2 * output.numel * in_order(inputs[0], self.dims[0])[-1]

    def run(self, inputs: list[Tensor]) -> Tensor:
        a, b = (x.permute(dims) for x, dims in zip(inputs, self.dims, strict=True))
        return a @ b


@dataclass(frozen=True)
class Attention(Operator):
    """softmax(scale q kᵀ + mask) v, as ``torch.nn.functional.scaled_dot_product_attention``.

    Operands: q, k, v, and if ``has_mask`` a mask broadcast to (B, H, T, S), which is added, or a bool of which False hides.
    ``heads_first``, of q, k, v and the result: the axes are (B, H, T, D), or else (B, T, H, D). ``causal``: keys after the query's
    index are hidden. ``nan_if_hidden``: a row whose keys are all hidden gives NaN, as softmax has it; 0 otherwise. The heads of k
    and v may be fewer than q's and then serve several in turn; v's last axis may differ from q's and k's.
    """

    name: ClassVar[str] = "attention"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (*FLOATS, torch.bool)
    factors: ClassVar[int] = 3
    sample: ClassVar[Sample] = (((True,) * 4, 0.25, False, False, False), [(1, 2, 4, 16)] * 3, [])

    heads_first: tuple[bool, bool, bool, bool]
    scale: float
    causal: bool
    has_mask: bool
    nan_if_hidden: bool

    @property
    def operands(self) -> int:
        return 3 + self.has_mask

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 3 + self.has_mask)
        require(all(len(value.shape) == 4 for value in inputs[:3]), "an attention has operands of four axes")
        heads = [_heads_first(value.shape, order) for value, order in zip(inputs[:3], self.heads_first, strict=False)]
        (batch, count, queries, depth), key, value = heads
        fits = key[0] == value[0] == batch and key[1:3] == value[1:3] and count % max(key[1], 1) == 0 and key[3] == depth
        require(fits, f"{', '.join(map(str, inputs[:3]))} do not fit together")
        if self.has_mask:
            mask = inputs[3]
            require(broadcasts(mask.shape, (batch, count, queries, key[2])), f"{mask} does not fit the scores")
        return _heads_first((batch, count, queries, value[3]), self.heads_first[3])

    def operations(self, inputs: Sequence[Value], output: Value) -> int:
        """All scores, those that a mask hides too."""
        (batch, heads, queries, depth), key, value = (
            _heads_first(operand.shape, order) for operand, order in zip(inputs[:3], self.heads_first, strict=False)
        )
        return 2 * batch * heads * queries * key[2] * (depth + value[3])

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        dtypes = {operand.dtype for operand in [*inputs[:3], output]}
        require(len(dtypes) == 1 and torch.bool not in dtypes, "it changes its dtype")

    def run(self, inputs: list[Tensor]) -> Tensor:
        q, k, v = (x if first else x.transpose(1, 2) for x, first in zip(inputs[:3], self.heads_first, strict=False))
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = q @ k.transpose(2, 3) * self.scale
        if self.has_mask:
            mask = inputs[3]
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        if self.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -math.inf)
        weights = scores.softmax(3)
        if not self.nan_if_hidden:
            weights = weights.masked_fill((scores == -math.inf).all(3, keepdim=True), 0)
        result = weights @ v
        return result if self.heads_first[3] else result.transpose(1, 2)


def _heads_first(shape: Shape, already: bool) -> Shape:
    """(B, H, T, D) of that or of (B, T, H, D); and back."""
    return shape if already else (shape[0], shape[2], shape[1], shape[3])


@dataclass(frozen=True)
class Rotary(Operator):
    """x * cosines + (−second half, first half of x's last axis) * sines: rotary embedding (RoFormer, Su et al. 2021).

    Operands: x, and cosines and sines that broadcast to it. ``dims``: the order in which x's axes are taken; the last stays last.
    """

    name: ClassVar[str] = "rotary"
    sample: ClassVar[Sample] = (((0, 1, 2),), [ROWS, (4, 16), (4, 16)], [])

    dims: Sizes

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, 3)
        shape = in_order(inputs[0], self.dims)
        require(shape and shape[-1] % 2 == 0 and self.dims[-1] == len(shape) - 1, f"no halves of {list(shape)}")
        for factors in inputs[1:]:
            fits = factors.shape and factors.shape[-1] == shape[-1] and broadcasts(factors.shape, shape)
            require(fits, f"{factors} does not fit {list(shape)}")
        return shape

    def run(self, inputs: list[Tensor]) -> Tensor:
        x, cosines, sines = inputs
        x = x.permute(self.dims)
        first, second = x.chunk(2, -1)
        return x * cosines + torch.cat([-second, first], -1) * sines


@dataclass(frozen=True)
class CachedAttention(Operator):
    """Keys and values of new positions are written into a cache, then queries attend over it.

    Operands: q (B, H, T, D); k (B, Hk, T, D) and v (B, Hk, T, width) if it ``writes``; if it has a ``rotary`` embedding of q and k,
    cosines and sines that broadcast to (B, 1, T, D); pages (layers, B, capacity) and lengths (B), both int64; sinks (H) if it
    ``has_sinks``; a float32 bias (H, size) if it ``has_bias``. The result is (B, T, H, width). What they and the fields mean is
    said of ``drystone.graph.cache_pages.cached_attention``, and of ``Rotary``. The memory that ``pages`` leads to is read and
    written where it lies.
    """

    name: ClassVar[str] = "cached_attention"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (*FLOATS, torch.int64)
    factors: ClassVar[int] = 3
    sample: ClassVar[Sample] = (
        (0, 0.25, 0, 0.0, True, False, False, False, False, True),
        [(1, 2, 4, 16), (1, 2, 4, 16), (1, 2, 4, 16), (torch.int64, 1, 1, 1), (torch.int64, 1)],
        [],
    )

    layer: Annotated[int, Whole(0, MAX_STEP)]
    scale: Finite
    window: Size
    softcap: Finite
    writes: bool
    rotary: bool
    has_sinks: bool
    has_bias: bool
    by_distance: bool
    causal: bool

    @property
    def operands(self) -> int:
        return self.tables + 2 + self.has_sinks + self.has_bias

    @property
    def tables(self) -> int:
        """Where the tables are among the operands."""
        return 1 + 2 * self.writes + 2 * self.rotary

    def shape(self, inputs: Sequence[Value]) -> Shape:
        takes(self, inputs, self.operands)
        require(self.softcap >= 0, "a negative softcap")
        require(all(len(value.shape) == 4 for value in inputs[: 1 + 2 * self.writes]), "queries, keys and values have four axes")
        q, (pages, lengths) = inputs[0].shape, inputs[self.tables : self.tables + 2]
        width = q[3]
        if self.writes:
            k, v = inputs[1].shape, inputs[2].shape
            fits = k[0] == q[0] and k[2:] == q[2:] and v[:3] == k[:3] and q[1] % max(k[1], 1) == 0
            require(fits, f"{', '.join(map(str, inputs[:3]))} do not fit together")
            width = v[3]
        if self.rotary:
            require(q[3] % 2 == 0, f"no halves of {list(q)}")
            for factors in inputs[self.tables - 2 : self.tables]:
                fits = factors.shape[-1:] == q[3:] and broadcasts(factors.shape, (q[0], 1, *q[2:]))
                require(fits, f"{factors} does not fit the positions of {list(q)}")
        fits = len(pages.shape) == 3 and pages.shape[1] == q[0] and lengths.shape == q[:1]
        require(fits, f"{pages} and {lengths} are no tables of {q[0]} rows")
        require(self.layer < pages.shape[0], f"{pages} has no layer {self.layer}")
        if self.has_sinks:
            sinks = inputs[self.tables + 2]
            require(sinks.shape == q[1:2], f"{sinks} has no number for each of {q[1]} heads")
        if self.has_bias:
            shape = inputs[-1].shape
            require(len(shape) == 2 and shape[0] == q[1] and shape[1] > 0, f"{inputs[-1]} has no row for each of {q[1]} heads")
        return (q[0], q[2], q[1], width)

    def check_dtypes(self, inputs: Sequence[Value], output: Value) -> None:
        require(len({value.dtype for value in [*inputs[: 1 + 2 * self.writes], output]}) == 1, "it changes its dtype")
        tables = inputs[self.tables : self.tables + 2]
        require(all(value.dtype == torch.int64 for value in tables), "the tables of a cache are int64")
        require(all(value.dtype in FLOATS for value in inputs if value not in tables), "its other operands are floats")
        require(not self.has_bias or inputs[-1].dtype == torch.float32, "its bias is float32")

    def run(self, inputs: list[Tensor]) -> Tensor:
        q, *rest = inputs
        k, v = (rest.pop(0), rest.pop(0)) if self.writes else (None, None)
        if self.rotary:
            turn, factors = Rotary((0, 1, 2, 3)), [rest.pop(0), rest.pop(0)]
            q, k = turn.run([q, *factors]), k if k is None else turn.run([k, *factors])
        pages, lengths, *rest = rest
        sinks, bias = (rest.pop(0) if has else None for has in (self.has_sinks, self.has_bias))
        return cached_attention(
            q, k, v, pages, lengths, self.layer, self.scale, self.window, self.softcap, sinks, bias, self.by_distance, self.causal
        )
