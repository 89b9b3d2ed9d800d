"""Winograd's convolution against float64: small integers exactly with tiles of 2, closely with tiles of 4 (fractional points).

Over two spatial axes, and over three: 3×3×3, and 1×3×3 slice by slice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layout import blank, dense, integers, lay, normal, place, read, run, strided

from agreement import assert_same_specials
from drystone import native
from drystone.graph.graph import Node, Value, constant, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Conv
from drystone.native import DType, PostOp, Winograd
from drystone.plan.implementations.winograd import Winograd as Implementation

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")

FORMATS = ("channels_last", *(format.name for format in native.formats() if format.block % native.blocked().block == 0))
TILES = (2, 4)
BOUND = {2: 0.0, 4: 1e-6}  # of the relative L2 error on small integers
Sides = tuple[int, ...]


def packed(step: Winograd, weight: torch.Tensor) -> torch.Tensor:
    memory = torch.full((step.packed_bytes // 4,), float("nan"))
    step.pack(DType.f32, weight.contiguous().data_ptr(), memory.data_ptr())
    assert not memory.isnan().any(), "pack left a part of the weights unwritten"
    return memory


def convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    format: str = "channels_last",
    tile: int = 4,
    before: Sides = (),
    after: Sides = (),
    ops: list[PostOp] | None = None,
    operands: list[torch.Tensor] | None = None,
    held: torch.Tensor | None = None,
    threads: int = 2,
) -> torch.Tensor:
    """``before`` and ``after``: the padding, 1 unless given. ``held`` is what the output's memory holds before."""
    source, buffer = lay(x, format)
    before, after = (sides or (1,) * (x.ndim - 2) for sides in (before, after))
    sizes = (size + a + b - k + 1 for size, a, b, k in zip(x.shape[2:], before, after, weight.shape[2:], strict=True))
    target = dense((x.shape[0], weight.shape[0], *sizes), format)
    step = Winograd(source, list(weight.shape), bias is not None, target, list(before), list(after), tile, ops or [])
    out = blank(target) if held is None else place(held, target)
    run(step, buffer, packed(step, weight), *([] if bias is None else [bias]), out, *(operands or []), threads=threads)
    return read(target, out)


def expected(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, before: Sides = (), after: Sides = ()
) -> torch.Tensor:
    axes = x.ndim - 2
    sides = zip(reversed(before or (1,) * axes), reversed(after or (1,) * axes), strict=True)
    padded = F.pad(x.double(), [side for pair in sides for side in pair])
    return (F.conv2d if axes == 2 else F.conv3d)(padded, weight.double(), None if bias is None else bias.double())


def check(got: torch.Tensor, want: torch.Tensor, bound: float, before: torch.Tensor | None = None) -> None:
    """The error relative to ``want``, or to the convolution ``before`` an epilogue that makes it small, such as a clamp."""
    assert got.shape == want.shape
    assert torch.isfinite(got).all()
    assert float((got - want).norm()) <= bound * float((want if before is None else before).norm())


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [*range(1, 18), 28])
def test_sizes(size: int, format: str, tile: int) -> None:
    weight, bias = integers(16, 32, 3, 3, seed=1), integers(16, seed=2)
    for height, width in {(size, size), (size, 5), (3, size)}:
        x = integers(1, 32, height, width)
        check(convolved(x, weight, bias, format=format, tile=tile), expected(x, weight, bias), BOUND[tile])


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("out_channels", [16, 48, 96])
@pytest.mark.parametrize("in_channels", [16, 64, 144, 272])
def test_channels(in_channels: int, out_channels: int, format: str, tile: int) -> None:
    x, weight = integers(3, in_channels, 14, 11), integers(out_channels, in_channels, 3, 3, seed=1)
    check(convolved(x, weight, None, format=format, tile=tile), expected(x, weight, None), BOUND[tile])


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("channels", "size", "batch"), [(16, 56, 1), (64, 56, 3), (512, 7, 1), (512, 14, 1), (320, 28, 2)])
def test_every_way_to_cut_the_work(channels: int, size: int, batch: int, threads: int, tile: int) -> None:
    x, weight, bias = integers(batch, channels, size, size), integers(48, channels, 3, 3, seed=1), integers(48, seed=2)
    native.set_threads(threads)
    got = convolved(x, weight, bias, tile=tile, threads=threads)
    check(got, expected(x, weight, bias), BOUND[tile])
    native.set_threads(3 - threads)
    assert torch.equal(got, convolved(x, weight, bias, tile=tile, threads=threads)), "the result depends on how the work was cut"


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("after", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("before", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (1, 2)])
def test_padding(before: Sides, after: Sides, tile: int) -> None:
    weight = integers(32, 16, 3, 3, seed=1)
    for format in FORMATS:
        for height, width in ((3, 3), (6, 9), (10, 4)):
            x = integers(2, 16, height, width)
            got = convolved(x, weight, None, format=format, tile=tile, before=before, after=after)
            check(got, expected(x, weight, None, before, after), BOUND[tile])


