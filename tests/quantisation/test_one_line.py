"""One line that quantises: ``optimize(…, dtype=torch.int8, calibration=…)``."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import drystone
from drystone import native
from drystone.errors import CaptureError, InputError, ShapeError, UnsupportedError
from drystone.sources import quantised

pytest.importorskip("torchao")
pytestmark = pytest.mark.skipif(native.isa() == "none", reason="torch computes everything")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.block = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)).relu()
        y = (self.block(y) + y).relu()
        return self.head(nn.functional.max_pool2d(y, 2).mean((2, 3)))


def samples(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, 12, 12, generator=generator) for _ in range(count)]


def test_one_line() -> None:
    model, (x, *_) = Net(), samples()
    fast = drystone.optimize(model, x, dtype=torch.int8, calibration=samples(), tuning="estimate")
    expected = model(x)
    assert (fast(x) - expected).norm() < 0.03 * expected.norm()
    told = fast.explain()
    assert not told.segments and told.quantisation is not None
    assert {"", "conv", "block", "head"} <= set(told.quantisation.signal_to_noise)
    assert 20 < told.quantisation.signal_to_noise[""] < 80
    assert "signal to noise" in str(told) and "dB" in str(told)
    assert [step.dtype for step in told.steps if step.module == "conv"] == ["uint8"]
    with pytest.raises(ShapeError):
        fast(torch.zeros(2, 3, 12, 12))


@pytest.mark.parametrize(
    ("races", "chosen"),
    [([(1.0, 2.0)], "estimated"), ([(1.0, 1.2), (1.0, 1.1)], "measured"), ([(1.0, 1.2), (1.0, 0.9)], "floats")],
)
def test_the_race_with_floats(races: list[tuple[float, float]], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of codes and of floats: where they are close, both are planned by measuring."""
    left = list(races)
    monkeypatch.setattr(quantised, "_race", lambda *_: left.pop(0))
    x = samples()[0]
    with pytest.warns(drystone.DrystoneWarning, match="run in floats") if chosen == "floats" else nullcontext():
        told = drystone.optimize(Net(), x, dtype=torch.int8, calibration=samples(), tuning=1.0).explain()
    assert not left
    assert (told.quantisation is None) == (chosen == "floats")
    if chosen != "floats":
        assert told.floats is not None and told.floats.estimated == (chosen == "estimated")
        assert ("planned by estimates" in str(told)) == (chosen == "estimated")


class Words(nn.Module):
    """Convolutions whose padding is a word, as EfficientNet has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.same = nn.Conv2d(3, 16, 3, padding="same")
        self.valid = nn.Conv2d(16, 16, 3, stride=2, padding="valid", bias=False)
        self.uneven = nn.Conv2d(16, 8, 2, padding="same")
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.uneven(self.valid(self.same(x).relu()).relu())


def test_padding_in_words() -> None:
    model, (x, *_) = Words(), samples()
    fast = drystone.optimize(model, x, dtype=torch.int8, calibration=samples(), tuning="estimate")
    expected = model(x)
    assert (fast(x) - expected).norm() < 0.05 * expected.norm()
    assert {"same", "valid", "uneven"} <= {
        step.module for step in fast.explain().steps if step.dtype == "uint8" or step.op == "conv"
    }


def test_modules_that_stay_floats() -> None:
    fast = drystone.optimize(Net(), samples()[0], dtype=torch.int8, calibration=samples(), keep_fp32="conv", tuning="estimate")
    assert "float32" in {step.dtype for step in fast.explain().steps if step.module == "conv" and step.op == "conv"}


def test_an_error_that_is_not_exceeded() -> None:
    options = {"dtype": torch.int8, "calibration": samples(), "tuning": "estimate"}
    plain = drystone.optimize(Net(), samples()[0], **options).explain().quantisation
    less = drystone.optimize(Net(), samples()[0], max_error=plain.error / 2, **options).explain().quantisation
    assert less.error <= plain.error / 2 and less.kept and not plain.kept


def test_weights_are_quantised_again() -> None:
    model, (x, *_) = Net(), samples()
    fast = drystone.optimize(model, x, dtype=torch.int8, calibration=samples(), tuning="estimate")
    with torch.no_grad():
        model.head.weight.mul_(3)
    with pytest.raises(drystone.WeightsChangedError):
        fast(x)
    fast.refresh()
    assert (fast(x) - model(x)).norm() < 0.03 * model(x).norm()


def test_options_that_do_not_go_together() -> None:
    x = samples()[0]
    for error, options in (
        (InputError, {"calibration": samples()}),
        (InputError, {"max_error": 0.1}),
        (InputError, {"dtype": torch.int8}),
        (InputError, {"dtype": torch.int8, "calibration": samples(), "max_error": -1.0}),
        (InputError, {"dtype": torch.int8, "calibration": samples(), "capture": "eager"}),
        (UnsupportedError, {"dtype": torch.uint8}),
    ):
        with pytest.raises(error):
            drystone.optimize(Net(), x, **options)  # type: ignore[arg-type]


def test_a_model_that_cannot_be_captured() -> None:
    class Decides(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(CaptureError, match=r"Decides|test_one_line"):
        drystone.optimize(Decides(), samples()[0], dtype=torch.int8, calibration=samples())


def test_pt2e_models_are_taken_as_they_are() -> None:
    """As a GraphModule, and as an ExportedProgram."""
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    x = samples()[0]
    for dynamic in (False, True):
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic))
        prepared = prepare_pt2e(torch.export.export(Net(), (x,)).module(), quantizer)
        prepared(x)
        converted = convert_pt2e(prepared)
        for given in (converted, torch.export.export(converted, (x,))):
            fast = drystone.optimize(given, x, tuning="estimate")
            torch.testing.assert_close(fast(x), converted(x), rtol=1e-4, atol=1e-3)
