"""What is wrong with an input is said by an error of ours that names the input, what was expected and what came.

What only looks odd (strided, empty, negated, channels last) works.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import Reference, program_of
from drystone import CaptureError, DrystoneError, DrystoneWarning, InputError, ShapeError, UnsupportedError, native

X = (2, 3, 9, 8)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, image: torch.Tensor, shift: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return F.relu(self.conv(image)) * scale + shift


def optimize(model: nn.Module, *inputs: Any, **options: Any) -> Any:
    return drystone.optimize(model.eval(), inputs, tuning="estimate", **options)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return TwoInputs().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def fast(model: nn.Module) -> Any:
    return optimize(model, torch.randn(X), torch.randn(16, 1, 1))


def says(*words: str) -> str:
    """A pattern for pytest.raises: all the words, in any order."""
    return "(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)


# -- calls that are refused


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda x, s: (x[:, :2], s), ShapeError, ("'image' has 2 instead of 3 along dimension 1", "F.relu(self.conv(image))")),
        (lambda x, s: (x[0], s), ShapeError, ("'image'", "[*, *, *, *]", "[3, 9, 8]")),
        (lambda x, s: (x, s[:5]), ShapeError, ("'shift' has 5 instead of 16 along dimension 0", "* scale + shift")),
        (lambda x, s: (x.double(), s), InputError, ("'image'", "torch.float32", "torch.float64", ".to(")),
        (lambda x, s: (x, s.bfloat16()), InputError, ("'shift'", "torch.float32", "torch.bfloat16")),
        (lambda x, s: (x.long(), s), InputError, ("'image'", "torch.float32", "torch.int64")),
        (lambda x, s: (x.to("meta"), s), InputError, ("'image'", "CPU", "meta", ".cpu()")),
        (lambda x, s: (x,), InputError, ("shift",)),
        (lambda x, s: (), InputError, ("image",)),
        (lambda x, s: (x, s, 1.0, x), InputError, ("image", "shift")),
        (lambda x, s: (x, [s]), InputError, ("image", "shift")),
        (lambda x, s: (x.numpy(), s), InputError, ("'image'", "tensor", "ndarray")),
        (lambda x, s: (None, s), InputError, ("image",)),
        (lambda x, s: ("x", s), InputError, ("'image'", "tensor", "str")),
    ],
)
def test_call_is_refused(fast: Any, change: Callable[..., Any], error: type[Exception], words: tuple[str, ...]) -> None:
    image, shift = torch.randn(X), torch.randn(16, 1, 1)
    good = fast(image, shift)
    with pytest.raises(error, match=says(*words)) as caught:
        fast(*change(image, shift))
    assert isinstance(caught.value, DrystoneError)
    assert torch.equal(fast(image, shift), good), "the module is damaged by a refused call"


def test_unknown_name_is_refused(fast: Any) -> None:
    with pytest.raises(InputError, match=says("picture")):
        fast(torch.randn(X), torch.randn(16, 1, 1), picture=torch.randn(X))


def test_positions_and_names_are_one(fast: Any) -> None:
    image, shift = torch.randn(X), torch.randn(16, 1, 1)
    want = fast(image, shift)
    assert torch.equal(fast(image, shift=shift), want)
    assert torch.equal(fast(shift=shift, image=image), want)
    assert torch.equal(fast(image, shift, scale=1.0), want)


def test_number_that_was_captured_is_checked(model: nn.Module) -> None:
    fast = optimize(model, torch.randn(X), torch.randn(16, 1, 1), 2.0)
    fast(torch.randn(X), torch.randn(16, 1, 1), 2.0)
    with pytest.raises(InputError, match=says("'scale'", "2.0", "3.0")):
        fast(torch.randn(X), torch.randn(16, 1, 1), 3.0)


def test_requires_grad_is_refused_in_grad_mode_only(fast: Any) -> None:
    image, shift = torch.randn(X), torch.randn(16, 1, 1)
    want = fast(image, shift)
    image.requires_grad_()
    with pytest.raises(InputError, match=says("'image'", "inference", "no_grad", "detach")):
        fast(image, shift)
    with torch.no_grad():
        assert torch.equal(fast(image, shift), want)
    with torch.inference_mode():
        assert torch.equal(fast(image, shift), want)
    assert torch.equal(fast(image.detach(), shift), want)


def test_results_carry_no_gradient(fast: Any) -> None:
    assert not fast(torch.randn(X), torch.randn(16, 1, 1)).requires_grad


def test_training_mode_is_refused(fast: Any) -> None:
    with pytest.raises(InputError, match=says("inference", "train")):
        fast.train()
    assert fast.eval() is fast and not fast.training


# -- calls that work


def strange(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors equal to x that do not lie in memory as x does."""
    inside = torch.zeros(x.shape[0], x.shape[1] + 2, x.shape[2], x.shape[3] * 2)
    inside[:, 1:-1, :, ::2] = x
    return {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": inside[:, 1:-1, :, ::2],
        "with an offset": torch.cat([torch.zeros(7), x.flatten()])[7:].view(x.shape),
        "negated": torch._neg_view(-x),
        "a parameter": nn.Parameter(x, requires_grad=False),
        "from numpy": torch.from_numpy(x.numpy().copy()),
    }


