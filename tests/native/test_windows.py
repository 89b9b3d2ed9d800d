"""Pooling, resizing and local response normalisation against torch: maxima and copies exactly, sums against float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layout import FORMATS, blank, dense, lay, normal, outcome, place, read, run

from drystone import _native
from drystone._native import DType, Format, TensorDesc

Window = tuple[int, int, int]
DTYPES = (torch.float32, torch.bfloat16)


def sliding(
    size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil: bool = False
) -> tuple[list[Window], list[int], list[int]]:
    """One axis of torch's pooling: windows inside of the input, divisors with the padding counted, and without it."""
    span = dilation * (kernel - 1) + 1
    count = (size + 2 * padding - span + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1
    windows, with_padding, without = [], [], []
    for o in range(count):
        start = o * stride - padding
        with_padding.append(min(start + kernel, size + padding) - start)
        stop = min(start + span, size)
        while start < 0:
            start += dilation
        windows.append((start, stop, dilation))
        without.append(max(stop - start, 0))
    return windows, with_padding, without


def adaptive(size: int, count: int) -> list[Window]:
    return [(o * size // count, -(-(o + 1) * size // count), 1) for o in range(count)]


def lengths(windows: list[list[Window]]) -> list[list[int]]:
    return [[stop - start for start, stop, _ in axis] for axis in windows]


def pooled(
    x: torch.Tensor,
    kind: str,
    windows: list[list[Window]],
    divisors: list[list[int]] | None = None,
    override: int = 0,
    *,
    format: Format = Format.plain,
    threads: int = 2,
) -> torch.Tensor:
    in_desc, in_buffer = lay(x, format)
    out_desc = dense((*x.shape[:2], *map(len, windows)), format, x.dtype)
    return outcome(_native.pool(in_desc, out_desc, kind, windows, divisors or [], override), out_desc, in_buffer, threads=threads)


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Against a float64 reference: a few roundings of float32, or the one of bfloat16."""
    assert result.shape == expected.shape
    tolerance = 2.0**-8 if result.dtype == torch.bfloat16 else 2e-6
    scale = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=1e-6 * scale)


CHANNELS = [1, 2, 3, 5, 8, 13, 16, 17, 24, 31, 33, 64, 100]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_max_pool_channels(channels: int, format: Format, dtype: torch.dtype) -> None:
    x = normal(2, channels, 23, 37, dtype=dtype)
    windows = [sliding(23, 3, 2, 1)[0], sliding(37, 3, 2, 1)[0]]
    for threads in (1, 2):
        y = pooled(x, "max", windows, format=format, threads=threads)
        assert torch.equal(y, F.max_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(
    "kernel,stride,padding,dilation,ceil",
    [
        (2, 2, 0, 1, False),
        (3, 1, 1, 1, False),
        (5, 1, 2, 1, False),
        (3, 2, 0, 1, True),
        (3, 3, 1, 2, True),
        (2, 1, 0, 3, False),
        (13, 1, 6, 1, False),
        (1, 2, 0, 1, False),
    ],
)
def test_max_pool_2d(format: Format, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> None:
    for height, width in [(14, 14), (17, 70), (15, 31)]:
        x = normal(1, 20, height, width)
        windows = [sliding(size, kernel, stride, padding, dilation, ceil)[0] for size in (height, width)]
        expected = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode=ceil)
        assert torch.equal(pooled(x, "max", windows, format=format), expected), (height, width)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_max_pool_1d_and_3d(format: Format) -> None:
    x = normal(2, 19, 300)
    assert torch.equal(pooled(x, "max", [sliding(300, 4, 3, 1)[0]], format=format), F.max_pool1d(x, 4, 3, 1))
    x = normal(2, 19, 7, 12, 9)
    windows = [sliding(7, 2, 1, 0)[0], sliding(12, 3, 2, 1)[0], sliding(9, 3, 2, 1)[0]]
    assert torch.equal(pooled(x, "max", windows, format=format), F.max_pool3d(x, (2, 3, 3), (1, 2, 2), (0, 1, 1)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [3, 16, 21])
def test_max_pool_nan_and_infinities(channels: int, format: Format, dtype: torch.dtype) -> None:
    x = normal(1, channels, 40, 90, dtype=dtype)
    x[:, :, ::7, ::5] = float("nan")
    x[:, :, 3:9, 40:60] = -float("inf")
    x[:, :, 20, 20] = float("inf")
    for kernel, stride, padding in [(3, 2, 1), (2, 1, 0), (40, 40, 0)]:
        windows = [sliding(size, kernel, stride, padding)[0] for size in (40, 90)]
        expected = F.max_pool2d(x, kernel, stride, padding)
        y = pooled(x, "max", windows, format=format)
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.nan_to_num(0.5), expected.nan_to_num(0.5))


def test_max_of_an_empty_window() -> None:
    windows = [[(0, 2, 1), (2, 2, 1)], [(0, 3, 1)]]
    for format in FORMATS[:2]:
        assert pooled(torch.ones(1, 4, 2, 3), "max", windows, format=format)[0, 0].tolist() == [[1.0], [-float("inf")]]
    desc = dense((1, 4, 2, 3), Format.blocked8)
    with pytest.raises(ValueError, match="empty"):
        _native.pool(desc, dense((1, 4, 2, 1), Format.blocked8), "max", windows, [], 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(
    "kernel,stride,padding,ceil", [(3, 1, 1, False), (2, 2, 0, False), (3, 2, 1, True), (5, 3, 2, True), (4, 2, 1, False)]
)
def test_avg_pool_2d(format: Format, dtype: torch.dtype, kernel: int, stride: int, padding: int, ceil: bool) -> None:
    for channels, height, width in [(3, 20, 41), (19, 13, 16), (32, 9, 9)]:
        x = normal(2, channels, height, width, dtype=dtype)
        axes = [sliding(size, kernel, stride, padding, ceil=ceil) for size in (height, width)]
        windows = [axis[0] for axis in axes]
        for counted in (True, False):
            expected = F.avg_pool2d(x.double(), kernel, stride, padding, ceil, counted)
            assert_close(pooled(x, "avg", windows, [axis[1 if counted else 2] for axis in axes], format=format), expected)
        expected = F.avg_pool2d(x.double(), kernel, stride, padding, ceil, divisor_override=7)
        assert_close(pooled(x, "avg", windows, override=7, format=format), expected)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_avg_pool_1d_and_3d(format: Format) -> None:
    x = normal(2, 19, 300)
    windows, counted, _ = sliding(300, 4, 3, 1)
    assert_close(pooled(x, "avg", [windows], [counted], format=format), F.avg_pool1d(x.double(), 4, 3, 1))
    x = normal(2, 19, 7, 12, 9)
    axes = [sliding(7, 2, 1, 0), sliding(12, 3, 2, 1), sliding(9, 3, 2, 1)]
    expected = F.avg_pool3d(x.double(), (2, 3, 3), (1, 2, 2), (0, 1, 1))
    assert_close(pooled(x, "avg", [axis[0] for axis in axes], [axis[1] for axis in axes], format=format), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_adaptive_and_global(format: Format, dtype: torch.dtype) -> None:
    for channels, size, count in [
        (17, (11, 13), (3, 5)),
        (512, (7, 7), (1, 1)),
        (5, (5, 7), (8, 9)),
        (9, (160, 200), (1, 1)),
        (70, (31, 64), (7, 1)),
    ]:
        x = normal(2, channels, *size, dtype=dtype)
        windows = [adaptive(s, c) for s, c in zip(size, count, strict=True)]
        for threads in (1, 2):
            y = pooled(x, "avg", windows, lengths(windows), format=format, threads=threads)
            assert_close(y, F.adaptive_avg_pool2d(x.double(), count))
            assert torch.equal(pooled(x, "max", windows, format=format, threads=threads), F.adaptive_max_pool2d(x, count))


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_long_sums_stay_accurate(format: Format) -> None:
    x = normal(1, 16, 300, 400) + 1
    windows = [adaptive(300, 1), adaptive(400, 1)]
    y = pooled(x, "avg", windows, lengths(windows), format=format)
    assert ((y.double() - x.double().mean((2, 3), keepdim=True)).norm() / y.double().norm()).item() < 1e-6


def test_rows_longer_than_a_line() -> None:
    for kernel, stride in [(3, 1), (3, 2), (2, 5), (33, 7), (5000, 1)]:
        x = normal(1, 1, 2, 9001)
        windows = [sliding(2, 2, 1, 0)[0], sliding(9001, kernel, stride, 1)[0]]
        assert torch.equal(pooled(x, "max", windows), F.max_pool2d(x, (2, kernel), (1, stride), (0, 1))), (kernel, stride)


def test_windows_in_any_order() -> None:
    x = normal(1, 6, 4, 4000)
    columns = [(3990, 4000, 3), (0, 5, 1), (100, 101, 1), (2000, 3000, 7), (5, 10, 1), (6, 11, 1), (7, 7, 1), (7, 12, 1)]
    windows = [[(0, 4, 2), (1, 4, 1)], columns]
    for format in FORMATS[:2]:
        y = pooled(x, "max", windows, format=format)
        for (i, row), (j, column) in itertools.product(enumerate(windows[0]), enumerate(columns)):
            part = x[:, :, slice(*row), slice(*column)].flatten(2)
            expected = part.amax(2) if part.numel() else torch.full((1, 6), -float("inf"))
            assert torch.equal(y[:, :, i, j], expected), (row, column)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_pool_into_a_slice_of_the_channels(format: Format) -> None:
    x = normal(2, 32, 9, 9)
    whole = dense((2, 96, 9, 9), format)
    buffer = place(torch.full((2, 96, 9, 9), -1.0), whole)
    view = TensorDesc(DType.f32, format, [2, 32, 9, 9], whole.strides)
    in_desc, in_buffer = lay(x, format)
    windows, counted, _ = sliding(9, 3, 1, 1)
    first = 48 // format.block * whole.strides[1]
    run(_native.pool(in_desc, view, "avg", [windows] * 2, [counted] * 2, 0), in_buffer, buffer[first:])
    result = read(whole, buffer)
    assert_close(result[:, 48:80], F.avg_pool2d(x.double(), 3, 1, 1))
    assert (result[:, :48] == -1).all() and (result[:, 80:] == -1).all()


def test_pool_of_a_strided_input() -> None:
    x = normal(2, 6, 20, 41)
    view = x[:, 1:5, ::2, ::3]
    desc = TensorDesc(DType.f32, Format.plain, list(view.shape), list(view.stride()))
    out_desc = dense((2, 4, 9, 13), Format.plain)
    out = blank(out_desc)
    windows = [sliding(10, 2, 1, 0)[0], sliding(14, 2, 1, 0)[0]]
    run(_native.pool(desc, out_desc, "max", windows, [], 0), x.reshape(-1)[x.stride(1) :], out)
    assert torch.equal(read(out_desc, out), F.max_pool2d(view, 2, 1))


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_no_elements(format: Format) -> None:
    windows = [sliding(8, 2, 2, 0)[0]] * 2
    assert pooled(torch.empty(0, 3, 8, 8), "max", windows, format=format).shape == (0, 3, 4, 4)
    assert resized(torch.empty(0, 3, 8, 8), (4, 4), "linear", False, [2.0, 2.0], format=format).shape == (0, 3, 4, 4)
    assert resized(torch.empty(2, 0, 8, 8), (4, 4), "nearest", False, [2.0, 2.0], format=format).shape == (2, 0, 4, 4)


@pytest.mark.parametrize(("message", "changes"), [
    ("'max' or 'avg'", {"kind": "min"}),
    ("outside", {"windows": [[(0, 2, 1)], [(0, 7, 1)]]}),
    ("outside", {"windows": [[(0, 2, 1)], [(-1, 2, 1)]]}),
    ("positive steps", {"windows": [[(0, 2, 0)], [(0, 2, 1)]]}),
    ("each spatial axis", {"windows": [[(0, 2, 1)]]}),
    ("each output index", {"windows": [[(0, 2, 1)] * 2, [(0, 2, 1)]]}),
    ("divisor", {"kind": "avg", "divisors": [[2], [2, 2]]}),
    ("divisors", {"kind": "avg"}),
    ("dtype", {"output": ("plain", torch.bfloat16)}),
    ("format", {"output": ("channels_last", torch.float32)}),
    ("f32 and bf16", {"input": ("plain", torch.int32), "output": ("plain", torch.int32)}),
])  # fmt: skip
def test_pool_refusals(message: str, changes: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "input": ("plain", torch.float32),
        "output": ("plain", torch.float32),
        "kind": "max",
        "windows": [[(0, 2, 1)], [(0, 2, 1)]],
        "divisors": [],
        "divisor_override": 0,
    } | changes
    arguments["input"] = dense((2, 3, 4, 6), *arguments["input"])
    arguments["output"] = dense((2, 3, 1, 1), *arguments["output"])
    with pytest.raises(ValueError, match=message):
        _native.pool(**arguments)


def resized(
    x: torch.Tensor,
    size: tuple[int, ...],
    mode: str,
    align_corners: bool,
    scales: list[float],
    *,
    format: Format = Format.plain,
    threads: int = 2,
) -> torch.Tensor:
    in_desc, in_buffer = lay(x, format)
    out_desc = dense((*x.shape[:2], *size), format, x.dtype)
    return outcome(_native.resize(in_desc, out_desc, mode, align_corners, scales), out_desc, in_buffer, threads=threads)


LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
RESIZES = [
    ((7, 9), (14, 18)),
    ((7, 9), (7, 9)),
    ((8, 8), (5, 3)),
    ((5, 40), (13, 97)),
    ((1, 1), (6, 7)),
    ((6, 7), (1, 1)),
    ((3, 5000), (2, 6001)),
    ((33,), (66,)),
    ((4, 5, 6), (8, 7, 12)),
]


def coordinate_scales(size: tuple[int, ...], target: tuple[int, ...], align_corners: bool) -> list[float]:
    if align_corners:
        return [(s - 1) / (t - 1) if t > 1 else 0.0 for s, t in zip(size, target, strict=True)]
    return [s / t for s, t in zip(size, target, strict=True)]


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("size,target", RESIZES, ids=str)
def test_nearest(size: tuple[int, ...], target: tuple[int, ...], format: Format) -> None:
    for channels, dtype in itertools.product((1, 3, 16, 21), DTYPES):
        x = normal(2, channels, *size, dtype=dtype)
        y = resized(x, target, "nearest", False, coordinate_scales(size, target, False), format=format)
        assert torch.equal(y, F.interpolate(x, size=target, mode="nearest"))


@pytest.mark.parametrize("factor", [2.0, 3.0, 1.5, 0.5, 0.3, 2.3])
def test_nearest_by_factor(factor: float) -> None:
    x = normal(2, 5, 11, 23)
    expected = F.interpolate(x, scale_factor=factor, mode="nearest")
    for format in FORMATS:
        assert torch.equal(resized(x, tuple(expected.shape[2:]), "nearest", False, [1 / factor] * 2, format=format), expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("size,target", RESIZES, ids=str)
def test_linear(size: tuple[int, ...], target: tuple[int, ...], format: Format, align_corners: bool) -> None:
    for channels, dtype in itertools.product((1, 3, 16, 21, 37), DTYPES):
        x = normal(2, channels, *size, dtype=dtype)
        y = resized(x, target, "linear", align_corners, coordinate_scales(size, target, align_corners), format=format)
        # In float32: torch takes the coordinates in the dtype of its input, and so in float64 others than in float32.
        expected = F.interpolate(x.float(), size=target, mode=LINEAR[len(size)], align_corners=align_corners)
        assert_close(y, expected.double())


@pytest.mark.parametrize("align_corners", [False, True])
def test_linear_against_float64(align_corners: bool) -> None:
    """Where coordinates are exact in float32, so are the weights."""
    for size, target in [((8, 16), (16, 64)), ((5, 9), (9, 17)), ((16, 32), (8, 4))]:
        scales = coordinate_scales(size, target, align_corners)
        if align_corners and size != (5, 9):
            continue
        x = normal(2, 19, *size)
        expected = F.interpolate(x.double(), size=target, mode="bilinear", align_corners=align_corners)
        for format in FORMATS:
            assert_close(resized(x, target, "linear", align_corners, scales, format=format), expected)


@pytest.mark.parametrize("factor", [2.0, 1.5, 0.3, 2.3])
def test_linear_by_factor(factor: float) -> None:
    x = normal(2, 5, 11, 23)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear")
    for format in FORMATS:
        assert_close(resized(x, tuple(expected.shape[2:]), "linear", False, [1 / factor] * 2, format=format), expected.double())


def test_linear_nan_and_infinities() -> None:
    x = normal(1, 20, 9, 9)
    x[:, :, 2, 3] = float("nan")
    x[:, :, 7, 7] = float("inf")
    for target, format in itertools.product([(9, 9), (18, 18), (9, 20)], FORMATS):
        scales = coordinate_scales((9, 9), target, False)
        y = resized(x, target, "linear", False, scales, format=format)
        expected = F.interpolate(x.contiguous(), size=target, mode="bilinear")
        assert torch.equal(y.isnan(), expected.isnan()) and torch.equal(y.isinf(), expected.isinf()), (target, format)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_resize_into_a_slice_of_the_channels(format: Format, mode: str) -> None:
    x = normal(2, 32, 5, 6)
    whole = dense((2, 80, 10, 12), format)
    buffer = place(torch.full((2, 80, 10, 12), -1.0), whole)
    view = TensorDesc(DType.f32, format, [2, 32, 10, 12], whole.strides)
    in_desc, in_buffer = lay(x, format)
    run(_native.resize(in_desc, view, mode, False, [0.5, 0.5]), in_buffer, buffer[16 // format.block * whole.strides[1] :])
    result = read(whole, buffer)
    expected = F.interpolate(x, scale_factor=2, mode={"linear": "bilinear"}.get(mode, mode))
    assert_close(result[:, 16:48], expected.double())
    assert (result[:, :16] == -1).all() and (result[:, 48:] == -1).all()


def test_resize_refusals() -> None:
    source, target = dense((1, 2, 4, 4), Format.plain), dense((1, 2, 8, 8), Format.plain)
    with pytest.raises(ValueError, match="no 'lanczos' resize"):
        _native.resize(source, target, "lanczos", False, [0.5, 0.5])
    with pytest.raises(ValueError, match="each spatial axis"):
        _native.resize(source, target, "linear", False, [0.5])
    with pytest.raises(ValueError, match="finite"):
        _native.resize(source, target, "linear", False, [0.5, float("nan")])
    with pytest.raises(ValueError, match="align_corners"):
        _native.resize(source, target, "nearest", True, [0.5, 0.5])
    with pytest.raises(ValueError, match="batch, channels"):
        _native.resize(source, dense((1, 3, 8, 8), Format.plain), "linear", False, [0.5, 0.5])
    with pytest.raises(ValueError, match="not empty"):
        _native.resize(dense((1, 2, 0, 4), Format.plain), target, "linear", False, [0.5, 0.5])


def normalised(x: torch.Tensor, *arguments: Any, format: Format = Format.plain, threads: int = 2) -> torch.Tensor:
    in_desc, in_buffer = lay(x, format)
    return outcome(_native.lrn(in_desc, in_desc, *arguments), in_desc, in_buffer, threads=threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", FORMATS[:2], ids=str)
@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_lrn(size: int, format: Format, dtype: torch.dtype) -> None:
    for shape in [(2, 64, 27, 29), (1, 3, 5, 7), (2, 1, 40, 40), (2, 300, 3, 3), (3, 19, 50), (1, 20, 4, 5, 6)]:
        x = normal(*shape, dtype=dtype) * 3
        for alpha, beta, k in [(1e-4, 0.75, 1.0), (0.5, 0.5, 2.0), (1.0, 1.0, 1.0), (0.3, 0.6, 0.5)]:
            expected = F.local_response_norm(x.double(), size, alpha, beta, k)
            for threads in (1, 2):
                assert_close(normalised(x, size, alpha, beta, k, format=format, threads=threads), expected)


def test_lrn_nan_stays_in_its_windows() -> None:
    x = normal(1, 30, 6, 6)
    x[0, 10, 2, 2] = float("nan")
    for format in FORMATS[:2]:
        y = normalised(x, 5, 1e-4, 0.75, 1.0, format=format)
        assert torch.equal(y.isnan(), F.local_response_norm(x, 5).isnan())


def test_lrn_refusals() -> None:
    blocked = dense((1, 16, 4, 4), Format.blocked16)
    with pytest.raises(ValueError, match="plain and channels_last"):
        _native.lrn(blocked, blocked, 5, 1e-4, 0.75, 1.0)
    plain = dense((1, 16, 4, 4), Format.plain)
    with pytest.raises(ValueError, match="size"):
        _native.lrn(plain, plain, 0, 1e-4, 0.75, 1.0)
