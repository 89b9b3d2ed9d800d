"""The contenders of ``--dtype int8``: each engine's own quantisation, of the same calibration data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .prepared import Inputs, Prepared, onnx_session, openvino_request

SAMPLES = 32


def samples_of(inputs: Inputs) -> list[Inputs]:
    """Inputs like these: of floats others of the same distribution, of integers the same in other orders along the last axis."""
    generator = torch.Generator().manual_seed(1)

    def like(x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():
            return torch.randn(x.shape, generator=generator, dtype=x.dtype) * x.std() + x.mean()
        return x[..., torch.randperm(x.shape[-1], generator=generator)] if x.dim() else x

    return [tuple(like(x) if isinstance(x, torch.Tensor) else x for x in inputs) for _ in range(SAMPLES)]


def inductor(module: nn.Module, inputs: Inputs, threads: int) -> Prepared:
    """PT2E for x86 with its default configuration, and torch.compile with freezing."""
    import torch._inductor.config as config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    config.freezing = True
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(module, inputs).module(), quantizer)
    for sample in samples_of(inputs):
        prepared(*sample)
    compiled = torch.compile(convert_pt2e(prepared))
    return Prepared(lambda: compiled(*inputs))


def openvino(module: nn.Module, inputs: Inputs, threads: int) -> Prepared:
    """nncf's post-training quantisation with its defaults."""
    import nncf
    import openvino as ov

    model = ov.convert_model(module, example_input=inputs if len(inputs) > 1 else inputs[0])
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, inputs, strict=True)})
    data = nncf.Dataset(samples_of(inputs), lambda sample: [x.numpy() for x in sample])
    return openvino_request(nncf.quantize(model, data, subset_size=SAMPLES), inputs, threads, "f32")


def onnxruntime(module: nn.Module, inputs: Inputs, threads: int) -> Prepared:
    """Static quantisation to QDQ, uint8 activations and a scale an output channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, names: list[str]) -> None:
            self.samples: Iterator[dict[str, Any]] = (
                {name: x.numpy() for name, x in zip(names, sample, strict=True)} for sample in samples_of(inputs)
            )

        def get_next(self) -> Any:
            return next(self.samples, None)

    def quantise(source: Path, target: Path, names: list[str]) -> None:
        quant_pre_process(source, source, skip_symbolic_shape=True)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(source, target, Reader(names), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)

    return _onnx(module, inputs, threads, quantise)


def onnxruntime_dynamic(module: nn.Module, inputs: Inputs, threads: int) -> Prepared:
    """Dynamic quantisation with its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    return _onnx(module, inputs, threads, lambda source, target, names: quantize_dynamic(source, target))


def _onnx(module: nn.Module, inputs: Inputs, threads: int, quantise: Any) -> Prepared:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        torch.onnx.export(module, inputs, source, dynamo=True, verbose=False)
        names = [port.name for port in onnx.load(source).graph.input]
        quantise(source, target, names)
        return onnx_session(target, lambda wanted: inputs, threads)
