"""``convolution`` and its gradients under torch's own names, against float64 and against torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import drystone
from agreement import assert_same_specials, relative_error

LAST = torch.channels_last_3d
NAMES = ("conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
SIZES = {1: (900,), 2: (33, 30), 3: (9, 16, 18)}
INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    with drystone.enabled(only=["convolution"], reuse_pages=False):
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def operands(name: str, c: int, o: int, k: int | Sequence[int], batch: int = 1, size: Any = None, groups: int = 1) -> list[Tensor]:
    """x, weight and bias."""
    axes = int(name[-2])
    window = (k,) * axes if isinstance(k, int) else tuple(k)
    channels = (c, o // groups) if "transpose" in name else (o, c // groups)
    weight = normal(*channels, *window, seed=1) / (c * torch.Size(window).numel()) ** 0.5
    return [normal(batch, c, *(size or SIZES[axes])), weight, normal(o, seed=2)]


def results(name: str, given: list[Tensor], gradient: Tensor | None = None, **options: Any) -> list[Tensor]:
    """The convolution of ``given`` (x, weight and perhaps a bias), and where there is a gradient of it, those of the operands."""
    if gradient is None:
        return [getattr(F, name)(*given, **options)]
    leaves = [x.detach().requires_grad_() for x in given]
    y = getattr(F, name)(*leaves, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient.to(y.dtype))]


def check(name: str, given: list[Tensor], gradient: Tensor | bool | None = True, **options: Any) -> None:
    """``gradient``: a random one if True, none if False."""
    exact = [x.double() for x in given]
    if isinstance(gradient, bool):
        gradient = normal(*results(name, exact, **options)[0].shape, seed=3) if gradient else None
    got = results(name, given, gradient, **options)
    dense = all(x.is_contiguous() for x in given)
    for mine, want, like in zip(got, results(name, exact, gradient, **options), [None, *given], strict=False):
        assert mine.shape == want.shape and mine.dtype == torch.float32
        assert relative_error(mine, want) < 2e-6
        assert not dense or like is None or mine.stride() == like.stride()


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("c", "o", "k"), [(16, 32, 3), (17, 33, 3), (32, 24, 2), (64, 7, 4), (1, 32, 3), (3, 16, 5)])
@pytest.mark.parametrize("name", NAMES)
def test_channels(name: str, c: int, o: int, k: int, with_bias: bool) -> None:
    check(name, operands(name, c, o, k)[: 3 if with_bias else 2], stride=2 if "transpose" in name else 1)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 2},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2, 2), "padding": (0, 1, 2)},
        {"stride": (3, 1, 2)},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("c", [2, 32])
def test_conv3d(c: int, options: dict[str, Any]) -> None:
    given = operands("conv3d", c, 48, 3, batch=2, groups=options.get("groups", 1))
    check("conv3d", given, "groups" not in options, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (1, 2, 3), "padding": (1, 0, 1), "output_padding": (0, 1, 2)},
        {"stride": 1, "dilation": 2, "output_padding": 1},
        {"stride": 3},
        {"stride": 4},
        {"stride": 2, "groups": 2},
    ],
    ids=str,
)
def test_conv_transpose3d(options: dict[str, Any]) -> None:
    given = operands("conv_transpose3d", 32, 24, 3, batch=2, groups=options.get("groups", 1))
    check("conv_transpose3d", given, "groups" not in options, **options)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("window", [(1, 1, 2), (2, 2, 2), (3, 2, 1), (1, 3, 4), (2, 1, 3)])
@pytest.mark.parametrize(("batch", "c", "o", "size"), [(2, 24, 5, (7, 9, 21)), (1, 33, 17, (6, 16, 16)), (3, 130, 32, (1, 3, 15))])
def test_windows_side_by_side(
    batch: int, c: int, o: int, size: tuple[int, ...], window: tuple[int, ...], threads: int
) -> None:  # fmt: skip
    """Every remainder of positions and of rows; windows of any width; with a rest that fills none."""
    torch.set_num_threads(threads)
    rest = tuple(n * k + k - 1 for n, k in zip(size, window, strict=True))
    calls = [
        (
            name := f"conv_transpose{axes}d",
            operands(name, c, o, window[3 - axes :], batch * (40 if axes == 1 else 1), size[3 - axes :]),
        )
        for axes in (1, 2, 3)
    ]
    for name, given in [*calls, ("conv3d", operands("conv3d", o, c, window, batch, rest))]:
        for count in (3, 2):
            check(name, given[:count], False, stride=given[1].shape[2:])


@pytest.mark.parametrize(("c", "o", "size"), [(256, 128, (5, 7, 9)), (16, 64, (20, 20, 24)), (300, 64, (2, 3, 4))])
def test_windows_side_by_side_beyond_the_caches(c: int, o: int, size: tuple[int, ...]) -> None:
    check("conv_transpose3d", operands("conv_transpose3d", c, o, 2, size=size), stride=2)
    check("conv3d", operands("conv3d", o, c, 2, size=[2 * n for n in size]), stride=2)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [(9, 16, 18), (5, 5, 7)])
@pytest.mark.parametrize(
    ("k", "padding"), [((3, 3, 3), 0), ((3, 3, 3), 1), ((3, 3, 3), (0, 1, 0)), ((1, 3, 3), (0, 1, 1)), ((3, 3, 3), 2)]
)
@pytest.mark.parametrize("name", ["conv3d", "conv_transpose3d"])
def test_kernels_of_three_with_stride_one(
    name: str, k: tuple[int, ...], padding: int | tuple[int, ...], size: tuple[int, ...], last: bool
) -> None:  # fmt: skip
    """Winograd's, transposed or not, where there are tiles enough; so are their gradients, with weights turned round for one of them."""
    x, weight, bias = operands(name, 32, 48, k, 3, size)
    x = x.contiguous(memory_format=LAST) if last else x
    for w in (weight, weight.contiguous(memory_format=LAST)):
        check(name, [x, w, bias], padding=padding)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_kernels_of_three_over_two_axes(padding: int) -> None:
    check("conv_transpose2d", operands("conv_transpose2d", 16, 48, 3, 2), padding=padding)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("c", "o"), [(16, 48), (48, 16)])