@pytest.mark.parametrize("how", strange(torch.zeros(X)))
def test_strides_do_not_matter(fast: Any, how: str) -> None:
    x, shift = torch.randn(X), torch.randn(16, 1, 1)
    odd = strange(x)[how]
    assert torch.equal(odd, x)
    assert torch.equal(fast(odd, shift), fast(x, shift))


def test_expanded_input(fast: Any) -> None:
    x, shift = torch.randn(1, 3, 9, 1), torch.randn(16, 1, 1)
    assert torch.equal(fast(x.expand(X), shift), fast(x.expand(X).contiguous(), shift))
    zero_strides = torch.randn(()).expand(16, 1, 1)
    assert torch.equal(fast(x.expand(X), zero_strides), fast(x.expand(X), zero_strides.contiguous()))


def test_example_inputs_may_be_strided(model: nn.Module) -> None:
    x, shift = strange(torch.randn(X))["strided"], torch.randn(16, 1, 1)
    fast = optimize(model, x, shift)
    Reference(model, (x, shift)).check_float32(fast(x.contiguous(), shift))
    Reference(model, (x, shift)).check_float32(fast(x, shift))


def test_inputs_are_not_written(fast: Any) -> None:
    x, shift = torch.randn(X), torch.randn(16, 1, 1)
    before = x.clone(), shift.clone()
    fast(x, shift)
    assert torch.equal(x, before[0]) and torch.equal(shift, before[1])


def test_outputs_are_fresh(fast: Any) -> None:
    x, shift = torch.randn(X), torch.randn(16, 1, 1)
    first = fast(x, shift)
    kept = first.clone()
    fast(x + 1, shift)
    assert torch.equal(first, kept)
    first.add_(1)
    assert torch.equal(fast(x, shift), kept)


def test_output_that_is_an_input_is_a_copy() -> None:
    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x + 1

    fast = optimize(Same(), torch.randn(3, 4))
    x = torch.randn(3, 4)
    y, _ = fast(x)
    y.add_(1)
    assert torch.equal(y, x + 1)


@pytest.mark.parametrize("shape", [(0, 3, 9, 8), (2, 3, 0, 8), (2, 0, 9, 8)])
def test_zero_size_inputs_work(shape: tuple[int, ...]) -> None:
    convolved = math.prod(shape[1:]) > 0  # torch itself refuses to convolve an image without pixels or channels

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.conv(x) if convolved else x
            return torch.cat([F.relu(y), y], 1), y.flatten(1) * 2, y.sum((0, 2, 3))

    model = Small().eval()
    x = torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DrystoneWarning)
        fast = optimize(model, x)
    with torch.no_grad():
        want = model(x)
    for a, b in zip(fast(x), want, strict=True):
        assert a.shape == b.shape and torch.equal(a, b)


