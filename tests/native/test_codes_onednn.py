"""oneDNN's convolutions and linear layers on codes: the nearest code to what int64 sums give, or a reason against it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from codes import S8, U8, Affine, codes, float32
from layout import dense, outcome, place, run

from agreement import relative_error
from drystone import native
from drystone.native import Convolution, DType, Linear, PostOp, TensorDesc

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

VNNI = not {"avx512_vnni", "avx_vnni"}.isdisjoint(native.features())
X = [Affine(U8, float32(0.02), 0), Affine(U8, float32(0.02), 128), Affine(S8, float32(0.02), 0), Affine(S8, float32(0.02), 127)]
served = [x for x in X if VNNI or x.dtype == U8]
Target = Affine | torch.dtype
TARGETS: list[Target] = [Affine(U8, float32(0.37), 100), Affine(S8, float32(0.5), -128), torch.float32]


def weights(*shape: int, bits: int, seed: int = 1) -> torch.Tensor:
    """Of so many bits, with many at the ends."""
    high = 2 ** (bits - 1)
    return (codes(*shape, dtype=S8, seed=seed).int() * high // 128).clamp(-high, high - (bits == 8)).to(S8)


def described(shape: tuple[int, ...] | torch.Size, target: Target, format: str) -> TensorDesc:
    return target.desc(shape, format) if isinstance(target, Affine) else dense(shape, format, target)


def check(got: torch.Tensor, want: torch.Tensor, target: Target) -> None:
    if isinstance(target, Affine):
        target.assert_codes(got, want)
    else:
        assert relative_error(got, want) <= 1e-6


class Case:
    """A convolution of codes, all in float64 beside the step's operands."""

    def __init__(
        self, x: Affine, target: Target, shape: tuple[int, ...], weight: tuple[int, ...], bits: int, **fields: Any
    ) -> None:
        self.x, self.target, self.fields = x, target, {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | fields
        self.codes, self.weight = codes(*shape, dtype=x.dtype), weights(*weight, bits=bits)
        self.bits = bits
        self.scales = torch.rand(weight[0], generator=torch.Generator().manual_seed(2)) * 0.01 + 0.001
        sums = F.conv2d(self.codes.double() - x.zero_point, self.weight.double(), None, **self.fields)
        self.bias = torch.linspace(-9, 9, weight[0])
        self.real = sums * x.scale * self.scales.double()[:, None, None] + self.bias.double()[:, None, None]
        self.output = described(self.real.shape, target, "channels_last")

    def step(self, ops: list[PostOp]) -> Convolution:
        f, source = self.fields, self.x.desc(self.codes.shape, "channels_last")
        pads, strides, dilations = [f["padding"]] * 2, [f["stride"]] * 2, [f["dilation"]] * 2
        shape, scales, fit = list(self.weight.shape), self.scales.tolist(), self.bits == 7
        return Convolution(source, shape, True, self.output, strides, pads, pads, dilations, f["groups"], ops, False, scales, fit)

    def operands(self, step: Convolution | Linear) -> list[torch.Tensor]:
        packed = torch.zeros(step.packed_bytes, dtype=torch.uint8)
        step.pack(DType.s8, self.weight.data_ptr(), packed.data_ptr())
        return [place(self.codes, self.x.desc(self.codes.shape, "channels_last")), packed, self.bias]


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, int]]] = {
    "3x3": ((1, 64, 9, 9), (64, 64, 3, 3), {"padding": 1}),
    "1x1": ((2, 32, 9, 9), (48, 32, 1, 1), {}),
    "image": ((1, 3, 20, 20), (32, 3, 7, 7), {"stride": 2, "padding": 3}),
    "depthwise": ((1, 32, 9, 9), (32, 1, 3, 3), {"padding": 1, "groups": 32}),
    "uneven": ((1, 20, 7, 7), (17, 20, 3, 3), {"stride": 2, "dilation": 2}),
    "groups": ((1, 32, 7, 7), (64, 8, 3, 3), {"padding": 1, "groups": 4}),
}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("x", served, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str, x: Affine, target: Target) -> None:
    shape, weight, fields = CONVOLUTIONS[name]
    case = Case(x, target, shape, weight, 8 if VNNI else 7, **fields)
    step = case.step([])
    check(outcome(step, case.output, *case.operands(step)), case.real, target)


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("x", X, ids=str)
def test_nothing_saturates(x: Affine, bits: int) -> None:
    """Codes and weights all at their ends, where pairs of products leave 16 bits: exact, or declined."""
    if not VNNI and (bits == 8 or x.dtype == S8):
        with pytest.raises(ValueError, match="saturate"):
            Case(x, torch.float32, (1, 64, 4, 4), (32, 64, 3, 3), bits).step([])
        return
    for high in (True, False):
        case = Case(x, torch.float32, (1, 64, 4, 4), (32, 64, 3, 3), bits)
        case.codes.fill_(255 if x.dtype == U8 else 127 if high else -128)
        case.weight.fill_((63 if bits == 7 else 127) if high else (-64 if bits == 7 else -128))
        step = case.step([])
        got = outcome(step, case.output, *case.operands(step))
        product = (case.codes.flatten()[0].item() - x.zero_point) * case.weight.flatten()[0].item() * 64 * 9
        want = product * x.scale * case.scales.double() + case.bias.double()
        assert relative_error(got, want[:, None, None].expand(got.shape)) <= 1e-6