EPILOGUES: list[list[PostOp]] = [
    [("relu", 0.0, 0.0, None)],
    [("leaky_relu", 0.25, 0.0, None)],
    [("clamp", -8.0, 16.0, None)],
    [("clamp", 0.0, float("inf"), None)],
    [("add", 0.0, 0.0, None)],
    [("add", 0.0, 0.0, None), ("relu", 0.0, 0.0, None)],
    [("relu", 0.0, 0.0, None), ("add", 0.0, 0.0, None), ("clamp", -4.0, 6.0, None)],
]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("ops", EPILOGUES, ids=lambda ops: "_".join(op[0] for op in ops))
def test_epilogues(ops: list[PostOp], in_place: bool, format: str, tile: int) -> None:
    x, weight, bias = integers(2, 16, 9, 10), integers(48, 16, 3, 3, seed=1), integers(48, seed=2)
    residual = integers(2, 48, 9, 10, seed=3)
    want = convolution = expected(x, weight, bias)
    for kind, alpha, beta, _ in ops:
        if kind == "add":
            want = want + residual.double()
        elif kind == "clamp":
            want = want.clamp(alpha, beta)
        else:
            want = F.relu(want) if kind == "relu" else F.leaky_relu(want, alpha)
    desc, buffer = lay(residual, format)
    adds = any(op[0] == "add" for op in ops)
    if in_place and adds:
        chain = [("sum", 0.0, 0.0, None) if op[0] == "add" else op for op in ops]
        got = convolved(x, weight, bias, format=format, tile=tile, ops=chain, held=residual)
    else:
        chain = [("add", 0.0, 0.0, desc) if op[0] == "add" else op for op in ops]
        got = convolved(x, weight, bias, format=format, tile=tile, ops=chain, operands=[buffer] if adds else [])
    check(got, want, BOUND[tile], convolution)


