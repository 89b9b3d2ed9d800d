"""Every case of ``cases.py`` through ``drystone.optimize``, in each format and precision, against eager."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import ACTIVATIONS, CASES, Case, Net
from torch import nn

import drystone
from agreement import Reference, leaves, program_of
from drystone import native

pytestmark = [
    pytest.mark.usefixtures("shared_captures"),
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
]

FORMATS = (None, "plain", "channels_last", native.blocked().name)


@cache
def reference(case: Case) -> Reference:
    return Reference(*case.make(), name=case.name)


def optimize(case: Case, strict: bool = True, **options: Any) -> Any:
    return drystone.optimize(reference(case).model, reference(case).inputs, strict=strict, **options)


def by_name(cases: Any) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def in_formats(*formats: str | None) -> Any:
    return pytest.mark.parametrize("formats", formats, ids=lambda name: name or "free")


def assert_repeats(fast: Any, result: Any, inputs: Any) -> None:
    for a, b in zip(leaves(result), leaves(fast(*inputs)), strict=True):
        assert torch.equal(a, b), "two calls with the same inputs differ"


@in_formats(*FORMATS)
@by_name(CASES)
def test_float32(case: Case, formats: str | None, no_tuning_cache: None) -> None:
    expected = reference(case)
    fast = optimize(case, tuning="estimate", formats=formats)
    result = fast(*expected.inputs)
    (expected.check_exact if case.exact else expected.check_float32)(result)
    assert_repeats(fast, result, expected.inputs)


@in_formats(*FORMATS)
@by_name(CASES)
@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_bfloat16(case: Case, formats: str | None, no_tuning_cache: None) -> None:
    expected = reference(case)
    fast = optimize(case, tuning="estimate", formats=formats, dtype=torch.bfloat16)
    result = fast(*expected.inputs)
    expected.check_bfloat16(result)
    assert_repeats(fast, result, expected.inputs)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@by_name([case for case in CASES if case.measured])
def test_planned_by_measuring(case: Case, dtype: torch.dtype | None) -> None:
    """The program itself is run, as a call may go to eager where that was faster."""
    expected = reference(case)
    fast = optimize(case, dtype=dtype)
    check = expected.check_float32 if dtype is None else expected.check_bfloat16
    check(fast(*expected.inputs))
    check(program_of(fast)(list(expected.inputs)))


# NaN and infinities go where eager's go


def spoiled(shape: tuple[int, ...]) -> torch.Tensor:
    """Normal numbers, with a NaN, an infinity of each sign and both in one row, at places that no block begins with."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    flat = x.view(-1)
    for step, value in ((37, math.nan), (53, math.inf), (71, -math.inf)):
        flat[step % flat.numel() :: 4 * step] = value
    return x


SHAPE = (2, 24, 6, 7)
UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "adaptive_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 3),
    "global_pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3)),
    "sum-channels": lambda x: x.sum(1),
    "softmax": lambda x: F.softmax(x, 1),
    "softmax-rows": lambda x: F.softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, (7,)),
    "group_norm": lambda x: F.group_norm(x, 4),
    "clamp": lambda x: x.clamp(-1, 1),
    "clamp-min": lambda x: x.clamp(min=-1),
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "log": torch.log,
    "log10": torch.log10,
    "abs": torch.abs,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "erf": torch.erf,
    "pow3": lambda x: x**3,
    "pow1.7": lambda x: x**1.7,
    "scale": lambda x: x * 2 + 1,
    "times-zero": lambda x: x * 0,
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "bicubic-same-rows": lambda x: F.interpolate(x, size=(6, 4), mode="bicubic"),
    "antialias": lambda x: F.interpolate(x, size=(6, 3), mode="bilinear", antialias=True),
    "bicubic-antialias": lambda x: F.interpolate(x, size=(9, 3), mode="bicubic", antialias=True),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1)),
    "permute": lambda x: x.permute(0, 2, 3, 1) + 1,
    "flip": lambda x: x.flip(1, 3),
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "fold": lambda x: F.fold(x.flatten(2), (8, 8), (3, 2)),
    "cummax": lambda x: x.cummax(1).values,
    "cummin-places": lambda x: x.cummin(-1).indices.float(),
    "cumprod": lambda x: x.cumprod(2),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "amax": lambda x: x.amax(-1),
    "amin-columns": lambda x: x.amin(1),
    "median": lambda x: x.flatten(2).median(-1).values,
    "median-places": lambda x: x.flatten(1).median(-1).indices.float(),
    "kthvalue": lambda x: x.flatten(2).kthvalue(39).values,
    "kthvalue-of-columns": lambda x: x.flatten(0, 1).kthvalue(45, 0).values,
    "sort": lambda x: x.sort(1).values,
    "topk": lambda x: x.topk(4, -2, largest=False).values,
    "isnan": lambda x: x.isnan().float(),
    "nansum": lambda x: x.nansum(-1),
    "nanmean": lambda x: x.nanmean((1, 3)),
    "max": lambda x: x.max(1).values,
    "local_response_norm": lambda x: F.local_response_norm(x, 3),
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "cat": lambda x, y: torch.cat([x, y], 1),
}


