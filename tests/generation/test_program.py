"""Attention over a cache within optimised models: calls that follow each other, as a text is generated."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from drystone.capture.export import capture
from drystone.errors import InputError
from drystone.generation.cached_attention import cached_attention
from drystone.generation.pages import Layer, Pages, Rows, Sequence
from drystone.graph.build import build
from drystone.graph.cache_pages import PAGE
from drystone.graph.interpreter import run
from drystone.graph.ops import Aten, CachedAttention

Tensor = torch.Tensor
HEADS, KEY_HEADS, DEPTH, LAYERS = 4, 2, 16, 2


def rotated_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class Layered(nn.Module):
    """Layers of attention over a cache, or over whole sequences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        width = HEADS * DEPTH
        self.qkv = nn.ModuleList(nn.Linear(width, (HEADS + 2 * KEY_HEADS) * DEPTH) for _ in range(LAYERS))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS))

    def forward(
        self, x: Tensor, pages: Tensor | None = None, lengths: Tensor | None = None, factors: Tensor | None = None
    ) -> Tensor:
        for layer, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True)):
            heads = qkv(x).unflatten(2, (-1, DEPTH)).transpose(1, 2)
            q, k, v = heads.split([HEADS, KEY_HEADS, KEY_HEADS], 1)
            if factors is not None:
                cosines, sines = factors
                q, k = (part * cosines + rotated_half(part) * sines for part in (q, k))
            if pages is None:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
            else:
                assert lengths is not None
                y = cached_attention(q, k, v, pages, lengths, layer, DEPTH**-0.5, 0, 0.0, None, None, False, True)
            x = x + out(y.flatten(2))
        return x


def rows_of(count: int, dtype: torch.dtype = torch.float32) -> Rows:
    pages = Pages([Layer(KEY_HEADS, DEPTH, DEPTH)] * LAYERS, 4 * PAGE, dtype)
    return Rows([Sequence(pages) for _ in range(count)])


def generate(model: nn.Module, x: Tensor, rows: Rows, chunks: list[int], factors: Tensor | None = None) -> Tensor:
    """The results of ``model`` for x in chunks, over a cache; ``factors``: cosines and sines of a rotary embedding."""
    results, at = [], 0
    for count in chunks:
        rows.reserve(count)
        more = [] if factors is None else [factors[..., at : at + count, :]]
        results.append(model(x[:, at : at + count], *rows.tables(), *more))
        rows.advance(count)
        at += count
    return torch.cat(results, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_over_a_cache_is_the_model_over_all(dtype: torch.dtype) -> None:
    model = Layered().eval()
    chunks = [PAGE + 4, 1, 1, 2]
    x = torch.randn(2, sum(chunks), HEADS * DEPTH)
    example = rows_of(2)
    example.reserve(2)
    fast = drystone.optimize(model, (x[:, :2], *example.tables()), dtype=dtype, strict=True, tuning="estimate")
    with torch.no_grad():
        result, wanted = generate(fast, x, rows_of(2, dtype), chunks), model(x)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(result, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotary_embedding_is_part_of_it(dtype: torch.dtype) -> None:
    model = Layered().eval()
    chunks = [PAGE + 3, 2, 9]
    x, factors = torch.randn(2, sum(chunks), HEADS * DEPTH), torch.randn(2, 2, 1, sum(chunks), DEPTH)
    example = rows_of(2)
    example.reserve(2)
    fast = drystone.optimize(model, (x[:, :2], *example.tables(), factors[..., :2, :]), dtype=dtype, strict=True, tuning="estimate")
    with torch.no_grad():
        result, wanted = generate(fast, x, rows_of(2, dtype), chunks, factors), model(x, factors=factors)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(result, wanted, atol=tolerance, rtol=tolerance)
    assert "rotary" not in {step.op for step in fast.explain().steps}


def test_the_graph_is_native_and_interpreted_alike() -> None:
    model = Layered().eval()
    x = torch.randn(1, 3, HEADS * DEPTH)
    rows = rows_of(1)
    rows.reserve(3)
    graph = build(capture(model, (x, *rows.tables()), {}))
    graph.check()
    found = [node for node in graph if isinstance(node.op, CachedAttention)]
    assert [node.op.layer for node in found] == [0, 1] and not any(isinstance(node.op, Aten) for node in graph)
    (result,) = run(graph, [x, *rows.tables()], torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(result, model.double()(x.double()), atol=1e-5, rtol=1e-5)


def test_errors_reach_the_caller() -> None:
    model = Layered().eval()
    x = torch.randn(1, 1, HEADS * DEPTH)
    rows = rows_of(1)
    rows.reserve(1)
    pages, lengths = rows.tables()
    fast = drystone.optimize(model, (x, pages, lengths), tuning="estimate")
    wanted = fast(x, pages, lengths)
    for wrong in (torch.zeros_like(pages), pages + 64):
        with pytest.raises(InputError, match="the table of a cache's pages"):
            fast(x, wrong, lengths)
    with pytest.raises(InputError, match="beyond the 4 pages"):
        fast(x, pages, lengths + 4 * PAGE)
    assert torch.equal(fast(x, pages, lengths), wanted)


def test_several_threads_have_caches_of_their_own() -> None:
    model = Layered().eval()
    x = torch.randn(4, 1, 40, HEADS * DEPTH)
    example = rows_of(1)
    example.reserve(1)
    fast = drystone.optimize(model, (x[0, :, :1], *example.tables()), tuning="estimate")
    memory = Pages([Layer(KEY_HEADS, DEPTH, DEPTH)] * LAYERS, 4 * PAGE)
    results: dict[int, Tensor] = {}

    def work(index: int) -> None:
        with torch.no_grad():
            results[index] = generate(fast, x[index], Rows([Sequence(memory)]), [1] * 40)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for index in range(4):
            torch.testing.assert_close(results[index], model(x[index]), atol=1e-4, rtol=1e-4)