@pytest.mark.parametrize("format", FORMATS)
def test_parts_of_wider_tensors(format: str) -> None:
    """Input, output and residual are channels of tensors with more of them, and nothing beside the output is written."""
    x, weight, residual = integers(2, 16, 9, 10), integers(32, 16, 3, 3, seed=1), integers(2, 32, 9, 10, seed=3)
    wide = dense((2, 96, 9, 10), format)
    narrow = {channels: strided((2, channels, 9, 10), tuple(wide.strides), format) for channels in (16, 32)}
    buffers = [torch.full((wide.bytes // 4,), 5.0) for _ in range(3)]
    place(x, narrow[16], buffers[0])
    place(residual, narrow[32], buffers[2])
    step = Winograd(narrow[16], [32, 16, 3, 3], False, narrow[32], [1, 1], [1, 1], 2, [("add", 0.0, 0.0, narrow[32])])
    run(step, buffers[0], packed(step, weight), buffers[1], buffers[2])
    assert torch.equal(read(narrow[32], buffers[1]).double(), expected(x, weight, None) + residual)
    assert (read(wide, buffers[1])[:, 32:] == 5).all()


@pytest.mark.parametrize(("tile", "bound"), [(2, 4e-7), (4, 1e-6)])
@pytest.mark.parametrize("channels", [64, 256, 512])
def test_accuracy(channels: int, tile: int, bound: float) -> None:
    x, weight = normal(1, channels, 28, 28), normal(32, channels, 3, 3, seed=1)
    check(convolved(x, weight, None, tile=tile), expected(x, weight, None), bound)


def test_empty_batch() -> None:
    assert convolved(torch.empty(0, 16, 8, 8), integers(16, 16, 3, 3), None).shape == (0, 16, 8, 8)


NAN, INF = float("nan"), float("inf")
Places = list[tuple[int, int, float]]  # row, column, value
NON_FINITE: dict[str, Places] = {
    "nan in the middle": [(6, 5, NAN)],
    "nan at the border": [(0, 5, NAN)],
    "nan in a corner": [(0, 0, NAN)],
    "nan in the last corner": [(12, 10, NAN)],
    "inf": [(4, 7, INF)],
    "-inf": [(12, 3, -INF)],
    "inf and -inf in one window": [(5, 5, INF), (6, 6, -INF)],
    "inf and -inf in one tile": [(4, 4, INF), (7, 7, -INF)],
    "one in each tile": [(row, column, INF) for row in range(1, 13, 4) for column in range(1, 11, 4)],
    "nan everywhere": [(row, column, NAN) for row in range(13) for column in range(11)],
}


def check_specials(got: torch.Tensor, want: torch.Tensor) -> None:
    finite = assert_same_specials(got, want)
    check(got[finite], want[finite], 1e-6)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("places", NON_FINITE.values(), ids=NON_FINITE.keys())
def test_nan_and_infinities_go_where_the_direct_convolution_puts_them(places: Places, threads: int, format: str, tile: int) -> None:
    x, weight, bias = normal(2, 32, 13, 11), normal(48, 32, 3, 3, seed=1), normal(48, seed=2)
    for row, column, value in places:
        x[1, 19, row, column] = value
    native.set_threads(threads)
    got = convolved(x, weight, bias, format=format, tile=tile, threads=threads)
    native.set_threads(2)
    eager = F.conv2d(x, weight, bias, padding=1)
    assert not eager.isfinite().all()
    check_specials(got, eager.double())
    check_specials(got, expected(x, weight, bias))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("before", [(0, 0), (0, 1), (1, 0), (2, 1), (0, 2)])
def test_infinities_with_other_padding(before: Sides, tile: int) -> None:
    x, weight = normal(1, 16, 9, 10), normal(16, 16, 3, 3, seed=1)
    x[0, 3, 0, 9] = x[0, 5, 8, 0] = INF
    check_specials(convolved(x, weight, None, tile=tile, before=before), expected(x, weight, None, before))


@pytest.mark.parametrize("tile", TILES)
def test_infinity_times_a_weight_of_zero_is_nan(tile: int) -> None:
    x, weight = normal(1, 16, 9, 10), normal(512, 16, 3, 3, seed=1)
    x[0, 3, 4, 4] = INF
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < 0.5] = 0
    check_specials(convolved(x, weight, None, tile=tile), expected(x, weight, None))


@pytest.mark.parametrize("tile", TILES)
def test_the_epilogue_after_nan_and_infinities(tile: int) -> None:
    x, weight, residual = normal(1, 16, 12, 12), normal(16, 16, 3, 3, seed=1), normal(1, 16, 12, 12, seed=3)
    x[0, 3, 1, 1], x[0, 5, 9, 9] = NAN, -INF
    ops: list[PostOp] = [("sum", 0.0, 0.0, None), ("relu", 0.0, 0.0, None)]
    got = convolved(x, weight, None, tile=tile, ops=ops, held=residual)
    check_specials(got, F.relu(expected(x, weight, None) + residual))


@pytest.mark.parametrize("tile", TILES)
def test_transforms_that_overflow(tile: int) -> None:
    x, weight = 3e38 * normal(1, 16, 12, 12).sign(), 1e-3 * normal(16, 16, 3, 3, seed=1)
    check(convolved(x, weight, None, tile=tile), expected(x, weight, None), 1e-6)


MAP = ((1, 16, 8, 8), "channels_last")


def step_of(changed: dict[str, Any]) -> Winograd:
    """A step that is served, but for what is ``changed``; a tuple (shape, format, dtype) stands for its desc."""
    arguments: dict[str, Any] = {
        "x": MAP,
        "weights": [16, 16, 3, 3],
        "has_bias": False,
        "output": MAP,
        "padding_l": [1, 1],
        "padding_r": [1, 1],
        "tile": 4,
        "post_ops": [],
    }
    arguments |= changed
    arguments["x"], arguments["output"] = dense(*arguments["x"]), dense(*arguments["output"])
    arguments["post_ops"] = [(kind, 0.0, 0.0, operand and dense(*operand)) for kind, operand in arguments["post_ops"]]
    return Winograd(**arguments)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"x": ((1, 24, 8, 8), "channels_last"), "weights": [16, 24, 3, 3]}, "16 channels"),
        ({"x": ((1, 16, 8, 8), "channels_last", DType.bf16)}, "float32"),
        ({"x": ((1, 16, 8, 8), "plain")}, "vectors of channels"),
        ({"x": ((1, 16, 8, 8), "blocked16")}, "format"),
        ({"x": ((1, 16, 8), "channels_last")}, "two or three spatial axes"),
        ({"weights": [16, 16, 5, 5]}, "weights"),
        ({"weights": [16, 8, 3, 3]}, "weights"),
        ({"padding_l": [3, 1]}, "pads by 0 to 2"),
        ({"padding_l": [1]}, "each spatial axis"),
        ({"output": ((1, 16, 7, 8), "channels_last")}, "size"),
        ({"output": ((2, 16, 8, 8), "channels_last")}, "batch"),
        ({"tile": 6}, "2 or 4"),
        ({"post_ops": [("gelu_erf", None)]}, "gelu_erf"),
        ({"post_ops": [("add", None)]}, "adds only"),
        ({"post_ops": [("add", ((1, 16, 1, 1), "channels_last"))]}, "adds only"),
        ({"post_ops": [("add", ((1, 16, 8, 8), "blocked16"))]}, "adds only"),
        ({"post_ops": [("relu", None)] * 4}, "three"),
    ],
)
def test_refusals(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        step_of(changed)


def conv_node(size: int = 56, channels: int = 64, kernel: int = 3, **changed: Any) -> Node:
    op = Conv((1, 1), (1, 1), (1, 1), (1, 1), groups=1, has_bias=False)
    x = Value((1, channels, size, size), torch.float32)
    weight = constant(torch.zeros(channels, channels // changed.get("groups", 1), kernel, kernel))
    accurate = changed.pop("accurate", False)
    node = make_node(replace(op, **changed), [x, weight])
    node.accurate = accurate
    return node


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"kernel": 1}, "3x3"),
        ({"stride": (2, 2)}, "stride"),
        ({"dilation": (2, 2)}, "dilation"),
        ({"groups": 4}, "group"),
        ({"padding_l": (3, 1)}, "pads"),
        ({"channels": 24}, "vectors of 16"),
        ({"accurate": True}, "strict"),
        ({"size": 7}, "too few"),
    ],
)
def test_implementation_refuses(changed: dict[str, Any], reason: str) -> None:
    refusal = Implementation(tile=4).refuses(conv_node(**changed))
    assert refusal is not None and reason in refusal


