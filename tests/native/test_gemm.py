"""The packed GEMM against float64: small integers exactly, random numbers within the project's bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layout import dense, instruction, integers, normal, run, strided

from agreement import assert_as_exact, assert_same_specials, relative_error
from drystone import native
from drystone.graph.graph import Node, Value, constant, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Linear
from drystone.native import DType, Gemm, PostOp, TensorDesc
from drystone.plan.implementations.gemm import Gemm as Implementation

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

ROWS, STRIP, CHUNK = {"avx2": (6, 16, 16), "amx": (32, 48, 32)}.get(native.isa(), (8, 48, 32))
NAN, INF = float("nan"), float("inf")

# (dtype of x, dtype of the weights, whether bfloat16 is widened rather than multiplied in pairs)
KINDS = {
    "float32": (torch.float32, torch.float32, False),
    "bfloat16": (torch.bfloat16, torch.bfloat16, False),
    "widened": (torch.bfloat16, torch.bfloat16, True),
    "narrow": (torch.float32, torch.bfloat16, True),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def packed(step: Gemm, weight: torch.Tensor) -> torch.Tensor:
    memory = torch.full((step.packed_bytes,), 0xFF, dtype=torch.uint8)  # NaN in both dtypes
    step.pack(native.DTYPES[weight.dtype], weight.data_ptr(), memory.data_ptr())
    unwritten = memory.view(weight.dtype).isnan().any() and not weight.isnan().any()
    assert not unwritten, "pack left a part of the weights unwritten"
    return memory


def rows_of(matrix: torch.Tensor) -> TensorDesc:
    return strided(tuple(matrix.shape), (matrix.stride(0), 1), "plain", matrix.dtype)


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    kind: str = "float32",
    out: torch.Tensor | None = None,
    ops: list[PostOp] | None = None,
    operands: list[torch.Tensor] | None = None,
    threads: int = 2,
) -> torch.Tensor:
    """``out`` is the memory of the result; float32 of its own if None."""
    if out is None:
        out = torch.full((len(x), len(weight)), NAN)
    native.set_threads(threads)
    step = Gemm(rows_of(x), len(weight), bias is not None, rows_of(out), ops or [], KINDS[kind][2])
    native.set_threads(2)
    run(step, x, packed(step, weight), *([] if bias is None else [bias]), out, *(operands or []), threads=threads)
    return out


def expected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


def check_exact(m: int, n: int, k: int, kind: str, threads: int = 2) -> None:
    dtype, stored, _ = KINDS[kind]
    x, weight, bias = integers(m, k, dtype=dtype), integers(n, k, dtype=stored, seed=1), integers(n, seed=2)
    assert torch.equal(product(x, weight, bias, kind=kind, threads=threads).double(), expected(x, weight, bias)), (m, n, k)


@kinds
def test_every_number_of_rows(kind: str) -> None:
    for m in range(2 * ROWS + 2):
        check_exact(m, STRIP + 5, 70, kind)


@kinds
def test_every_number_of_columns(kind: str) -> None:
    for n in range(1, 2 * STRIP + 2):
        check_exact(ROWS + 1, n, 37, kind)


@kinds
def test_every_depth(kind: str) -> None:
    for k in range(1, 2 * CHUNK + 3):
        check_exact(ROWS + 3, STRIP + 1, k, kind)
        check_exact(1, 3, k, kind)


@kinds
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        (1, 20, 9000),  # cut along k
        (30, 20, 4097),  # blocks of k
        (5, 1000, 300),  # columns
        (700, 30, 200),  # rows, and blocks of them
        (150, 400, 2100),  # sums kept between blocks of k
        (70, 3000, 1700),  # and for some of the strips
        (65, 50, 6500),  # the same where a block of k is longer
        (300, 500, 1605),
        (500, 60, 1605),  # and the rows are more than fit
        (200, 77, 13),
    ],
)
def test_every_way_to_cut_the_work(m: int, n: int, k: int, threads: int, kind: str) -> None:
    check_exact(m, n, k, kind, threads)


@kinds
def test_fewer_threads_than_planned(kind: str) -> None:
    dtype, stored, _ = KINDS[kind]
    for m, n, k in ((1, 20, 9000), (40, 300, 500)):
        x, weight = normal(m, k, dtype=dtype), normal(n, k, dtype=stored, seed=1)
        step = Gemm(rows_of(x), n, False, dense((m, n), "plain"), [], KINDS[kind][2])
        memory, results = packed(step, weight), [torch.empty(m, n) for _ in range(2)]
        for threads, result in zip((2, 1), results, strict=True):
            run(step, x, memory, result, threads=threads)
        assert torch.equal(*results), "the result depends on how many threads share the parts"


@pytest.mark.parametrize("m", [0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 100])
def test_remainders_of_rows_and_columns_and_depth(m: int) -> None:
    """Around what AMX tiles hold: 16 rows, 16 columns, 32 k."""
    for n in (1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 96, 97):
        for k in (1, 2, 31, 32, 33, 63, 64, 65):
            check_exact(m, n, k, "bfloat16")


@kinds
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_parts_of_wider_matrices(out_dtype: torch.dtype, kind: str) -> None:
    """Rows lie apart and at odd addresses; NaN between them is not read, and nothing beside the results is written."""
    dtype, stored, _ = KINDS[kind]
    for m, n, k, offset in ((ROWS + 3, STRIP + 7, 45, 1), (3, 5, 3, 3), (1, STRIP, 2 * CHUNK, 5)):
        x, weight = integers(m, k, dtype=dtype), integers(n, k, dtype=stored, seed=1)
        wide = torch.full((m, k + 9), NAN, dtype=dtype)
        wide[:, offset : offset + k] = x
        target = torch.full((m, n + 11), 5.0, dtype=out_dtype)
        product(wide[:, offset : offset + k], weight, kind=kind, out=target[:, offset : offset + n])
        assert torch.equal(target[:, offset : offset + n], expected(x, weight).to(out_dtype))
        target[:, offset : offset + n] = 5
        assert (target == 5).all()


@kinds
def test_nothing_is_read_beyond_the_rows(kind: str) -> None:
    """x is followed by NaN, which a padded depth would multiply."""
    dtype, stored, _ = KINDS[kind]
    for k in (1, 15, 17, 33):
        memory = torch.full((3 * k + 64,), NAN, dtype=dtype)
        x = memory[: 3 * k].view(3, k)
        x.copy_(integers(3, k))
        weight = integers(7, k, dtype=stored, seed=1)
        assert torch.equal(product(x, weight, kind=kind).double(), expected(x, weight))


@kinds
@pytest.mark.parametrize(("m", "n", "k"), [(1, 512, 4096), (33, 200, 768), (128, 64, 3072)])
def test_accuracy(m: int, n: int, k: int, kind: str) -> None:
    dtype, stored, _ = KINDS[kind]
    x, weight, bias = normal(m, k, dtype=dtype), normal(n, k, dtype=stored, seed=1), normal(n, seed=2)
    want = expected(x, weight, bias)
    assert_as_exact(product(x, weight, bias, kind=kind), want, F.linear(x.float(), weight.float(), bias))


def test_a_bias_far_above_the_products_costs_no_digits() -> None:
    x, weight, bias = normal(1, 768), 1e-3 * normal(100, 768, seed=1), normal(100, seed=2)
    assert_as_exact(product(x, weight, bias), expected(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize("kind", ["bfloat16", "widened"])
def test_bfloat16_results_are_rounded_once(kind: str) -> None:
    x, weight = normal(20, 300, dtype=torch.bfloat16), normal(60, 300, dtype=torch.bfloat16, seed=1)
    got = product(x, weight, kind=kind, out=torch.empty(20, 60, dtype=torch.bfloat16))
    assert torch.equal(got, product(x, weight, kind=kind).bfloat16())


@kinds
def test_the_same_result_each_time(kind: str) -> None:
    dtype, stored, _ = KINDS[kind]
    for m, n, k in ((1, 30, 9000), (40, 300, 1700)):
        x, weight = normal(m, k, dtype=dtype), normal(n, k, dtype=stored, seed=1)
        first = product(x, weight, kind=kind)
        for _ in range(5):
            assert torch.equal(first, product(x, weight, kind=kind))


@kinds
@pytest.mark.parametrize("values", [[NAN], [INF], [-INF], [INF, -INF], [INF, NAN]], ids=str)
def test_nan_and_infinities(values: list[float], kind: str) -> None:
    dtype, stored, _ = KINDS[kind]
    for k in (33, 2000):
        x, weight = normal(ROWS + 2, k, dtype=dtype), normal(STRIP + 3, k, dtype=stored, seed=1)
        weight[3] = 0  # infinity times zero
        for i, value in enumerate(values):
            x[2, k - 1 - 2 * i] = value
        weight[5, 7] = values[-1]
        got, want = product(x, weight, kind=kind), expected(x, weight)
        finite = assert_same_specials(got, want)
        assert relative_error(got[finite], want[finite]) <= 1e-5


@kinds
def test_denormals(kind: str) -> None:
    """What they contribute is at most lost, and only in pairs of bfloat16."""
    dtype, stored, _ = KINDS[kind]
    x, weight = torch.full((3, 64), 1e-39).to(dtype), integers(5, 64, dtype=stored, seed=1)
    got, want = product(x, weight, kind=kind).double(), expected(x, weight)
    loses = kind == "bfloat16" and native.multiplies_bfloat16()
    if loses:
        assert ((got == 0) | ((got - want).abs() <= 1e-42)).all()
    else:
        assert ((got - want).abs() <= 1e-42).all()


BIG = 3e38


@kinds
def test_sums_that_overflow(kind: str) -> None:
    dtype, stored, _ = KINDS[kind]
    x, weight = torch.full((2, 8), BIG).to(dtype), torch.ones(3, 8).to(stored)
    weight[1] = -1
    assert product(x, weight, kind=kind).tolist() == [[INF, -INF, INF]] * 2


UNARY: dict[str, PostOp] = {
    kind: (kind, alpha, beta, None)
    for kind, alpha, beta in [
        *((kind, 0.0, 0.0) for kind in ("relu", "gelu_erf", "gelu_tanh", "silu", "mish", "tanh", "sigmoid", "hardswish")),
        *((kind, 0.0, 0.0) for kind in ("hardsigmoid", "exp", "abs", "square", "neg", "sin", "round")),
        ("leaky_relu", 0.25, 0.0),
        ("elu", 0.5, 0.0),
        ("clamp", -1.0, 2.0),
        ("affine", 2.0, 3.0),
    ]
}


TORCH = {kind: instruction(kind, alpha, beta) for kind, (_, alpha, beta, _) in UNARY.items()}


@kinds
@pytest.mark.parametrize("op", UNARY)
def test_activations(op: str, kind: str) -> None:
    dtype, stored, _ = KINDS[kind]
    # Sixteenths: sums are exact, so that rounding has no ties to fall on either side of.
    x, weight = integers(ROWS + 2, 40, dtype=dtype) / 8, integers(STRIP + 3, 40, dtype=stored, seed=1) / 8
    got, want = product(x, weight, kind=kind, ops=[UNARY[op]]), TORCH[op](expected(x, weight))
    assert relative_error(got, want) <= 1e-6


BINARY = {kind: instruction(kind) for kind in ("add", "sub", "mul", "div", "maximum", "minimum")}


@kinds
@pytest.mark.parametrize("operand_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", BINARY)
def test_operands(op: str, operand_dtype: torch.dtype, kind: str) -> None:
    dtype, stored, _ = KINDS[kind]
    m, n = ROWS + 2, 2 * STRIP + 3
    x, weight, bias = integers(m, 40, dtype=dtype), integers(n, 40, dtype=stored, seed=1), integers(n, seed=2)
    for shape in ((m, n), (1, n), (1, 1)):
        operand = integers(*shape, dtype=operand_dtype, seed=3).abs() + 1
        got = product(x, weight, bias, kind=kind, ops=[(op, 0.0, 0.0, rows_of(operand))], operands=[operand])
        assert relative_error(got, BINARY[op](expected(x, weight, bias), operand.double())) <= 1e-7


@kinds
@pytest.mark.parametrize(("m", "n", "k"), [(ROWS + 2, STRIP + 3, 40), (1, 30, 9000), (100, 100, 2000)])
def test_chains(m: int, n: int, k: int, kind: str) -> None:
    """A gated residual: what the output held is added, then multiplied by another operand; wherever the work is cut."""
    dtype, stored, _ = KINDS[kind]
    x, weight, bias = integers(m, k, dtype=dtype), integers(n, k, dtype=stored, seed=1), integers(n, seed=2)
    held, gate = integers(m, n, seed=3), integers(m, n, dtype=dtype, seed=4)
    ops: list[PostOp] = [("relu", 0.0, 0.0, None), ("sum", 0.0, 0.0, None), ("mul", 0.0, 0.0, rows_of(gate))]
    got = product(x, weight, bias, kind=kind, out=held.clone(), ops=ops, operands=[gate])
    assert torch.equal(got.double(), (F.relu(expected(x, weight, bias)) + held) * gate)


def test_packed_weights_do_not_depend_on_the_rows() -> None:
    steps = [Gemm(dense((m, 64), "plain"), 100, False, dense((m, 100), "plain"), []) for m in (1, 7, 128, 4096)]
    assert len({step.packed_key for step in steps}) == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"x": ((4, 8), (8, 1), DType.s32)}, "f32 and bf16"),
        ({"output": ((4, 16), (16, 1), DType.s8)}, "f32 and bf16"),
        ({"x": ((4, 8, 2), (16, 2, 1), DType.f32)}, "no plain matrix"),
        ({"x": ((4, 8), (1, 4), DType.f32)}, "contiguous"),
        ({"x": ((4, 8), (5, 1), DType.f32)}, "overlap"),
        ({"n": 17}, "not \\(M, N\\)"),
        ({"n": 0}, "empty"),
        ({"x": ((4, 0), (1, 1), DType.f32)}, "empty"),
        ({"op": ("swirl", None)}, "swirl"),
        ({"op": ("add", None)}, "operands"),
        ({"op": ("add", (2, 16))}, "broadcast"),
        ({"ops": 9}, "eight"),
    ],
)
def test_refusals(changed: dict[str, Any], reason: str) -> None:
    matrix = ((4, 8), (8, 1), DType.f32), ((4, 16), (16, 1), DType.f32)
    x, output = (
        strided(shape, strides, "plain", dtype)
        for shape, strides, dtype in (changed.get("x", matrix[0]), changed.get("output", matrix[1]))
    )
    kind, operand = changed.get("op", ("relu", None))
    op: PostOp = (kind, 0.0, 0.0, operand and dense(operand, "plain"))
    with pytest.raises(ValueError, match=reason):
        Gemm(x, changed.get("n", 16), False, output, [op] * changed.get("ops", 1))


def test_weights_of_another_dtype_are_not_packed() -> None:
    step = Gemm(dense((4, 8), "plain"), 16, False, dense((4, 16), "plain"), [])
    with pytest.raises(ValueError, match="dtype"):
        step.pack(DType.bf16, 0, 0)


def linear_node(dtype: torch.dtype = torch.float32, weight_dtype: torch.dtype = torch.float32) -> Node:
    x = Value((2, 5, 64), dtype)
    return make_node(Linear(has_bias=False), [x, constant(torch.zeros(32, 64, dtype=weight_dtype))])


def test_implementation_refuses() -> None:
    assert Implementation().refuses(linear_node()) is None
    assert Implementation().refuses(linear_node(torch.bfloat16, torch.bfloat16)) is None
    mixed = Implementation().refuses(linear_node(torch.bfloat16))
    assert mixed is not None and "one dtype" in mixed
    assert Implementation(narrow=True).refuses(linear_node(torch.float32, torch.bfloat16)) is None
    for dtype in (torch.float32, torch.bfloat16):
        assert Implementation(narrow=True).refuses(linear_node(dtype, dtype)) is not None
    integral = Implementation().refuses(linear_node(torch.int32, torch.int32))
    assert integral is not None and "no native kernel" in integral
    node = linear_node()
    node.epilogue = [PointwiseOp("relu", (("in", 0),))] * 9
    long = Implementation().refuses(node)
    assert long is not None and "8 instructions" in long