@pytest.mark.parametrize("k", [(3, 3, 3), (1, 3, 3)])
@pytest.mark.parametrize("padding", [(1, 1, 1), (0, 0, 1), (1, 0, 0)])
@pytest.mark.parametrize(("batch", "size"), [(1, (5, 16, 18)), (2, (11, 13, 15)), (1, (3, 70, 49))])
def test_weights_by_winograds_method(
    batch: int, size: tuple[int, ...], padding: tuple[int, ...], k: tuple[int, ...], c: int, o: int, threads: int
) -> None:  # fmt: skip
    """Every remainder of tiles, of blocks of them, and of slices."""
    torch.set_num_threads(threads)
    given = operands("conv3d", c, o, k, batch, size)
    padding = padding if k[0] == 3 else (0, *padding[1:])
    check("conv3d", given, padding=padding)
    check("conv3d", [x.contiguous(memory_format=LAST) if x.ndim == 5 else x for x in given], padding=padding)


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("where", ["corners of x", "x", "gradient"])
@pytest.mark.parametrize("name", ["conv3d", "conv_transpose3d"])
def test_what_is_not_finite_reaches_what_torchs_reaches(name: str, where: str, value: float) -> None:
    given = operands(name, 16, 32, 3, 2)
    gradient = normal(*results(name, given, padding=1)[0].shape, seed=3)
    # Gradients away from the border: some kernels of torch's multiply padding, others do not.
    places = ((0, 3, 0, 0, 0), (1, 7, 4, 5, 6), (1, 15, 8, 15, 17)) if where == "corners of x" else ((0, 5, 3, 4, 5),)
    for place in places:
        (gradient if where == "gradient" else given[0])[place] = value
    backward = None if where == "corners of x" else gradient
    wanted = results(name, [x.double() for x in given], backward, padding=1)
    for got, want in zip(results(name, given, backward, padding=1), wanted, strict=True):
        finite = assert_same_specials(got, want)
        assert relative_error(got[finite], want[finite]) < 2e-6


@pytest.mark.parametrize("value", [INF, NAN, 3e38])
@pytest.mark.parametrize("name", ["conv3d", "conv_transpose3d"])
def test_weights_that_are_not_finite_or_nearly_so(name: str, value: float) -> None:
    """Winograd's method would spread them over all outputs of a channel."""
    given = [torch.full((1, 16, 4, 32, 32), 1e-6), torch.ones(16, 16, 3, 3, 3)]
    given[1][0, 0, 1, 1, 1] = value
    ones = torch.ones(1, 16, 4, 32, 32)
    got = results(name, given, ones, padding=1)
    with_torchs = torchs(lambda: results(name, given, ones, padding=1))
    for mine, want in zip(got[:2], with_torchs[:2], strict=True):
        torch.testing.assert_close(mine, want, equal_nan=True)


@pytest.mark.parametrize(("axes", "c", "o", "k", "stride"), [(2, 128, 64, 8, 4), (3, 64, 64, 4, 2), (2, 512, 256, 4, 2)])
def test_large_weights_take_one_bias(axes: int, c: int, o: int, k: int, stride: int) -> None:
    x, weight, bias = operands(name := f"conv_transpose{axes}d", c, o, k, size=(8,) * axes)
    for given in ([x, weight, 100 * bias], [x, weight]):
        check(name, given, False, stride=stride, padding=1)


STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=LAST),
    "transposed": lambda x: x.transpose(2, 4).contiguous().transpose(2, 4),
    "slice": lambda x: torch.cat((x, x), 1)[:, 16:48],
    "every second": lambda x: x.repeat_interleave(2, 3)[:, :, :, ::2],
    "expanded": lambda x: x[:, :1].expand_as(x),
    "flipped axes of one": lambda x: x[:, :, :3, :3],
}


@pytest.mark.parametrize("kind", STRIDES)
@pytest.mark.parametrize("name", ["conv3d", "conv_transpose3d"])
def test_strides(name: str, kind: str) -> None:
    x, weight, bias = operands(name, 32, 32, 3, 2)
    x = STRIDES[kind](x)
    gradient = normal(*results(name, [x, weight])[0].shape, seed=3)
    gradients = [gradient, gradient.contiguous(memory_format=LAST), gradient[:1, :, :1, :1, :1].expand_as(gradient)]
    for given in gradients:
        check(
            name, [x, weight, bias], given if kind != "expanded" else False
        )  # torch's sums of a gradient of one number are far off
    for kernel in (weight.transpose(2, 4), weight.contiguous(memory_format=LAST)):
        check(name, [x, kernel, bias], False)


def test_results_and_gradients_lie_as_their_inputs_do() -> None:
    x, weight, bias = operands("conv3d", 32, 24, 3)
    last = x.contiguous(memory_format=LAST)
    assert F.conv3d(last, weight, bias).is_contiguous(memory_format=LAST)
    assert F.conv3d(x, weight, bias).is_contiguous() and F.conv3d(x.transpose(2, 4), weight, bias).is_contiguous()
    given = [last, weight.contiguous(memory_format=LAST)]
    of_x, of_weight = results("conv3d", given, normal(*F.conv3d(*given).shape))[1:]
    assert of_x.is_contiguous(memory_format=LAST) and of_weight.is_contiguous(memory_format=LAST)


def torchs(call: Callable[[], Any]) -> Any:
    """What torch's own kernels give."""
    drystone.disable()
    with drystone.enabled(only=[], reuse_pages=False):
        return call()


def test_no_batch() -> None:
    x, weight, bias = operands("conv3d", 32, 24, 3)
    assert F.conv3d(x[:0], weight, bias).shape == (0, 24, 7, 14, 16)
    assert F.conv3d(x[0], weight, bias).shape == (24, 7, 14, 16)


@pytest.mark.parametrize(
    "mask", [[True, False, False], [False, True, False], [False, False, True], [False, True, True], [False] * 3], ids=str
)
@pytest.mark.parametrize("served", [True, False])
def test_only_what_is_asked_for_is_computed(served: bool, mask: list[bool]) -> None:
    groups = 1 if served else 2
    x, weight, _ = operands("conv3d", 32, 32, 3, groups=groups)
    call = (normal(*F.conv3d(x, weight, groups=groups).shape), x, weight, [32], [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, groups)
    every = torch.ops.aten.convolution_backward(*call, [True] * 3)
    for result, whole, wanted in zip(torch.ops.aten.convolution_backward(*call, mask), every, mask, strict=True):
        assert result is None or wanted or not served  # torch's may be generous
        assert not wanted or torch.equal(result, whole)


def test_through_autograd() -> None:
    """A sum's gradient is an expanded scalar; a bias and an x that need no gradient are not given one."""
    x, weight, _ = operands("conv3d", 16, 16, 3)
    weight.requires_grad_()
    (got,) = torch.autograd.grad(F.conv3d(x, weight, torch.zeros(16)).sum(), weight)
    (want,) = torch.autograd.grad(F.conv3d(x.double(), weight.double()).sum(), weight)
    assert relative_error(got, want) < 2e-6


def test_second_derivatives_are_torchs() -> None:
    x, weight, _ = (y.requires_grad_() for y in operands("conv3d", 16, 16, 3))

    def second(dtype: torch.dtype) -> tuple[Tensor, ...]:
        y = F.conv3d(x.to(dtype), weight.to(dtype)).square().sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, weight))

    for got, want in zip(second(torch.float32), second(torch.float64), strict=True):
        assert relative_error(got, want) < 5e-6


def test_thread_counts_and_many_shapes() -> None:
    """Primitives are kept for so many shapes, and for each thread count."""
    _, weight, bias = operands("conv3d", 16, 16, 3)
    for size in range(5, 80):
        torch.set_num_threads(1 + size % 2)
        check("conv3d", [torch.randn(1, 16, 9, 9, size), weight, bias], False)