POST_OPS: dict[str, tuple[str, float, float, Affine | torch.dtype | None]] = {
    "relu": ("relu", 0.0, 0.0, None),
    "clamp": ("clamp", -3.0, 6.0, None),
    "add codes": ("add", 0.0, 0.0, Affine(U8, float32(0.11), 7)),
    "add signed codes": ("add", 0.0, 0.0, Affine(S8, float32(0.11), -7)),
    "subtract codes": ("sub", 0.0, 0.0, Affine(U8, float32(0.11), 7)),
    "multiply by codes": ("mul", 0.0, 0.0, Affine(U8, float32(0.004), 0)),
    "maximum with codes": ("maximum", 0.0, 0.0, Affine(U8, float32(0.11), 7)),
    "add float32": ("add", 0.0, 0.0, torch.float32),
    "multiply by float32": ("mul", 0.0, 0.0, torch.float32),
}
TORCH = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "maximum": torch.maximum}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", POST_OPS)
def test_epilogue(name: str, target: Target) -> None:
    """An instruction, then relu: an operand has a scale and a zero point of its own."""
    kind, alpha, beta, other = POST_OPS[name]
    case = Case(X[1], target, (1, 32, 6, 6), (48, 32, 3, 3), 8 if VNNI else 7, padding=1)
    if other is None:
        ops: list[PostOp] = [(kind, alpha, beta, None)]
        want, operands = (torch.relu(case.real) if kind == "relu" else case.real.clamp(alpha, beta)), []
    else:
        drawn = codes(*case.real.shape, dtype=other.dtype, seed=3) if isinstance(other, Affine) else torch.randn(case.real.shape)
        desc = described(case.real.shape, other, "channels_last")
        ops, operands = [(kind, 0.0, 0.0, desc), ("relu", 0.0, 0.0, None)], [place(drawn, desc)]
        reals = other.reals(drawn) if isinstance(other, Affine) else drawn.double()
        want = torch.relu(TORCH[kind](case.real, reals))
    step = case.step(ops)
    memory = torch.zeros(case.real.numel(), dtype=target.dtype if isinstance(target, Affine) else target)
    run(step, *case.operands(step), memory, *operands)
    n, c, h, w = case.real.shape
    check(memory.view(n, h, w, c).permute(0, 3, 1, 2), want, target)