def test_implementation_takes_the_larger_tile_where_there_are_enough() -> None:
    assert Implementation(tile=4).refuses(conv_node()) is None
    assert Implementation(tile=2).refuses(conv_node()) is not None
    assert Implementation(tile=2).refuses(conv_node(size=7)) is None


def test_implementation_refuses_other_epilogues() -> None:
    node = conv_node()
    node.epilogue = [PointwiseOp("gelu_erf", (("in", 0),))]
    refusal = Implementation(tile=4).refuses(node)
    assert refusal is not None and "gelu_erf" in refusal
    node.epilogue = [PointwiseOp("relu", (("in", 0),))]
    assert Implementation(tile=4).refuses(node) is None


# -- three spatial axes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 4), (2, 3, 9), (3, 8, 8), (7, 6, 13)])
def test_volumes(size: Sides, format: str, tile: int) -> None:
    x, weight, bias = integers(2, 32, *size), integers(48, 32, 3, 3, 3, seed=1), integers(48, seed=2)
    check(convolved(x, weight, bias, format=format, tile=tile), expected(x, weight, bias), BOUND[tile])


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("channels", "size"), [((16, 16), (9, 20, 24)), ((144, 80), (3, 9, 8)), ((512, 272), (2, 4, 4)), ((80, 16), (1, 7, 7))]
)
def test_every_way_to_cut_volumes(channels: tuple[int, int], size: Sides, threads: int, tile: int) -> None:
    x, weight = integers(1, channels[0], *size), integers(channels[1], channels[0], 3, 3, 3, seed=1)
    native.set_threads(threads)
    got = convolved(x, weight, tile=tile, threads=threads)
    check(got, expected(x, weight), BOUND[tile])
    native.set_threads(3 - threads)
    assert torch.equal(got, convolved(x, weight, tile=tile, threads=threads)), "the result depends on how the work was cut"


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("before", "after"),
    [((0, 0, 0), (0, 0, 0)), ((1, 0, 1), (0, 1, 1)), ((0, 1, 0), (1, 1, 0)), ((0, 0, 0), (1, 0, 1)), ((2, 1, 0), (0, 2, 2))],
)
def test_padding_of_volumes(before: Sides, after: Sides, format: str, tile: int) -> None:
    x, weight = integers(2, 16, 4, 7, 6), integers(32, 16, 3, 3, 3, seed=1)
    got = convolved(x, weight, format=format, tile=tile, before=before, after=after)
    check(got, expected(x, weight, None, before, after), BOUND[tile])


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("format", FORMATS)
def test_slices_alone(format: str, tile: int) -> None:
    x, weight, bias = integers(2, 32, 5, 9, 7), integers(16, 32, 1, 3, 3, seed=1), integers(16, seed=2)
    sides = (0, 1, 1)
    got = convolved(x, weight, bias, format=format, tile=tile, before=sides, after=sides)
    check(got, expected(x, weight, bias, sides, sides), BOUND[tile])


