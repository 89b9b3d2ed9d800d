"""oneDNN's post-ops give what torch gives up to post_op_limit, in every kernel; and for all numbers where a step runs exact.

The product is 0 and its bias the number: weights and x are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from layout import blank, dense, instruction, read

from drystone import native
from drystone.native import Product, TensorDesc

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

NAN, INF = math.nan, math.inf
NUMBERS = [0.0, -0.0, 1e-30, 1.0, -1.0, 2.5, -2.5, 5.9, 7.0, -3.0, 3.0, 20.0, -20.0, 88.0, -88.0, 89.0, -100.0]
NUMBERS += [1e4, -1e4, 1e20, 1e37, -1e37]
CHANNELS = 48
SPECIAL = torch.tensor([*NUMBERS, NAN, INF, -INF, 3.4e38, -3.4e38] + [0.5] * 21)

UNARY = {
    kind: (kind, 0.0, 0.0) for kind in ("relu", "gelu_erf", "gelu_tanh", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid")
}
UNARY |= {kind: (kind, 0.0, 0.0) for kind in ("tanh", "exp", "log", "sqrt", "abs", "neg", "square", "sign", "round")}
UNARY |= {
    "leaky_relu": ("leaky_relu", 0.1, 0.0),
    "elu": ("elu", 1.0, 0.0),
    "clamp": ("clamp", 0.0, 6.0),
    "clamp from below": ("clamp", 0.5, INF),
    "clamp from above": ("clamp", -INF, 6.0),
    "affine": ("affine", 2.0, 1.0),
    "pow": ("pow", 3.0, 0.0),
}
BINARY = {kind: instruction("add" if kind == "sum" else kind) for kind in ("add", "sub", "mul", "div", "maximum", "minimum", "sum")}
BLOCKED = native.blocked().name


def products(post_ops: Callable[[TensorDesc], list[native.PostOp]]) -> Iterator[tuple[Product, TensorDesc, TensorDesc]]:
    """Steps of as many of oneDNN's kernels as there are, with their x and output."""
    for channels, weights, groups in (
        (32, (CHANNELS, 32, 1, 1), 1),
        (32, (CHANNELS, 32, 3, 3), 1),
        (48, (CHANNELS, 1, 3, 3), 48),
        (3, (CHANNELS, 3, 3, 3), 1),
    ):
        pad = weights[2] // 2
        for format in ("plain", "channels_last", BLOCKED):
            x = dense((1, channels, 4, 4), format if channels > 3 or format != BLOCKED else "plain")
            output = dense((1, CHANNELS, 4, 4), format)
            yield (
                native.Convolution(x, weights, True, output, [1, 1], [pad, pad], [pad, pad], [1, 1], groups, post_ops(output)),
                x,
                output,
            )
    for inner_product in (False, True):
        for rows in (1, 16):
            x, output = dense((rows, 32), "plain"), dense((rows, CHANNELS), "plain")
            yield native.Linear(inner_product, x, CHANNELS, True, output, post_ops(output)), x, output


def apply(step: Product, x: TensorDesc, output: TensorDesc, operand: float, kind: str, exact: bool) -> torch.Tensor:
    """What the step makes of ``SPECIAL``, one number a channel."""
    zeros, packed, to = (
        torch.zeros_like(blank(x)),
        torch.zeros(step.packed_bytes, dtype=torch.uint8),
        torch.full_like(blank(output), operand),
    )
    others = [torch.full_like(to, operand)] if kind in BINARY and kind != "sum" else []
    slots = [zeros, packed, SPECIAL, to, *others]
    program = native.Program()
    program.add(step, list(range(len(slots))), exact)
    scratchpad = torch.empty(max(program.scratchpad_bytes, 1), dtype=torch.uint8)
    native.Frame(program, [slot.data_ptr() for slot in slots], [], scratchpad.data_ptr(), 2).run(0, 1)
    made = read(output, to)
    return made[0, :, 1, 2] if made.dim() == 4 else made[-1]


def agree(got: torch.Tensor, want: torch.Tensor, which: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(got[which], want[which], rtol=3e-4, atol=1e-6, equal_nan=True, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    kind, alpha, beta = UNARY[name]
    # In float32 gelu(inf) is NaN on some CPUs.
    want = instruction(kind, alpha, beta)(SPECIAL.double() if kind == "gelu_erf" else SPECIAL).float()
    limit = native.post_op_limit(kind, alpha)
    seen = set()
    for step, x, output in products(lambda _: [(kind, alpha, beta, None)]):
        usual = SPECIAL.abs() <= limit if 0 < limit < INF else torch.ones_like(SPECIAL).bool()
        assert step.has_exact_run == (0 < limit < INF)
        agree(apply(step, x, output, 0.0, kind, False), want, usual, step.implementation)
        agree(apply(step, x, output, 0.0, kind, True), want, torch.ones_like(usual), f"{step.implementation}, exact")
        seen.add(step.implementation)
    assert len(seen) >= 3


@pytest.mark.parametrize("operand", [1.5, NAN, INF, -INF])
@pytest.mark.parametrize("kind", BINARY)
def test_binary(kind: str, operand: float) -> None:
    limit = INF if kind == "sum" else native.post_op_limit(kind, 0.0)
    want = BINARY[kind](SPECIAL, torch.tensor(operand))
    for step, x, output in products(lambda output: [(kind, 0.0, 0.0, None if kind == "sum" else output)]):
        agree(
            apply(step, x, output, operand, kind, False),
            want,
            (SPECIAL.abs() <= limit) | torch.tensor(limit == INF),
            step.implementation,
        )
        agree(apply(step, x, output, operand, kind, True), want, torch.ones_like(want).bool(), f"{step.implementation}, exact")


def test_the_rest_of_a_chain() -> None:
    """What stands before the first instruction that is not exact stays with the product; operands follow in both parts."""

    def chain(output: TensorDesc) -> list[native.PostOp]:
        return [("sum", 0.0, 0.0, None), ("mul", 0.0, 0.0, output), ("relu", 0.0, 0.0, None), ("add", 0.0, 0.0, output)]

    for step, x, output in products(chain):
        to, packed = torch.full_like(blank(output), 2.0), torch.zeros(step.packed_bytes, dtype=torch.uint8)
        by, plus = torch.full_like(to, -1.5), torch.full_like(to, 10.0)
        slots = [torch.zeros_like(blank(x)), packed, SPECIAL, to, by, plus]
        want = F.relu((SPECIAL + 2) * -1.5) + 10
        for exact in (False, True):
            to.fill_(2.0)
            program = native.Program()
            program.add(step, list(range(6)), exact)
            scratchpad = torch.empty(max(program.scratchpad_bytes, 1), dtype=torch.uint8)
            native.Frame(program, [slot.data_ptr() for slot in slots], [], scratchpad.data_ptr(), 2).run(0, 1)
            made = read(output, to)
            got = made[0, :, 1, 2] if made.dim() == 4 else made[-1]
            agree(got, want, SPECIAL.abs() < 1e37 if not exact else torch.ones_like(want).bool(), step.implementation)


def test_nothing_is_added_in_place_after_a_second_pass() -> None:
    with pytest.raises(ValueError, match="only before"):
        list(products(lambda _: [("relu", 0.0, 0.0, None), ("sum", 0.0, 0.0, None)]))
