"""Attention over a cache, by the operator as torch has it, against torch's attention over whole sequences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from drystone.errors import InputError
from drystone.generation.cached_attention import cached_attention
from drystone.generation.pages import Layer, Pages, Rows, Sequence
from drystone.graph.cache_pages import PAGE

Tensor = torch.Tensor

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.int8: 3e-2}


def expected(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
    by_distance: bool = False,
    causal: bool = True,
) -> Tensor:
    """In float64, of queries that are the last of a whole sequence."""
    q, k, v = q.double(), k.double(), v.double()
    queries, keys = torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None], torch.arange(k.shape[2])
    seen = keys <= queries if causal else torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    if window:
        seen = seen & (keys > (queries if causal else k.shape[2] - 1) - window)
    if not softcap and sinks is None and bias is None:
        return F.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=True).transpose(1, 2)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        columns = bias.shape[1] - 1 - (queries - keys) if by_distance else keys.expand(q.shape[2], -1)
        scores = scores + bias.double()[:, columns.clamp(0, bias.shape[1] - 1)]
    exponents = scores.masked_fill(~seen, -torch.inf).exp()
    total = exponents.sum(3, keepdim=True)
    if sinks is not None:
        total = total + sinks.double().exp()[:, None, None]
    return (exponents / total @ v).transpose(1, 2)


class Cached:
    """Rows of a cache of one layer, and what was written to it."""

    def __init__(self, lengths: list[int], layer: Layer, dtype: torch.dtype = torch.float32, positions: int = 1024) -> None:
        self.layer = layer
        self.rows = Rows([Sequence(Pages([layer], positions, dtype)) for _ in lengths])
        self.keys = [torch.empty(layer.heads, 0, layer.depth) for _ in lengths]
        self.values = [torch.empty(layer.heads, 0, layer.width) for _ in lengths]
        for row, length in enumerate(lengths):
            if length:
                self.call(torch.randn(1, layer.heads, length, layer.depth), [row])

    def call(self, q: Tensor, rows: list[int] | None = None, **options: object) -> tuple[Tensor, Tensor]:
        """Write new positions and attend: the result, and what is expected."""
        chosen = rows or list(range(len(self.keys)))
        some = Rows([self.rows.sequences[row] for row in chosen])
        count = q.shape[2]
        k = torch.randn(len(chosen), self.layer.heads, count, self.layer.depth).to(q.dtype)
        v = torch.randn(len(chosen), self.layer.heads, count, self.layer.width).to(q.dtype)
        some.reserve(count)
        result = attend(q, k, v, some, **options)  # type: ignore[arg-type]
        some.advance(count)
        for place, row in enumerate(chosen):
            self.keys[row] = torch.cat([self.keys[row], k[place]], 1)
            self.values[row] = torch.cat([self.values[row], v[place]], 1)
        return result, self.expected(q, chosen, **options)

    def expected(self, q: Tensor, rows: list[int], **options: object) -> Tensor:
        parts = [
            expected(q[place : place + 1], self.keys[row][None], self.values[row][None], SCALE, **options)  # type: ignore[arg-type]
            for place, row in enumerate(rows)
        ]
        return torch.cat(parts)


SCALE = 0.3


def attend(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    rows: Rows,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
    by_distance: bool = False,
    causal: bool = True,
) -> Tensor:
    return cached_attention(q, k, v, *rows.tables(), 0, SCALE, window, softcap, sinks, bias, by_distance, causal)


def close(result: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(result.double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


LENGTHS = [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE + 7]


@pytest.mark.parametrize("count", [1, 2, 9, PAGE + 6])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (9, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_rows_of_different_lengths(count: int, heads: tuple[int, int], dtype: torch.dtype) -> None:
    cache = Cached(LENGTHS, Layer(heads[1], 24, 24), dtype)
    for _ in range(2):
        close(*cache.call(torch.randn(len(LENGTHS), heads[0], count, 24)), dtype)


@pytest.mark.parametrize("depth, width", [(64, 64), (80, 80), (128, 128), (256, 256), (5, 3), (40, 17), (1, 1)])
def test_sizes_of_heads(depth: int, width: int) -> None:
    for dtype in TOLERANCE:
        cache = Cached([PAGE + 3, 11], Layer(2, depth, width), dtype)
        for count in (1, 4):
            close(*cache.call(torch.randn(2, 4, count, depth) / depth**0.5), dtype)


@pytest.mark.parametrize(
    "options", [{"softcap": 2.0}, {"sinks": torch.tensor([1.0, -2.0, 0.5, 30.0])}, {"window": 10}, {"window": PAGE}]
)
@pytest.mark.parametrize("count", [1, 3, PAGE + 20])
def test_options(options: dict[str, object], count: int) -> None:
    for dtype in TOLERANCE:
        cache = Cached([0, 5, PAGE + 3, 4 * PAGE], Layer(2, 16, 16), dtype)
        close(*cache.call(torch.randn(4, 4, count, 16), **options), dtype)


@pytest.mark.parametrize("by_distance", [True, False])
@pytest.mark.parametrize("size", [1, 30, PAGE + 9, 6 * PAGE])
def test_bias(by_distance: bool, size: int) -> None:
    bias = torch.randn(4, size)
    for dtype in TOLERANCE:
        cache = Cached([0, 5, PAGE + 3, 4 * PAGE], Layer(2, 16, 16), dtype)
        for count in (1, PAGE + 20):
            q = torch.randn(4, 4, count, 16)
            close(*cache.call(q, bias=bias, by_distance=by_distance, window=3 * PAGE if size == 30 else 0), dtype)


@pytest.mark.parametrize("window", [0, PAGE + 5])
def test_cross_attention(window: int) -> None:
    cache = Cached([1, PAGE, 3 * PAGE + 9], Layer(2, 16, 16))
    for count in (1, 7, 2 * PAGE):
        q = torch.randn(3, 4, count, 16)
        close(
            attend(q, None, None, cache.rows, window, causal=False),
            cache.expected(q, [0, 1, 2], window=window, causal=False),
            q.dtype,
        )
    empty = Rows([Sequence(Pages([Layer(2, 16, 16)], PAGE))])
    assert not attend(q[:1], None, None, empty, causal=False).any()


def test_all_new_positions_of_a_window_that_is_not_causal() -> None:
    cache = Cached([3, PAGE + 2], Layer(2, 16, 16))
    close(*cache.call(torch.randn(2, 4, 2 * PAGE, 16), window=10, causal=False), torch.float32)
    cache.rows.crop(3)
    cache.rows.sequences[1].crop(0)
    q = torch.randn(2, 4, PAGE, 16)
    with pytest.raises(InputError, match="address is 0"):
        cached_attention(q, q[:, :2], q[:, :2], *cache.rows.tables(), 0, SCALE, 10, 0.0, None, None, False, False)


def test_keys_that_another_layer_wrote() -> None:
    cache = Cached([PAGE - 2, 40], Layer(2, 16, 16))
    q = torch.randn(2, 4, 5, 16)
    wanted = cache.call(q)[1]
    cache.rows.crop(PAGE - 2)
    for sequence, length in zip(cache.rows.sequences, (PAGE - 2, 40), strict=True):
        sequence.crop(length)
        sequence.reserve(5)
    close(attend(q, None, None, cache.rows), wanted, torch.float32)


def test_bfloat16_queries() -> None:
    for dtype in TOLERANCE:
        cache = Cached([PAGE + 3, 11], Layer(2, 32, 32), dtype)
        for count in (1, 40):
            result, wanted = cache.call(torch.randn(2, 4, count, 32).bfloat16())
            assert result.dtype == torch.bfloat16
            close(result, wanted, torch.int8)


def test_a_window_whose_past_was_given_back() -> None:
    sequence = Sequence(Pages([Layer(1, 8, 8, window=20)], 10 * PAGE))
    keys, values = torch.randn(2, 1, 1, 5 * PAGE, 8)
    rows = Rows([sequence])
    for first in range(0, 5 * PAGE, PAGE // 2):
        part = slice(first, first + PAGE // 2)
        q = torch.randn(1, 2, PAGE // 2, 8)
        rows.reserve(PAGE // 2)
        result = attend(q, keys[:, :, part], values[:, :, part], rows, window=20)
        rows.advance(PAGE // 2)
        close(result, expected(q, keys[:, :, : part.stop], values[:, :, : part.stop], SCALE, window=20), torch.float32)
    assert sequence.table[0, 0] == 0


def test_bad_tables_are_refused() -> None:
    cache = Cached([3, PAGE + 1], Layer(2, 16, 16), positions=3 * PAGE)
    q = torch.randn(2, 4, 1, 16)
    pages, lengths = cache.rows.tables()

    def call(pages: Tensor = pages, lengths: Tensor = lengths, q: Tensor = q) -> None:
        cached_attention(q, q[:, :2], q[:, :2], pages, lengths, 0, 1.0, 0, 0.0, None, None, False, True)

    cache.rows.reserve(1)
    call()
    with pytest.raises(InputError, match="address is 0"):
        call(lengths=lengths + PAGE)
    with pytest.raises(InputError, match="no page begins"):
        call(pages + 64)
    for wrong in (-1, 3 * PAGE, 2**62):
        with pytest.raises(InputError, match="beyond the 3 pages"):
            call(lengths=torch.tensor([3, wrong]))
    with pytest.raises(InputError, match="another model"):
        call(q=torch.randn(2, 4, 1, 8))


def test_export_takes_it() -> None:
    class Model(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, pages: Tensor, lengths: Tensor) -> Tensor:
            return cached_attention(q, k, k, pages, lengths, 0, 1.0, 0, 0.0, None, None, False, True) * 2

    rows = Rows([Sequence(Pages([Layer(1, 8, 8)], PAGE))])
    rows.reserve(3)
    inputs = (torch.randn(1, 2, 3, 8), torch.randn(1, 1, 3, 8), *rows.tables())
    program = torch.export.export(Model(), inputs)
    assert "cached_attention" in program.graph_module.code
    assert torch.equal(program.module()(*inputs), Model()(*inputs))