@pytest.mark.parametrize("format", FORMATS)
def test_volumes_are_added_where_the_output_lies(format: str) -> None:
    x, weight, held = integers(1, 16, 3, 6, 5), integers(16, 16, 3, 3, 3, seed=1), integers(1, 16, 3, 6, 5, seed=3)
    check(convolved(x, weight, format=format, ops=[("sum", 0.0, 0.0, None)], held=held), expected(x, weight) + held.double(), 1e-6)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", [(0, 0, 0), (2, 3, 4), (3, 8, 8)])
def test_specials_in_volumes(place: Sides, value: float, tile: int) -> None:
    x, weight = integers(1, 16, 4, 9, 9), integers(16, 16, 3, 3, 3, seed=1)
    x[0, 5][place] = value
    got, want = convolved(x, weight, tile=tile), expected(x, weight)
    finite = assert_same_specials(got, want)
    check(got[finite], want[finite], BOUND[tile])


def test_refusals_of_volumes() -> None:
    x, slices = integers(1, 16, 4, 8, 8), integers(16, 16, 1, 3, 3)
    with pytest.raises(ValueError, match="slices that do not see each other"):
        convolved(x, slices)
    with pytest.raises(ValueError, match="1 or 3, 3, 3"):
        convolved(x, integers(16, 16, 2, 3, 3))
    volume = dense((1, 16, 4, 8, 8), "channels_last")
    with pytest.raises(ValueError, match="each spatial axis"):
        Winograd(volume, [16, 16, 3, 3, 3], False, volume, [1, 1], [1, 1], 4, [])


def volume_node(kernel: Sides, padding: Sides) -> Node:
    x = Value((1, 16, 4, 16, 16), torch.float32)
    weight = constant(torch.zeros(16, 16, *kernel))
    return make_node(Conv((1, 1, 1), padding, padding, (1, 1, 1), groups=1, has_bias=False), [x, weight])


@pytest.mark.parametrize(
    ("kernel", "padding", "reason"),
    [
        ((3, 3, 3), (1, 1, 1), None),
        ((3, 3, 3), (0, 1, 0), None),
        ((1, 3, 3), (0, 1, 1), None),
        ((1, 3, 3), (1, 1, 1), "slices"),
        ((3, 1, 1), (1, 0, 0), "kernel"),
        ((3, 3, 1), (1, 1, 0), "kernel"),
    ],
)
def test_implementation_refuses_volumes(kernel: Sides, padding: Sides, reason: str | None) -> None:
    refusal = Implementation(tile=4).refuses(volume_node(kernel, padding))
    assert refusal is None if reason is None else refusal is not None and reason in refusal
