"""The pointwise kernel against torch in float64: every instruction, format, kind of broadcast and block boundary."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from layout import FORMATS, blank, dense, integers, lay, outcome, place, read, run, strided

from drystone import _native
from drystone.graph.instructions import INSTRUCTIONS, PointwiseOp

F, INF, NAN = torch.nn.functional, math.inf, math.nan
PLAIN, CHANNELS_LAST, BLOCKED16, BLOCKED8 = FORMATS

# kind, alpha, beta, reference, lowest and highest argument
UNARY = [
    ("copy", 0, 0, lambda x: x, -100, 100),
    ("relu", 0, 0, torch.relu, -100, 100),
    ("leaky_relu", 0.1, 0, lambda x: F.leaky_relu(x, 0.1), -100, 100),
    ("elu", 1.5, 0, lambda x: F.elu(x, 1.5), -100, 100),
    ("gelu_erf", 0, 0, F.gelu, -1, 100),
    ("gelu_tanh", 0, 0, lambda x: F.gelu(x, approximate="tanh"), -1, 100),
    ("silu", 0, 0, F.silu, -80, 100),
    ("mish", 0, 0, F.mish, -80, 100),
    ("hardswish", 0, 0, F.hardswish, -2.5, 100),
    ("hardsigmoid", 0, 0, F.hardsigmoid, -2.5, 100),
    ("sigmoid", 0, 0, torch.sigmoid, -80, 100),
    ("tanh", 0, 0, torch.tanh, -100, 100),
    ("clamp", -1.5, 2.5, lambda x: x.clamp(-1.5, 2.5), -100, 100),
    ("clamp", -INF, 2.5, lambda x: x.clamp(max=2.5), -100, 100),
    ("exp", 0, 0, torch.exp, -87, 88),
    ("log", 0, 0, torch.log, 1e-30, 100),
    ("log1p", 0, 0, torch.log1p, -0.999, 100),
    ("log1p", 0, 0, torch.log1p, -1e-6, 1e-6),
    ("log1p", 0, 0, torch.log1p, -1e-30, 1e-30),
    ("sqrt", 0, 0, torch.sqrt, 0, 100),
    ("rsqrt", 0, 0, torch.rsqrt, 1e-30, 100),
    ("abs", 0, 0, torch.abs, -100, 100),
    ("neg", 0, 0, torch.neg, -100, 100),
    ("square", 0, 0, torch.square, -100, 100),
    ("reciprocal", 0, 0, torch.reciprocal, 1e-30, 100),
    ("erf", 0, 0, torch.erf, -100, 100),
    ("sin", 0, 0, torch.sin, -8000, 8000),
    ("cos", 0, 0, torch.cos, -8000, 8000),
    ("affine", 0.5, 3, lambda x: 0.5 * x + 3, -2, 100),
    ("pow", 3, 0, lambda x: x**3, -100, 100),
    ("pow", 2, 0, lambda x: x**2, -100, 100),
    ("pow", 1, 0, lambda x: x, -100, 100),
    ("pow", 0, 0, lambda x: x**0, -100, 100),
    ("pow", 0.5, 0, lambda x: x**0.5, 0, 100),
    ("pow", -0.5, 0, lambda x: x**-0.5, 1e-30, 100),
    ("pow", -1, 0, lambda x: x**-1, 1e-30, 100),
    ("pow", 2.75, 0, lambda x: x**2.75, 0, 100),
    ("floor", 0, 0, torch.floor, -100, 100),
    ("round", 0, 0, torch.round, -100, 100),
    ("sign", 0, 0, torch.sign, -100, 100),
]
BINARY = [
    ("add", torch.add),
    ("sub", torch.sub),
    ("mul", torch.mul),
    ("div", torch.div),
    ("maximum", torch.maximum),
    ("minimum", torch.minimum),
    ("pow2", torch.pow),
    ("prelu", lambda x, slope: torch.where(x > 0, x, slope * x)),
]
UNARY += [
    (kind, 0.5, 2.0, partial(instruction.function, PointwiseOp(kind, (("in", 0),), 0.5, 2.0)), -100, 100)
    for kind, instruction in INSTRUCTIONS.items()
    if instruction.arity == 1 and kind not in {case[0] for case in UNARY}
]
SPECIAL = torch.tensor(
    [NAN, INF, -INF, 0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38, 1.0, -1.0, 0.5, -0.5, 2.5, -3.0, 1e5, 89.0, -104.0]
)


def apply(inputs, ops, format=PLAIN, output_dtype=torch.float32, threads=2, dtypes=None, shape=None):
    """Run a chain on tensors laid in ``format``; an input of a lower rank than the output's is laid plain."""
    shape = torch.broadcast_shapes(*(x.shape for x in inputs)) if shape is None else shape
    laid = [
        lay(x, format if x.dim() == len(shape) else PLAIN, d) for x, d in zip(inputs, dtypes or [None] * len(inputs), strict=True)
    ]
    output = dense(shape, format, output_dtype)
    step = _native.pointwise([desc for desc, _ in laid], output, ops)
    return outcome(step, output, *(b for _, b in laid), threads=threads)