def assert_specials_agree(module: nn.Module, *inputs: torch.Tensor, formats: str | None) -> None:
    eager = Reference(module.eval(), inputs)
    # Either will do: torch's vectorised float32 makes NaN of gelu(inf), its float64 and its tail loop make inf.
    (single,), (double,) = eager.float32, eager.float64
    fast = drystone.optimize(module, inputs, tuning="estimate", formats=formats, strict=True)
    got = fast(*inputs)
    kinds = [[test(y) for test in (torch.isnan, torch.isposinf, torch.isneginf)] for y in (got, single, double)]
    wrong = ~torch.stack([torch.stack([a == b for a, b in zip(kinds[0], other, strict=False)]).all(0) for other in kinds[1:]]).any(
        0
    )
    assert not wrong.any(), (
        f"{int(wrong.sum())} elements differ, first at {wrong.nonzero()[0].tolist()}: got {got[wrong][0]}, eager has {single[wrong][0]}"
    )


@pytest.mark.parametrize(("dtype", "computed"), [(torch.bfloat16, torch.bfloat16), (torch.float64, torch.float32)], ids=str)
def test_specials_in_inputs_of_other_dtypes(dtype: torch.dtype, computed: torch.dtype, no_tuning_cache: None) -> None:
    """oneDNN's relu after a convolution makes 0 of NaN, so such inputs must be seen whatever their dtype."""
    convolution = nn.Conv2d(16, 32, 3, stride=2, padding=1).to(computed)
    model = Net(lambda self, x: convolution(x.to(computed)).relu()).eval()
    x = spoiled((2, 16, 32, 32)).to(dtype)
    fast = drystone.optimize(model, (torch.zeros_like(x),), tuning="estimate", formats=FORMATS[-1])
    with torch.no_grad():
        want, got = model(x), fast(x)
    assert want.isnan().any()
    assert torch.equal(want.isnan(), got.isnan())
    assert torch.equal(want.isinf(), got.isinf())


@in_formats(*FORMATS[1:])
@pytest.mark.parametrize("name", UNARY)
def test_specials_through_unary(name: str, formats: str, no_tuning_cache: None) -> None:
    assert_specials_agree(Net(lambda self, x: UNARY[name](x)), spoiled(SHAPE), formats=formats)


@in_formats(*FORMATS[1:])
@pytest.mark.parametrize("name", BINARY)
def test_specials_through_binary(name: str, formats: str, no_tuning_cache: None) -> None:
    other = spoiled(SHAPE).flip(1).contiguous()
    assert_specials_agree(Net(lambda self, x, y: BINARY[name](x, y)), spoiled(SHAPE), other, formats=formats)


@in_formats(*FORMATS[1:])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_specials_through_activations(name: str, formats: str, no_tuning_cache: None) -> None:
    assert_specials_agree(ACTIVATIONS[name](), spoiled(SHAPE), formats=formats)


@in_formats(*FORMATS[1:])
@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_specials_through_convolution(name: str | None, formats: str, no_tuning_cache: None) -> None:
    """1×1 and of one channel a group, so that a NaN stays where it is and an infinity has a sign."""
    conv = nn.Conv2d(24, 24, 1, groups=24)
    module = nn.Sequential(conv, ACTIVATIONS[name]()) if name else conv
    assert_specials_agree(module, spoiled(SHAPE), formats=formats)


@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_specials_through_linear(name: str | None, no_tuning_cache: None) -> None:
    linear = nn.Linear(1, 24)
    module = nn.Sequential(linear, ACTIVATIONS[name]()) if name else linear
    assert_specials_agree(module, spoiled((300, 1)), formats=None)


def test_softplus_of_very_negative_numbers_keeps_its_digits() -> None:
    """log(1 + e) loses e below the last digit of 1; log1p does not."""
    x = torch.linspace(-80, -5, 301).reshape(1, 301)
    fast = drystone.optimize(nn.Softplus().eval(), x, tuning="estimate")
    (got,) = program_of(fast)([x])
    exact = nn.functional.softplus(x.double())
    assert ((got.double() - exact) / exact).abs().max() < 1e-6
