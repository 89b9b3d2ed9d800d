"""reduce, softmax and norm against torch in float64, over formats, axes and block boundaries."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from layout import FORMATS, blank, dense, integers, lay, normal, outcome, place, read, run, strided

from drystone import _native

F = torch.nn.functional
PLAIN, CHANNELS_LAST, BLOCKED16, BLOCKED8 = FORMATS
DTYPES = [torch.float32, torch.bfloat16]


def fits(format, shape):
    """Whether the format has this rank and the channels fill its blocks."""
    if format == PLAIN:
        return True
    return 3 <= len(shape) <= 5 and (format == CHANNELS_LAST or shape[1] % (16 if format == BLOCKED16 else 8) == 0)


def reduce(
    x, kind, dims, format=PLAIN, dtype=torch.float32, keepdim=True, output_format=PLAIN, output_dtype=torch.float32, threads=2
):
    desc, buffer = lay(x, format, dtype)
    shape = [1 if i in dims else n for i, n in enumerate(x.shape) if keepdim or i not in dims]
    output = dense(tuple(shape), output_format, output_dtype)
    return outcome(_native.reduce(desc, output, kind, list(dims)), output, buffer, threads=threads)


def subsets(rank):
    return [dims for count in range(1, rank + 1) for dims in itertools.combinations(range(rank), count)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", subsets(4), ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_sum_over_every_choice_of_axes(format, dims, dtype):
    x = integers(2, 32, 5, 7)
    for keepdim in (True, False):
        assert torch.equal(reduce(x, "sum", dims, format, dtype, keepdim), x.sum(dims, keepdim=keepdim))


@pytest.mark.parametrize(
    "shape", [(1, 16, 1, 1), (1, 16, 40, 40), (3, 48, 7, 7), (2, 1040, 3, 3), (2, 64, 33), (1, 32, 4, 5, 6), (1, 272, 1, 9)]
)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("format", FORMATS)
def test_spatial_mean(format, threads, shape):
    x, dims = integers(*shape), tuple(range(2, len(shape)))
    for output_format in FORMATS:
        actual = reduce(x, "mean", dims, format, output_format=output_format, threads=threads)
        torch.testing.assert_close(actual.double(), x.double().mean(dims, keepdim=True), rtol=1e-7, atol=0)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 255, 256, 257, 1023, 1025, 4095, 4096, 4097, 10000])
def test_every_length(count):
    x = integers(3, count)
    assert torch.equal(reduce(x, "sum", (1,)), x.sum(1, keepdim=True))
    assert torch.equal(reduce(x.T.contiguous(), "sum", (0,)), x.T.sum(0, keepdim=True))


@pytest.mark.parametrize(
    "shape,dims", [((100_000,), (0,)), ((3, 100_000), (1,)), ((100_000, 3), (0,)), ((7, 300, 500), (0, 2)), ((300, 5, 200), (0, 2))]
)
def test_long_sums_stay_accurate(shape, dims):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    actual = reduce(x, "mean", dims)
    torch.testing.assert_close(actual.double(), x.double().mean(dims, keepdim=True), rtol=1e-6, atol=0)
    assert torch.equal(actual, reduce(x, "mean", dims, threads=1))


def test_reduce_bfloat16_output():
    x = integers(4, 16, 9)
    assert torch.equal(reduce(x, "sum", (2,), output_dtype=torch.bfloat16), x.sum(2, keepdim=True).bfloat16())


def test_reduce_special_values():
    x = torch.zeros(5, 40)
    x[0, 3], x[1, 39], x[2, 0], x[2, 1] = math.nan, math.inf, math.inf, -math.inf
    x[3] = 1e-41
    for y, dim in ((x, 1), (x.T.contiguous(), 0)):
        torch.testing.assert_close(reduce(y, "sum", (dim,)), y.sum(dim, keepdim=True), rtol=1e-6, atol=0, equal_nan=True)


def test_reduce_empty():
    assert torch.equal(reduce(torch.zeros(3, 0), "sum", (1,)), torch.zeros(3, 1))
    assert torch.equal(reduce(torch.zeros(0, 3), "sum", (0,)), torch.zeros(1, 3))
    assert reduce(torch.zeros(3, 0), "mean", (1,)).isnan().all()
    assert reduce(torch.zeros(0, 3), "mean", (1,)).shape == (0, 1)
    assert torch.equal(reduce(integers(3, 1, 1), "mean", (1, 2)), integers(3, 1, 1))
    assert torch.equal(reduce(integers(3, 5), "sum", ()), integers(3, 5))


@pytest.mark.parametrize("dims", [(1,), (2, 3), (0, 2, 3), (3,)], ids=str)
def test_reduce_strided(dims):
    x = integers(2, 16, 6, 4)
    layouts = [
        (PLAIN, (900, 50, 7, 1)),
        (PLAIN, (1, 2, 64, 700)),
        (CHANNELS_LAST, (2000, 1, 200, 24)),
        (BLOCKED16, (1500, 600, 100, 16)),
    ]
    for format, strides in layouts:
        source = strided(tuple(x.shape), strides, format)
        shape = tuple(1 if i in dims else n for i, n in enumerate(x.shape))
        target = strided(shape, (500, 30, 5, 1), PLAIN)
        buffer = blank(target)
        run(_native.reduce(source, target, "sum", list(dims)), place(x, source), buffer)
        assert torch.equal(read(target, buffer), x.sum(dims, keepdim=True))


def softmax(x, dim, format=PLAIN, dtype=torch.float32, output_dtype=torch.float32, threads=2):
    desc, buffer = lay(x, format, dtype)
    output = dense(x.shape, format, output_dtype)
    return outcome(_native.softmax(desc, output, dim), output, buffer, threads=threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", range(4))
@pytest.mark.parametrize("format", FORMATS)
def test_softmax_over_every_axis(format, dim, dtype):
    x = normal(3, 32, 5, 7).to(dtype).float() * 3
    x = x.to(dtype).float()
    torch.testing.assert_close(softmax(x, dim, format, dtype).double(), x.double().softmax(dim), rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("shape", [(2, 1), (3, 7), (3, 17), (5, 197), (4, 1000), (3, 4095), (2, 4097), (1, 20000), (40, 1024)])
@pytest.mark.parametrize("output_dtype", DTYPES)
def test_softmax_lengths(shape, output_dtype):
    x = normal(*shape)
    tolerance = dict(rtol=4e-6, atol=0) if output_dtype == torch.float32 else dict(rtol=2**-8, atol=0)
    for threads in (1, 2):
        actual = softmax(x, 1, output_dtype=output_dtype, threads=threads)
        torch.testing.assert_close(actual.double(), x.double().softmax(1), **tolerance)
        columns = softmax(x.T.contiguous(), 0, output_dtype=output_dtype, threads=threads)
        torch.testing.assert_close(columns.double(), x.T.double().softmax(0), **tolerance)


@pytest.mark.parametrize("length", [4, 40, 5000])
def test_softmax_special_values(length):
    x = torch.zeros(7, length)
    x[0] = -math.inf
    x[1, 1], x[2, 2], x[3, 3] = math.nan, math.inf, -math.inf
    x[4] = 1e4
    x[5] = -3e38
    x[5, 0] = 3e38
    torch.testing.assert_close(softmax(x, 1), x.softmax(1), rtol=3e-6, atol=0, equal_nan=True)
    torch.testing.assert_close(softmax(x.T.contiguous(), 0), x.T.softmax(0), rtol=3e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("format", FORMATS)
def test_softmax_in_place(format, dim, dtype):
    x = normal(2, 16, 30, 33)
    desc, buffer = lay(x, format, dtype)
    run(_native.softmax(desc, desc, dim), buffer, buffer)
    assert torch.equal(read(desc, buffer), softmax(x, dim, format, dtype, dtype))


def test_softmax_strided_and_empty():
    x = normal(3, 5, 9)
    source, target = strided((3, 5, 9), (200, 2, 20), PLAIN), strided((3, 5, 9), (120, 10, 1), PLAIN)
    for dim in range(3):
        buffer = blank(target)
        run(_native.softmax(source, target, dim), place(x, source), buffer)
        torch.testing.assert_close(read(target, buffer).double(), x.double().softmax(dim), rtol=2e-6, atol=0)
    assert softmax(torch.zeros(0, 3), 1).shape == (0, 3)
    assert softmax(torch.zeros(3, 0), 1).shape == (3, 0)


def norm(
    x,
    kind,
    dims=(),
    groups=1,
    weight=None,
    bias=None,
    eps=1e-5,
    format=PLAIN,
    dtype=torch.float32,
    parameters=torch.float32,
    threads=2,
):
    desc, buffer = lay(x, format, dtype)
    w, b = (None if p is None else lay(p, PLAIN, parameters) for p in (weight, bias))
    output = dense(x.shape, format, dtype)
    step = _native.norm(desc, w and w[0], b and b[0], output, kind, list(dims), groups, eps)
    return outcome(step, output, buffer, *(p[1] for p in (w, b) if p), threads=threads)


def layer_reference(x, dims, weight, bias, eps=1e-5, centred=True):
    x = x.double()
    x = x - x.mean(dims, keepdim=True) if centred else x
    shape = [n if i in dims else 1 for i, n in enumerate(x.shape)]
    y = x / (x.square().mean(dims, keepdim=True) + eps).sqrt()
    y = y if weight is None else y * weight.double().reshape(shape)
    return y if bias is None else y + bias.double().reshape(shape)


def assert_close(actual, expected, dtype=torch.float32):
    tolerance = dict(rtol=2e-6, atol=3e-6) if dtype == torch.float32 else dict(rtol=2**-8, atol=1e-5)
    torch.testing.assert_close(actual.double(), expected, **tolerance)


def parameters_of(shape, which):
    weight = normal(*shape, seed=1) if "w" in which else None
    return weight, normal(*shape, seed=2) if "b" in which else None


@pytest.mark.parametrize("which", ["", "w", "b", "wb"])
@pytest.mark.parametrize("dims", [(1,), (3,), (2, 3), (1, 2, 3), (0,)], ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms(kind, format, dims, which):
    x = normal(3, 32, 5, 7) * 3 + 1
    weight, bias = parameters_of([x.shape[i] for i in dims], which)
    for dtype in DTYPES:
        y = x.to(dtype).float()
        expected = layer_reference(y, dims, weight, bias, centred=kind == "layer")
        assert_close(norm(y, kind, dims, weight=weight, bias=bias, format=format, dtype=dtype), expected, dtype)


@pytest.mark.parametrize("size", [1, 7, 16, 17, 31, 64, 768, 1025, 4096, 4097, 9000])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_lengths(kind, size, threads):
    x = normal(9, size) + 5
    weight, bias = parameters_of([size], "wb")
    if size == 1 and kind == "layer":
        assert torch.equal(norm(x, kind, (1,), weight=weight, bias=bias, threads=threads), bias.expand(9, 1))
        return
    for y, dims in ((x, (1,)), (x.T.contiguous(), (0,))):
        expected = layer_reference(y, dims, weight, bias, centred=kind == "layer")
        assert_close(norm(y, kind, dims, weight=weight, bias=bias, threads=threads), expected)


def test_norm_far_from_zero():
    x = (normal(6, 3000) + 1000).float()
    assert_close(norm(x, "layer", (1,)), layer_reference(x, (1,), None, None))
    assert_close(norm(x, "layer", (0,)), layer_reference(x, (0,), None, None))


GROUPS = [(32, 1), (32, 2), (32, 4), (32, 8), (32, 16), (32, 32), (96, 3), (96, 32), (640, 32), (528, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels,groups", GROUPS)
@pytest.mark.parametrize("format", FORMATS)
def test_group_norm(format, channels, groups, dtype):
    weight, bias = parameters_of([channels], "wb")
    for spatial in ((5, 7), (1, 1), (12, 11), (3, 4, 5)):
        x = (normal(2, channels, *spatial) * 2 + 3).to(dtype).float()
        block, members = {BLOCKED16: 16, BLOCKED8: 8}.get(format, 1), channels // groups
        if members % block and block % members:
            with pytest.raises(ValueError, match="fit"):
                norm(x, "group", groups=groups, format=format)
            continue
        expected = F.group_norm(x.double(), groups, weight.double(), bias.double())
        assert_close(norm(x, "group", (), groups, weight, bias, format=format, dtype=dtype), expected, dtype)
        assert_close(
            norm(x, "group", (), groups, weight, format=format, dtype=dtype),
            F.group_norm(x.double(), groups, weight.double()),
            dtype,
        )
        assert_close(norm(x, "group", (), groups, format=format, dtype=dtype, threads=1), F.group_norm(x.double(), groups), dtype)


@pytest.mark.parametrize("format", [PLAIN, CHANNELS_LAST])
def test_group_norm_of_odd_channels(format):
    for channels, groups in ((6, 3), (9, 3), (7, 1), (35, 5), (130, 2), (1030, 10)):
        x = normal(2, channels, 3, 11)
        weight, bias = parameters_of([channels], "wb")
        expected = F.group_norm(x.double(), groups, weight.double(), bias.double())
        assert_close(norm(x, "group", (), groups, weight, bias, format=format), expected)


@pytest.mark.parametrize("format", [PLAIN, CHANNELS_LAST])
def test_batch_norm(format):
    weight, bias = parameters_of([24], "wb")
    for shape in ((3, 24, 5, 7), (1, 24, 2, 3, 4), (2, 24, 8)):
        x = normal(*shape) * 2 + 3
        expected = F.batch_norm(x.double(), None, None, weight.double(), bias.double(), training=True)
        assert_close(norm(x, "batch", (), 1, weight, bias, format=format), expected)
        assert_close(norm(x, "batch", format=format), F.batch_norm(x.double(), None, None, training=True))


def test_group_norm_of_a_matrix():
    x, (weight, bias) = normal(5, 24), parameters_of([24], "wb")
    assert_close(norm(x, "group", (), 6, weight, bias), F.group_norm(x.double(), 6, weight.double(), bias.double()))


@pytest.mark.parametrize("format", FORMATS)
def test_norm_in_bfloat16(format):
    x = (normal(2, 32, 6, 6) * 2 + 1).bfloat16().float()
    weight, bias = (p.bfloat16().float() for p in parameters_of([32], "wb"))
    actual = norm(x, "layer", (1,), weight=weight, bias=bias, format=format, dtype=torch.bfloat16, parameters=torch.bfloat16)
    assert actual.dtype == torch.bfloat16
    assert_close(actual, layer_reference(x, (1,), weight, bias), torch.bfloat16)


@pytest.mark.parametrize("format", FORMATS)
def test_norm_in_place(format):
    x = normal(2, 32, 20, 30)
    desc, buffer = lay(x, format)
    run(_native.norm(desc, None, None, desc, "layer", [1], 1, 1e-5), buffer, buffer)
    assert torch.equal(read(desc, buffer), norm(x, "layer", (1,), format=format))
    desc, buffer = lay(x, format)
    run(_native.norm(desc, None, None, desc, "group", [], 4, 1e-5), buffer, buffer)
    assert torch.equal(read(desc, buffer), norm(x, "group", groups=4, format=format))


def test_norm_strided():
    x = normal(2, 16, 6, 4)
    layouts = [
        (PLAIN, (900, 50, 7, 1)),
        (PLAIN, (1, 2, 64, 700)),
        (CHANNELS_LAST, (2000, 1, 200, 24)),
        (BLOCKED16, (1500, 600, 100, 16)),
    ]
    weight, bias = parameters_of([16], "wb")
    (w, ws), (b, bs) = lay(weight), lay(bias)
    for format, strides in layouts:
        desc = strided(tuple(x.shape), strides, format)
        for kind, expected in (
            ("layer", layer_reference(x, (1,), weight, bias)),
            ("group", F.group_norm(x.double(), 4, weight.double(), bias.double())),
        ):
            result = blank(desc)
            run(_native.norm(desc, w, b, desc, kind, [1], 4, 1e-5), place(x, desc), ws, bs, result)
            assert_close(read(desc, result), expected)


def test_norm_special_values():
    x = normal(4, 50)
    x[0, 3], x[1, 4] = math.nan, math.inf
    x[2] = 7
    for actual in (norm(x, "layer", (1,)), norm(x.T.contiguous(), "layer", (0,)).T):
        assert actual[:2].isnan().all()
        assert torch.equal(actual[2], torch.zeros(50))
        assert not actual[3].isnan().any()


def test_norm_empty():
    assert norm(torch.zeros(0, 8), "layer", (1,)).shape == (0, 8)
    assert norm(torch.zeros(3, 0), "layer", (1,)).shape == (3, 0)
    assert norm(torch.zeros(0, 8, 3), "group", groups=2).shape == (0, 8, 3)


def test_refusals():
    plain, padded, small = dense((2, 24, 3), PLAIN), dense((2, 24, 3), BLOCKED16), dense((2, 24, 1), PLAIN)
    weight, full = dense((24,), PLAIN), dense((2, 32, 3), BLOCKED16)
    refused = [
        ("mean and sum", lambda: _native.reduce(plain, small, "max", [2])),
        ("padded", lambda: _native.reduce(padded, small, "sum", [2])),
        ("padded", lambda: _native.reduce(plain, dense((2, 24, 1), BLOCKED16), "sum", [2])),
        ("reduced over", lambda: _native.reduce(plain, plain, "sum", [2])),
        ("reduced over", lambda: _native.reduce(plain, dense((24,), PLAIN), "sum", [1])),
        ("rising", lambda: _native.reduce(plain, small, "sum", [3])),
        ("rising", lambda: _native.reduce(plain, small, "sum", [2, 1])),
        ("f64", lambda: _native.reduce(dense((2, 24, 3), PLAIN, torch.float64), small, "sum", [2])),
        ("padded", lambda: _native.softmax(padded, padded, 1)),
        ("shape", lambda: _native.softmax(plain, small, 1)),
        ("rising", lambda: _native.softmax(plain, plain, 3)),
        ("layer, rms, group and batch", lambda: _native.norm(plain, None, None, plain, "instance", [1], 1, 1e-5)),
        ("plain tensors and channels_last", lambda: _native.norm(full, None, None, full, "batch", [], 1, 1e-5)),
        ("equal groups", lambda: _native.norm(plain, None, None, plain, "group", [], 5, 1e-5)),
        ("weight and bias", lambda: _native.norm(plain, dense((3,), PLAIN), None, plain, "group", [], 4, 1e-5)),
        ("weight and bias", lambda: _native.norm(plain, None, weight, plain, "layer", [2], 1, 1e-5)),
        ("padded", lambda: _native.norm(padded, weight, None, padded, "group", [], 4, 1e-5)),
        ("needs axes", lambda: _native.norm(plain, None, None, plain, "layer", [], 1, 1e-5)),
    ]
    for message, make in refused:
        with pytest.raises(ValueError, match=message):
            make()