@pytest.mark.parametrize("held", [None, Affine(U8, float32(0.2), 31)], ids=str)
def test_a_residual_in_place(held: Affine | None) -> None:
    """What the output holds is added, by the output's scale and zero point or by others."""
    target = TARGETS[0]
    assert isinstance(target, Affine)
    case = Case(X[0], target, (1, 64, 6, 6), (64, 64, 3, 3), 8 if VNNI else 7, padding=1)
    step = case.step([("sum", held.scale, float(held.zero_point), None) if held else ("sum", 0.0, 0.0, None)])
    memory = codes(1, 6, 6, 64, dtype=U8, seed=4)
    want = case.real + (held or target).reals(memory.permute(0, 3, 1, 2))
    run(step, *case.operands(step), memory)
    target.assert_codes(memory.permute(0, 3, 1, 2), want)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("x", served, ids=str)
def test_linear(x: Affine, target: Target) -> None:
    """As a matmul: oneDNN's inner product has no zero points."""
    m, k, n = 5, 70, 33
    rows, weight, bias = codes(m, k, dtype=x.dtype), weights(n, k, bits=8 if VNNI else 7), torch.linspace(-3, 3, n)
    scales = torch.linspace(0.001, 0.01, n)
    output = described((m, n), target, "plain")
    step = Linear(False, x.desc((m, k)), n, True, output, [("relu", 0.0, 0.0, None)], scales.tolist(), not VNNI)
    packed = torch.zeros(step.packed_bytes, dtype=torch.uint8)
    step.pack(DType.s8, weight.data_ptr(), packed.data_ptr())
    real = (rows.double() - x.zero_point) @ weight.double().T * x.scale * scales.double() + bias.double()
    check(outcome(step, output, rows, packed, bias), torch.relu(real), target)


def test_weights_are_packed_alike_for_like_codes_alone() -> None:
    """Beside the weights lie sums of theirs, where the codes have a zero point or a sign."""

    def key(x: Affine) -> str:
        return Case(x, torch.float32, (1, 64, 4, 4), (32, 64, 3, 3), 7).step([]).packed_key

    assert key(Affine(U8, 1.0, 3)) == key(Affine(U8, 0.5, 7)) != key(Affine(U8, 1.0, 0))
    if VNNI:
        assert key(Affine(S8, 1.0, 3)) != key(Affine(U8, 1.0, 3))


@pytest.mark.skipif(VNNI, reason="this CPU multiplies 8 bits exactly")
def test_weights_that_do_not_fit_7_bits_are_not_packed_so() -> None:
    case = Case(X[0], torch.float32, (1, 64, 4, 4), (32, 64, 3, 3), 7)
    case.weight[3, 2, 1, 0] = 65
    with pytest.raises(ValueError, match="between -64 and 64"):
        case.operands(case.step([]))


def test_refusals() -> None:
    x = X[0].desc((1, 8, 4, 4), "channels_last")
    one, to = [1, 1], dense((1, 8, 4, 4), "channels_last")

    def convolution(source: TensorDesc, target: TensorDesc, ops: list[PostOp], transposed: bool, scales: list[float]) -> None:
        Convolution(source, [8, 8, 1, 1], False, target, one, [0, 0], [0, 0], one, 1, ops, transposed, scales, True)

    with pytest.raises(ValueError, match="one weight scale an output channel"):
        convolution(x, to, [], False, [1.0] * 7)
    with pytest.raises(ValueError, match="transposed"):
        convolution(x, to, [], True, [1.0] * 8)
    with pytest.raises(ValueError, match="multiplied by codes"):
        convolution(to, to, [], False, [1.0] * 8)
    with pytest.raises(ValueError, match="second pass"):
        convolution(x, X[0].desc((1, 8, 4, 4), "channels_last"), [("sin", 0.0, 0.0, None)], False, [1.0] * 8)
    with pytest.raises(ValueError, match="zero point"):
        operand = X[1].desc((1, 8, 4, 4), "channels_last")
        convolution(x, to, [("mul", 0.0, 0.0, operand)], False, [1.0] * 8)
