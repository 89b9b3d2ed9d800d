"""Quantised models as people have them, beside PT2E's: torchao's ``quantize_`` of x and weights, ``torch.ao``'s layers, QAT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.ao.nn.quantized.dynamic
from torch import nn

import drystone
from drystone import native
from small_models import Calls

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
needs_kernels = pytest.mark.skipif(native.isa() == "none", reason="torch computes everything")


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16, bias=False)).eval().requires_grad_(False)


def hold(model: nn.Module, x: torch.Tensor) -> Any:
    fast = drystone.optimize(model, x, tuning="estimate")
    expected = model(x)
    torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    return fast


@needs_kernels
def test_torchao_quantises_rows_of_x() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model = layers()
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    x = torch.randn(2, 5, 64) * torch.logspace(-3, 3, 5)[:, None]
    fast = hold(model, x)
    assert [step.op for step in fast.explain().steps] == ["dynamic_linear"] * 2
    assert type(model[0].weight).__module__.startswith("torchao"), "the model itself stays as it is"
    x[0, 0] = 0
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-2)


@needs_kernels
@pytest.mark.parametrize("channels", [False, True])
def test_dynamic_layers_of_torch(channels: bool, tmp_path: Any) -> None:
    quantization = torch.ao.quantization
    config = quantization.per_channel_dynamic_qconfig if channels else quantization.default_dynamic_qconfig
    model = quantization.quantize_dynamic(layers(), {nn.Linear: config})
    fast = hold(model, x := torch.randn(6, 64))
    assert [step.op for step in fast.explain().steps] == ["dynamic_linear"] * 2
    drystone.save(fast, tmp_path / "m.drystone")
    assert torch.equal(drystone.load(tmp_path / "m.drystone")(x), fast(x))


def test_what_is_not_served_runs_in_torch_and_is_said() -> None:
    """Recurrent layers of ``quantized.dynamic``, and layers that exchange torch's quantised tensors."""
    quantization = torch.ao.quantization
    recurrent = quantization.quantize_dynamic(
        Calls(lambda lstm, linear, x: linear(lstm(x)[0]), nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 8)), {nn.LSTM, nn.Linear}
    )
    static = nn.Sequential(quantization.QuantStub(), nn.Conv2d(3, 8, 3), nn.ReLU(), quantization.DeQuantStub()).eval()
    static.qconfig = quantization.get_default_qconfig("x86")
    quantization.prepare(static, inplace=True)
    static(torch.randn(2, 3, 9, 9))
    quantization.convert(static, inplace=True)
    for model, x in ((recurrent, torch.randn(2, 5, 16)), (static, torch.randn(2, 3, 9, 9))):
        with pytest.warns(drystone.DrystoneWarning, match="runs eagerly: all of its layers .* torch's quantised ones"):
            hold(model, x)


@needs_kernels
def test_qat() -> None:
    pytest.importorskip("torchao")
    import torchao.quantization.pt2e as pt2e
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

    x, net = (
        torch.randn(4, 3, 9, 9),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 4)),
    )
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    prepared = prepare_qat_pt2e(torch.export.export(net.train(), (x,)).module(), quantizer)
    optimiser = torch.optim.SGD(prepared.parameters(), 0.01)
    for _ in range(2):
        prepared(x).square().mean().backward()
        optimiser.step()
    pt2e.move_exported_model_to_eval(prepared)
    with torch.no_grad():
        fast = hold(convert_pt2e(prepared), x)
    assert not fast.explain().segments
    assert [step.op for step in fast.explain().steps if step.dtype == "uint8" and step.kind == "node"] == ["quantise", "conv"]