def one(kind, count=1, alpha=0.0, beta=0.0):
    return [(kind, [("in", i) for i in range(count)], alpha, beta)]


def assert_ulps(actual, expected, relative=4e-7):
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected, rtol=relative, atol=1e-38)


@pytest.mark.parametrize("case", UNARY, ids=lambda case: f"{case[0]}-{case[1]}")
def test_unary_is_accurate(case):
    kind, alpha, beta, reference, low, high = case
    alpha = torch.tensor(alpha, dtype=torch.float32).item()
    x = torch.cat(
        [torch.linspace(low, high, 3001), torch.linspace(max(low, -2), 2, 2001), torch.linspace(max(low, -1e-3), 1e-3, 501)]
    )
    if kind == "leaky_relu":
        reference = lambda x: F.leaky_relu(x, alpha)  # noqa: E731  (0.1 as float32)
    # gelu and mish multiply a quotient by x: an ulp more each; pow of large arguments is as good as any.
    assert_ulps(apply([x], one(kind, 1, alpha, beta)), reference(x.double()), 6e-7)


@pytest.mark.parametrize("case", UNARY, ids=lambda case: f"{case[0]}-{case[1]}")
def test_unary_on_special_values(case):
    kind, alpha, beta, reference, *_ = case
    actual = apply([SPECIAL], one(kind, 1, alpha, beta))
    expected = reference(SPECIAL)
    if kind in ("sin", "cos", "gelu_erf"):  # torch's float32 gelu(inf) is NaN on some CPUs, its float64 one inf
        expected = reference(SPECIAL.double()).float()
    torch.testing.assert_close(actual, expected, rtol=2e-6, atol=1e-38, equal_nan=True)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 1023, 1024, 1025, 2049, 40000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_length(count, dtype):
    x = integers(count)
    actual = apply([x], one("affine", 1, 2, 1), dtypes=[dtype], output_dtype=dtype)
    assert torch.equal(actual.float(), 2 * x + 1)


@pytest.mark.parametrize("kind,reference", BINARY)
def test_binary(kind, reference):
    x, y = torch.linspace(0.1, 9, 1000), torch.linspace(-3, 4, 1000) + 0.001
    assert_ulps(apply([x, y], one(kind, 2)), reference(x.double(), y.double()))


@pytest.mark.parametrize("kind,reference", BINARY)
def test_binary_on_special_values(kind, reference):
    pairs = torch.tensor(list(itertools.product(SPECIAL.tolist(), repeat=2)))
    x, y = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
    torch.testing.assert_close(apply([x, y], one(kind, 2)), reference(x, y), rtol=2e-6, atol=1e-38, equal_nan=True)


@pytest.mark.parametrize("kind", ["relu", "abs", "neg", "copy", "floor", "round", "sqrt", "sign"])
def test_sign_of_zero(kind):
    reference = {"copy": lambda x: x}.get(kind) or getattr(torch, kind)
    x = torch.tensor([-0.0, 0.0] * 20)
    assert torch.equal(apply([x], one(kind)).signbit(), reference(x).signbit())


