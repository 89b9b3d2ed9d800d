"""mm of a few rows under torch's name: every remainder of the tiles, both ways in which a matrix lies, and what goes to torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import assert_same_specials

DEPTH, COLUMNS = 128, 1040  # large enough for a row to be served


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    drystone.enable(only=["mm"])
    yield
    drystone.disable()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def matrix(depth: int, columns: int, transposed: bool, gap: int = 0) -> torch.Tensor:
    return random(columns, depth + gap)[:, :depth].t() if transposed else random(depth, columns + gap)[:, :columns]


def assert_close(got: torch.Tensor, x: torch.Tensor, weights: torch.Tensor) -> None:
    """Within what float32 sums of so many products may be off in any order."""
    exact, size = x.double() @ weights.double(), x.double().abs() @ weights.double().abs()
    assert got.dtype == torch.float32 and got.shape == exact.shape and got.is_contiguous()
    assert ((got.double() - exact).abs() <= 2**-24 * 4 * max(x.shape[1], 1) ** 0.5 * size + 1e-30).all()


def served(x: torch.Tensor, weights: torch.Tensor) -> bool:
    """Whether the kernel of drystone computed it: torch's rounds otherwise."""
    drystone.disable()
    stock = x.mm(weights)
    drystone.enable(only=["mm"])
    return not torch.equal(x.mm(weights), stock)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("rows", [*range(1, 15), 23, 31, 32, 33, 47, 63, 64, 65])
def test_rows(rows: int, transposed: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    x, weights = random(rows, DEPTH), matrix(DEPTH, COLUMNS, transposed)
    assert_close(x.mm(weights), x, weights)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("depth", [*range(128, 162), 1000, 3001])
def test_depths(depth: int, transposed: bool) -> None:
    for rows in (2, 7):
        x, weights = random(rows, depth), matrix(depth, 133, transposed)
        assert served(x, weights)
        assert_close(x.mm(weights), x, weights)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("columns", [*range(128, 162), 1000, 5003, 20001])
def test_columns(columns: int, transposed: bool) -> None:
    for rows in (3, 64):
        x, weights = random(rows, 131), matrix(131, columns, transposed)
        assert_close(x.mm(weights), x, weights)


@pytest.mark.parametrize("transposed", [True, False])
def test_rows_apart(transposed: bool) -> None:
    x, weights = random(5, DEPTH + 3)[:, 1:-2], matrix(DEPTH, COLUMNS, transposed, gap=5)
    assert served(x, weights)
    assert_close(x.mm(weights), x, weights)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity(bad: float, transposed: bool) -> None:
    x, weights = random(9, DEPTH + 5), matrix(DEPTH + 5, 1000, transposed).clone(memory_format=torch.preserve_format)
    x[3, 2], weights[-1, 998] = bad, bad
    got, want = x.mm(weights), x.double().mm(weights.double())
    assert_same_specials(got, want)


def test_a_linear_layer_and_its_gradients() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 300, bias=False), random(2, 3, 256).requires_grad_()
    results = []
    for names in (["mm"], []):
        drystone.enable(only=names)
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, layer.weight.grad))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-4)
    assert not torch.equal(results[0][0], results[1][0])


def test_autocast_and_compile() -> None:
    x, weights = random(4, DEPTH), random(COLUMNS, DEPTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.linear(x, weights).dtype == torch.bfloat16
    compiled = torch.compile(lambda a, b: a.mm(b.t()), backend="aot_eager")
    assert_close(compiled(x, weights), x, weights.t())