def test_zero_size_parts_work() -> None:
    class Parts(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[:, :0], torch.cat([x[:, 3:3], x[:, 2:]], 1)

    x = torch.randn(2, 16, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DrystoneWarning)
        nothing, rest = optimize(Parts(), x)(x)
    assert nothing.shape == (2, 0, 3) and torch.equal(rest, x[:, 2:])


# -- declared dynamic dimensions


@pytest.fixture(scope="module")
def dynamic(model: nn.Module) -> Any:
    batch = torch.export.Dim("batch", min=1, max=64)
    return optimize(model, torch.randn(X), torch.randn(16, 1, 1), dynamic_shapes=({0: batch}, None))


@pytest.mark.parametrize("batch", [2, 1, 5, 2, 16])
def test_declared_dimension_may_vary(model: nn.Module, dynamic: Any, batch: int) -> None:
    inputs = torch.randn(batch, *X[1:]), torch.randn(16, 1, 1)
    Reference(model, inputs).check_float32(dynamic(*inputs))
    Reference(model, inputs).check_float32(dynamic(*inputs))


def test_other_dimensions_may_not(dynamic: Any) -> None:
    with pytest.raises(ShapeError, match=says("'image'", "[*, 3, 9, 8]", "[2, 3, 9, 7]")):
        dynamic(torch.randn(2, 3, 9, 7), torch.randn(16, 1, 1))
    with pytest.raises(ShapeError, match=says("'shift'", "[16, 1, 1]", "[15, 1, 1]")):
        dynamic(torch.randn(X), torch.randn(15, 1, 1))


@pytest.mark.parametrize("said", ["much", "-1G", "2 TB", "1e9"])
def test_a_budget_that_is_none(model: nn.Module, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("DRYSTONE_MEMORY", said)
    with pytest.raises(InputError, match=says("DRYSTONE_MEMORY", said, "500M")):
        optimize(model, torch.randn(X), torch.randn(16, 1, 1))


# -- models and arguments that optimize refuses


class Divided(nn.Module):
    """Control flow that depends on the numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


def test_control_flow_on_data_names_the_line() -> None:
    lines, first = inspect.getsourcelines(Divided.forward)
    number = first + next(i for i, line in enumerate(lines) if "x.sum()" in line)
    with pytest.raises(CaptureError, match=says(f"{Path(__file__).name}:{number}", "if x.sum() > 0:", "torch.where")):
        optimize(Divided(), torch.randn(3))


def test_training_model_is_refused(model: nn.Module) -> None:
    with pytest.raises(CaptureError, match=says("training mode", "eval()")):
        drystone.optimize(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4))


def test_layer_in_training_mode_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4))).eval()
    net[1][0].train()
    with pytest.raises(CaptureError, match=says("'1.0'", "BatchNorm2d", "eval()")):
        drystone.optimize(net, torch.randn(1, 3, 4, 4))


def test_model_off_the_cpu_is_refused() -> None:
    with pytest.raises(CaptureError, match=says("'weight'", "meta", "cpu()")):
        drystone.optimize(nn.Conv2d(3, 4, 1, device="meta").eval(), torch.randn(1, 3, 4, 4))


def test_example_off_the_cpu_is_refused() -> None:
    with pytest.raises(InputError, match=says("CPU", "meta", "[0]")):
        drystone.optimize(nn.Conv2d(3, 4, 1).eval(), torch.randn(1, 3, 4, 4, device="meta"))


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"example_inputs": None}, InputError, ("example_inputs", "missing")),
        ({"dtype": torch.float16}, UnsupportedError, ("dtype", "torch.bfloat16", "torch.float16")),
        ({"dtype": "bfloat16"}, UnsupportedError, ("dtype", "torch.bfloat16", "bfloat16")),
        ({"tuning": "guess"}, InputError, ("tuning", "'measure'", "'estimate'", "'guess'")),
        ({"accuracy": "exact"}, InputError, ("accuracy", "'strict'", "'exact'")),
        ({"formats": "nhwc"}, InputError, ("formats", "'channels_last'", "'nhwc'")),
        ({"capture": "magic"}, InputError, ("capture", "'auto'", "'magic'")),
    ],
)
def test_argument_is_refused(options: dict[str, Any], error: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(error, match=says(*words)):
        drystone.optimize(nn.Linear(3, 4).eval(), **{"example_inputs": torch.randn(1, 3), **options})


def test_example_that_does_not_fit_the_model() -> None:
    with pytest.raises(CaptureError, match=says("Linear", "[1, 5]")):
        optimize(nn.Linear(3, 4), torch.randn(1, 5))


# -- what has no native implementation


class Accumulates(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.i0(x * 2) + 1


@pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen, and that is not worth a warning an operator")
def test_segments_are_said_and_refused_when_strict() -> None:
    x = torch.randn(3, 7)
    with pytest.warns(DrystoneWarning, match=says("ATen", "i0")):
        fast = optimize(Accumulates(), x)
    assert torch.equal(program_of(fast)([x])[0], Accumulates()(x))
    (segment,) = fast.explain().segments
    assert "i0" in segment.op and segment.reason
    assert "ATen runs" in str(fast.explain()) and "i0" in str(fast.explain())
    with pytest.raises(UnsupportedError, match=says("strict", "i0")):
        optimize(Accumulates(), x, strict=True)


# -- the tuning cache


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version": 99}', b"\x00\xff" * 100, b"[]", b'{"version": 1, "seconds": {"a": -1}}']
)
def test_unreadable_tuning_cache_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setenv("DRYSTONE_CACHE", str(tmp_path))
    net, x = nn.Conv2d(3, 8, 1).eval(), torch.randn(1, 3, 5, 5)
    drystone.optimize(net, x)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(content)
    with pytest.warns(DrystoneWarning, match=says(str(file), "rebuilt")):
        fast = drystone.optimize(net, x)
    Reference(net, (x,)).check_float32(program_of(fast)([x])[0])
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() != content and len(file.read_bytes()) > len(good) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", DrystoneWarning)
        drystone.optimize(net, x)


def test_tuning_cache_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DRYSTONE_CACHE", str(tmp_path / "file"))
    net, x = nn.Conv2d(3, 8, 1).eval(), torch.randn(1, 3, 5, 5)
    with pytest.warns(DrystoneWarning, match=says("tuning cache")):
        fast = drystone.optimize(net, x)
    Reference(net, (x,)).check_float32(fast(x))