SHAPES = {
    "whole": (2, 32, 5, 7),
    "channel": (32, 1, 1),
    "channel4": (1, 32, 1, 1),
    "gate": (2, 32, 1, 1),
    "plane": (2, 1, 5, 7),
    "plane2": (5, 7),
    "row": (7,),
    "column": (1, 1, 5, 1),
    "batch": (2, 1, 1, 1),
    "scalar": (),
    "one": (1,),
    "ones": (1, 1, 1, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("format", FORMATS)
def test_broadcast(format, name, dtype):
    x, y = integers(2, 32, 5, 7), integers(*SHAPES[name], seed=1)
    for order in ((x, y), (y, x)):
        actual = apply(order, one("sub", 2), format, dtypes=[dtype, dtype])
        assert torch.equal(actual, order[0] - order[1])


@pytest.mark.parametrize(
    "channels,spatial", [(16, (1, 1)), (16, (40, 40)), (48, (3, 3)), (64, (33,)), (32, (3, 5, 4)), (1040, (2, 2))]
)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("format", FORMATS)
def test_shapes(format, threads, channels, spatial):
    x = integers(3, channels, *spatial)
    scale, shift = integers(channels, *[1] * len(spatial), seed=1), integers(3, channels, *spatial, seed=2)
    ops = [("mul", [("in", 0), ("in", 1)], 0, 0), ("add", [("reg", 0), ("in", 2)], 0, 0), ("relu", [("reg", 1)], 0, 0)]
    assert torch.equal(apply([x, scale, shift], ops, format, threads=threads), torch.relu(x * scale + shift))


@pytest.mark.parametrize("format", [PLAIN, CHANNELS_LAST])
@pytest.mark.parametrize("channels", [1, 3, 7, 17, 1025])
def test_odd_channels(format, channels):
    x, y = integers(2, channels, 3, 5), integers(channels, 1, 1, seed=1)
    assert torch.equal(apply([x, y], one("mul", 2), format), x * y)


def test_registers_are_kept_while_they_are_read():
    x, y = integers(100), integers(100, seed=1)
    ops = [("add", [("in", 0), ("in", 1)], 0, 0)]
    ops += [("affine", [("reg", i)], 1, 1) for i in range(60)]  # sixty results, each read once
    ops += [("sub", [("reg", 60), ("reg", 0)], 0, 0), ("square", [("reg", 5)], 0, 0), ("mul", [("reg", 61), ("reg", 62)], 0, 0)]
    assert torch.equal(apply([x, y], ops), 60 * (x + y + 5) ** 2)


def test_mixed_dtypes():
    x, y = integers(3, 16, 20), integers(3, 16, 20, seed=1)
    for a, b, c in itertools.product([torch.float32, torch.bfloat16], repeat=3):
        assert torch.equal(apply([x, y], one("mul", 2), dtypes=[a, b], output_dtype=c).float(), x * y)


def test_bfloat16_rounds_to_nearest_even():
    x = torch.cat([torch.randn(5000) * 10 ** torch.randn(5000), SPECIAL, torch.tensor([1.00390625, 1.01171875, 3.4e38])])
    actual = apply([x], one("copy"), output_dtype=torch.bfloat16)
    assert torch.equal(actual.nan_to_num(7), x.bfloat16().nan_to_num(7))
    assert actual.isnan().sum() == 1


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (0, 16, 4, 4)])
def test_zero_size(shape):
    assert apply([torch.zeros(shape)], one("relu")).shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", ["input", "output", "both"])
def test_strided(which, dtype):
    layouts = [
        (PLAIN, (900, 50, 7, 1)),
        (PLAIN, (1, 2, 64, 700)),
        (CHANNELS_LAST, (2000, 1, 200, 24)),
        (BLOCKED16, (1500, 600, 100, 16)),
    ]
    for format, strides in layouts:
        shape = (2, 16, 5, 7) if format == PLAIN and strides[1] == 50 else (2, 16, 6, 4)
        if which != "both" and strides[0] == 1:
            continue
        x = integers(*shape)
        source = strided(shape, strides, format, dtype) if which != "output" else dense(shape, format, dtype)
        target = strided(shape, strides, format, dtype) if which != "input" else dense(shape, format, dtype)
        buffer = blank(target)
        run(_native.pointwise([source], target, one("affine", 1, 2, 1)), place(x, source), buffer)
        assert torch.equal(read(target, buffer).float(), 2 * x + 1)
        assert int(buffer.isnan().sum()) == buffer.numel() - x.numel(), "the holes of the output are written"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
