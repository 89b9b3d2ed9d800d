"""Rows of tables of 128 columns, read at random: gathered, added up in bags, and the gradient of the table.

100 000 rows are read of tables that fit the caches, and that do not. Results are new each time: with ``drystone.enable()`` in pages
that earlier ones left, without it in those that the C library gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from ...bench.workload import DTYPES
from ..case import Case, Contest
from ..probe import AtSize, Probe, Probed

ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
WIDTH, READ = 128, 100_000
BAG = 50  # rows
INDEX_BYTES = 8
TABLES = 6  # of the size of the one: contenders' results, the exact one in float64, and room
MODES = ("sum", "mean", "max")


def embedding_cases(dtype: str) -> Iterator[Case]:
    """Rows gathered, from every table that there is memory for; and its gradient."""
    row_bytes = WIDTH * DTYPES[dtype].itemsize
    for rows in _rows(dtype, 2):
        yield _case("embedding", "rows", dtype, rows, READ * (2 * row_bytes + INDEX_BYTES), gathered)
    for rows in _rows(dtype, TABLES):
        yield _case("embedding", "gradient", dtype, rows, (READ + rows) * row_bytes + READ * INDEX_BYTES, gradient)


def embedding_bag_cases(dtype: str) -> Iterator[Case]:
    """Every table that there is memory for, in each of the three ways; and the gradient of sums as rows and their indices."""
    size = (READ + READ // BAG) * WIDTH * DTYPES[dtype].itemsize + READ * INDEX_BYTES
    for rows in _rows(dtype, 2):
        for mode in MODES:
            yield _case("embedding_bag", mode, dtype, rows, size, partial(bags, mode))
        yield _case("embedding_bag", "sparse gradient", dtype, rows, size + 2 * READ * INDEX_BYTES, sparse_gradient)


def _rows(dtype: str, tables: int) -> list[int]:
    table = WIDTH * DTYPES[dtype].itemsize * tables
    return [rows for rows in ROWS if rows * table < psutil.virtual_memory().available]


def _case(operator: str, tag: str, dtype: str, rows: int, size: int, make: Callable[[int, torch.dtype], Contest]) -> Case:
    return Case(
        operator=operator,
        tag=tag,
        dtype=dtype,
        sizes={"rows": rows, "read": READ, "as": tag},
        axis="rows",
        group=tag,
        flops=READ * WIDTH,
        bytes=size,
        copies=1,
        make=lambda: make(rows, DTYPES[dtype]),
    )


def _operands(rows: int, dtype: torch.dtype, table: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Small integers, whose sums are exact in every order; and the indices."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-2, 3, (table, WIDTH), generator=generator, dtype=torch.int8).to(dtype)
    return values, torch.randint(0, rows, (READ,), generator=generator)


def gathered(rows: int, dtype: torch.dtype) -> Contest:
    weight, which = _operands(rows, dtype, rows)
    return Contest.enabled_or_not(lambda: lambda _: F.embedding(which, weight), lambda: weight[which].double())


def bags(mode: str, rows: int, dtype: torch.dtype) -> Contest:
    weight, which = _operands(rows, dtype, rows)
    in_bags = which.view(-1, BAG)

    def exact() -> torch.Tensor:
        rows_of_bags = weight[in_bags].double()
        if mode == "max":
            return rows_of_bags.amax(1)
        return rows_of_bags.sum(1) if mode == "sum" else rows_of_bags.mean(1)

    return Contest.enabled_or_not(lambda: lambda _: F.embedding_bag(in_bags, weight, mode=mode), exact)


def gradient(rows: int, dtype: torch.dtype) -> Contest:
    given, which = _operands(rows, dtype, READ)

    def call(_: int) -> torch.Tensor:
        return torch.ops.aten.embedding_dense_backward(given, which, rows, -1, False)

    return Contest.enabled_or_not(
        lambda: call, lambda: torch.zeros(rows, WIDTH, dtype=torch.float64).index_add_(0, which, given.double())
    )


def sparse_gradient(rows: int, dtype: torch.dtype) -> Contest:
    """The rows of the gradient, one for each index, in a tensor of their own."""
    given, which = _operands(rows, dtype, READ // BAG)
    bag_of = torch.arange(READ // BAG).repeat_interleave(BAG)
    offsets = torch.arange(0, READ, BAG)
    sizes = torch.full((READ // BAG,), BAG)

    def call(_: int) -> torch.Tensor:
        arguments = given, which, offsets, bag_of, sizes, sizes, rows, False, MODES.index("sum"), True, None
        return torch.ops.aten._embedding_bag_backward(*arguments)._values()

    return Contest.enabled_or_not(lambda: call, lambda: given[bag_of].double())


def _indices(count: int, of: int) -> Tensor:
    return torch.randint(0, of, (count,), generator=torch.Generator().manual_seed(0))


def _looked_up(width: int) -> AtSize:
    def make(size: int) -> Probed:
        table, rows = torch.randn(1000, width), _indices(size // (4 * width), 1000)
        return lambda: F.embedding(rows, table)

    return make


def _selected(size: int) -> Probed:
    table, rows = torch.randn(1000, 64), _indices(size // 256, 1000)
    return lambda: torch.index_select(table, 0, rows)


def _embedding_gradient(size: int) -> Probed:
    count = size // 128
    gradient, rows = torch.randn(count, 16), _indices(count, count)
    return lambda: torch.ops.aten.embedding_dense_backward(gradient, rows, count, -1, False)


def _bags(mode: str) -> AtSize:
    def make(size: int) -> Probed:
        count = size // 256
        table, rows, offsets = torch.randn(1000, 64), _indices(count, 1000), torch.arange(0, count, 8)
        padding = 1 if mode == "sum" else None
        return lambda: F.embedding_bag(rows, table, offsets, mode=mode, padding_idx=padding)

    return make


def _bags_gradient(size: int) -> Probed:
    count = size // 128
    table, rows, offsets = torch.randn(count, 16), _indices(count, count), torch.arange(0, count, 8)
    result, *places = torch.ops.aten._embedding_bag(table, rows, offsets, False, 1)
    gradient = torch.randn_like(result)
    return lambda: torch.ops.aten._embedding_bag_dense_backward(gradient, rows, *places, count, False, 1, None)


OPERATORS = {"embedding": embedding_cases, "embedding_bag": embedding_bag_cases}
PROBES = (
    Probe("embedding_bytes", ("embedding",), {f"rows of {width}": _looked_up(width) for width in (64, 256)}, 1024),
    Probe("embedding_gradient_bytes", ("embedding",), {"rows of 16": _embedding_gradient}, 128),
    Probe("embedding_bag_bytes", ("embedding_bag",), {mode: _bags(mode) for mode in ("sum", "mean", "max")}, 256),
    Probe("embedding_bag_gradient_bytes", ("embedding_bag",), {"mean": _bags_gradient}, 128),
    Probe("index_select_bytes", ("index_select",), {"rows of 64": _selected}, 256),
    Probe("shared_bytes", ("embedding",), {"rows of 64": _looked_up(64)}, 256),
    Probe("streamed_bytes", ("embedding",), {"rows of 64": _looked_up(64)}, 256),
)