def test_in_place(format, dtype):
    x, y = integers(2, 32, 30, 31), integers(32, 1, 1, seed=1)
    (desc, buffer), (other, scale) = lay(x, format, dtype), lay(y)
    ops = [("relu", [("in", 0)], 0, 0), ("mul", [("reg", 0), ("in", 1)], 0, 0), ("sub", [("reg", 1), ("in", 0)], 0, 0)]
    run(_native.pointwise([desc, other], desc, ops), buffer, scale, buffer)
    assert torch.equal(read(desc, buffer).float(), torch.relu(x) * y - x)


@pytest.mark.parametrize("format", [PLAIN, CHANNELS_LAST, BLOCKED16])
def test_broadcast_input_in_another_format_of_the_same_order(format):
    x, y = integers(2, 32, 4, 4), integers(2, 32, 1, 1, seed=1)
    for other in FORMATS:
        (a, buffer), (b, gate) = lay(x, format), lay(y, other)
        output = blank(a)
        run(_native.pointwise([a, b], a, one("mul", 2)), buffer, gate, output)
        assert torch.equal(read(a, output), x * y)


def test_repeatable():
    x = torch.randn(3, 7, 1000)
    assert torch.equal(apply([x], one("gelu_erf"), threads=1), apply([x], one("gelu_erf"), threads=2))


# input (shape, format), output (shape, format), instructions, what the error says
REFUSALS = [
    (((2, 24, 3), BLOCKED16), ((2, 24, 3), BLOCKED16), one("relu"), "padded"),
    (((2, 16, 3, 3), PLAIN), ((2, 16, 3, 3), CHANNELS_LAST), one("relu"), "order"),
    (((2, 16, 3, 3), PLAIN), ((2, 16, 3, 3), BLOCKED16), one("relu"), "order"),
    (((2, 16, 3, 3), BLOCKED8), ((2, 16, 3, 3), BLOCKED16), one("relu"), "blocks"),
    (((16, 1, 1), CHANNELS_LAST), ((2, 16, 3, 3), CHANNELS_LAST), one("relu"), "lower rank"),
    (((3,), PLAIN), ((4,), PLAIN), one("relu"), "broadcast"),
    (((4,), PLAIN), ((1,), PLAIN), one("relu"), "broadcast"),
    (((1, 4), PLAIN), ((4,), PLAIN), one("relu"), "broadcast"),
    (((4,), PLAIN), ((4,), PLAIN), [], "at least one"),
    (((4,), PLAIN), ((4,), PLAIN), one("cosh"), "cosh"),
    (((4,), PLAIN), ((4,), PLAIN), one("add"), "2 operands"),
    (((4,), PLAIN), ((4,), PLAIN), [("relu", [("in", 1)], 0, 0)], "reads in 1"),
    (((4,), PLAIN), ((4,), PLAIN), [("relu", [("reg", 0)], 0, 0)], "reads reg 0"),
]


@pytest.mark.parametrize("source,target,ops,message", REFUSALS, ids=lambda value: value if isinstance(value, str) else "")
def test_refusals(source, target, ops, message):
    with pytest.raises(ValueError, match=message):
        _native.pointwise([dense(*source)], dense(*target), ops)


def test_refused_dtypes_and_lengths():
    desc = dense((4,), PLAIN)
    with pytest.raises(ValueError, match="s64"):
        _native.pointwise([dense((4,), PLAIN, torch.int64)], desc, one("relu"))
    with pytest.raises(ValueError, match="f16"):
        _native.pointwise([desc], dense((4,), PLAIN, torch.float16), one("relu"))
    with pytest.raises(ValueError, match="too long"):
        _native.pointwise([desc] * 45, desc, one("relu"))
