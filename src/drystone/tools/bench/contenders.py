"""The ways to run a model that are compared: each prepares one and returns a function of no arguments that runs it once.

Every contender is set up as its own documentation says for latency, with the given number of threads. A contender that
can't run a model raises; the benchmark reports the reason and goes on.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drystone.runtime.module import OptimizedModule

from . import quantised
from .prepared import Inputs, Prepared, onnx_session, openvino_request
from .targets import Call
from .workload import FLOATS, first_tensor

# The share of a model's weights with which a child of it would be the model again.
NEARLY_ALL = 0.9


Prepare = Callable[[nn.Module, Call, torch.dtype, int], Prepared]


def drystone(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    return _drystone(module, call, dtype, None)


def drystone_channels_last(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """Drystone with every format held to channels_last: what the choice of formats is worth."""
    return _drystone(module, call, dtype, "channels_last")


def drystone_parts(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """Drystone without a capture of the whole: a program for each of the model's children, or theirs, that can be captured."""
    return _drystone(_divided(module), call, dtype, None)


def _divided(module: nn.Module) -> nn.Module:
    """The model with a decision on a number of its result, which torch.export does not follow. Where nearly all of it is one
    child, that gets a decision too."""
    kind = type(module)

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = kind.forward(self, *args, **kwargs)
        if first_tensor(result).flatten()[0] == float("inf"):
            raise OverflowError("the model's result is not finite")
        return result

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    largest = max(module.children(), key=_size, default=module)
    if _size(largest) > NEARLY_ALL * _size(module) and next(largest.children(), None) is not None:
        _divided(largest)
    return module


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _drystone(module: nn.Module, call: Call, dtype: torch.dtype, formats: str | None) -> Prepared:
    fast = prepared(module, call, dtype, formats=formats)
    return Prepared(lambda: call(fast), details=lambda: _counted(fast.explain().to_dict()))


def prepared(module: nn.Module, call: Call, dtype: torch.dtype, **options: Any) -> Any:
    """By ``drystone.optimize``; an artefact is."""
    if isinstance(module, OptimizedModule):
        return module
    from drystone.conductor import optimize

    in_dtype = None if dtype == torch.float32 else dtype
    if dtype == torch.int8:
        options["calibration"] = quantised.samples_of(_positional(call))
    return optimize(module, call.args, example_kwargs=call.kwargs, dtype=in_dtype, dynamic_shapes=call.dynamic_shapes, **options)


def _counted(explained: Any) -> Any:
    """What ``explain()`` tells as JSON data; of steps and layers, how many there are."""
    if isinstance(explained, dict):
        return {name: len(entry) if name in ("steps", "layers") else _counted(entry) for name, entry in explained.items()}
    return [_counted(entry) for entry in explained] if isinstance(explained, list) else explained


def drystone_eager(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """Drystone without a capture: the model runs eagerly on packed layers, in the memory format that is fastest for the whole."""
    from drystone.conductor import optimize

    fast = optimize(module, call.args, example_kwargs=call.kwargs, capture="eager")
    return Prepared(lambda: call(fast), details=lambda: _counted(fast.explain().to_dict()))


def eager(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """The model as it is, in its own dtype whatever is asked for."""
    return Prepared(lambda: call(module))


def eager_autocast(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    def within() -> Any:
        with torch.autocast("cpu", dtype):
            return call(module)

    return Prepared(within)


def _in_channels_last(module: nn.Module, call: Call) -> tuple[nn.Module, Call]:
    def convert(leaf: Any) -> Any:
        is_image = isinstance(leaf, torch.Tensor) and leaf.dim() == 4
        return leaf.contiguous(memory_format=torch.channels_last) if is_image else leaf

    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module, call.map(convert)


def channels_last(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """Eager with weights and inputs in channels_last; the inputs come in that format and are not converted in the call."""
    return eager(*_in_channels_last(module, call), dtype, threads)


def to_mkldnn(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """torch.utils.mkldnn: tensors stay in oneDNN's formats from layer to layer. The input's conversion is in the call."""
    from torch.utils import mkldnn

    converted = mkldnn.to_mkldnn(module, dtype)
    return Prepared(
        lambda: call.map(lambda x: x.to_mkldnn(dtype))(converted),
        lambda result: first_tensor(result).to_dense(torch.float32),
    )


def to_mkldnn_channels_last(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    return to_mkldnn(*_in_channels_last(module, call), dtype, threads)


def inductor(module: nn.Module, call: Call, dtype: torch.dtype, threads: int, backend: str = "inductor") -> Prepared:
    """torch.compile with freezing; bfloat16 by autocast, under which freezing casts the weights once."""
    import torch._inductor.config as config

    config.freezing = True
    compiled = torch.compile(module, backend=backend, dynamic=True if call.dynamic_shapes else None)
    if dtype == torch.float32:
        return Prepared(lambda: call(compiled))

    def within() -> Any:
        with torch.autocast("cpu", dtype):
            return call(compiled)

    return Prepared(within)


def zentorch(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """AMD's backend of torch.compile with freezing, on ZenDNN; bfloat16 by autocast."""
    import zentorch  # noqa: F401 - registers the backend

    return inductor(module, call, dtype, threads, backend="zentorch")


def _in_order(call: Call, names: list[str]) -> list[torch.Tensor]:
    """For engines that take tensors, under these names or in this order."""
    if call.args and call.kwargs:
        raise ValueError("positional inputs beside keywords: give all by name")
    leaves = [call.kwargs[name] for name in names] if call.kwargs else list(call.args)
    if len(leaves) != len(names) or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise ValueError("inputs that are no tensors")
    return leaves


def _positional(call: Call) -> Inputs:
    if call.kwargs:
        raise ValueError("inputs by keyword: int8 is compared on positional ones")
    return call.args


def of_codes(float_contender: Prepare, int8_contender: Callable[[nn.Module, Inputs, int], Prepared]) -> Prepare:
    """An engine that quantises by itself where int8 is asked for."""

    @functools.wraps(float_contender)
    def prepare(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
        if dtype == torch.int8:
            return int8_contender(module, _positional(call), threads)
        return float_contender(module, call, dtype, threads)

    return prepare


def onnxruntime_dynamic(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    return quantised.onnxruntime_dynamic(module, _positional(call), threads)


def openvino(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """OpenVINO's latency hint on static shapes; one infer request, inputs and outputs shared and not copied."""
    import openvino as ov

    given = call.kwargs or (call.args if len(call.args) > 1 else call.args[0])
    model = ov.convert_model(module, example_input=given)
    inputs = _in_order(call, [port.any_name for port in model.inputs])
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, inputs, strict=True)})
    return openvino_request(model, inputs, threads, "f32" if dtype == torch.float32 else "bf16")


def onnxruntime(module: nn.Module, call: Call, dtype: torch.dtype, threads: int) -> Prepared:
    """ONNX Runtime on torch's own export, all graph optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(module, call.args, path, kwargs=call.kwargs, dynamo=True, verbose=False)
        return onnx_session(path, functools.partial(_in_order, call), threads)


ALL = (*FLOATS, "int8")


@dataclass(frozen=True)
class Contender:
    """``needs`` is a flag of the CPU without which there is nothing to prepare."""

    prepare: Prepare
    dtypes: tuple[str, ...] = FLOATS
    needs: str | None = None


CONTENDERS: dict[str, Contender] = {
    "drystone": Contender(drystone, ALL),
    "drystone_channels_last": Contender(drystone_channels_last),
    "drystone_parts": Contender(drystone_parts),
    "drystone_eager": Contender(drystone_eager, ("float32",)),
    "eager": Contender(eager, ALL),
    "eager_autocast": Contender(eager_autocast, ("bfloat16",)),
    "channels_last": Contender(channels_last, ("float32",)),
    "to_mkldnn": Contender(to_mkldnn),
    "to_mkldnn_channels_last": Contender(to_mkldnn_channels_last),
    "inductor": Contender(of_codes(inductor, quantised.inductor), ALL),
    "zentorch": Contender(zentorch, needs="avx512f"),
    "openvino": Contender(of_codes(openvino, quantised.openvino), ALL),
    "onnxruntime": Contender(of_codes(onnxruntime, quantised.onnxruntime), ("float32", "int8")),
    "onnxruntime_dynamic": Contender(onnxruntime_dynamic, ("int8",)),
}

#: Against what a model is run where nothing is said, as far as the CPU can.
DEFAULTS = {
    "float32": ("eager", "channels_last", "to_mkldnn", "inductor", "zentorch", "openvino", "onnxruntime"),
    "bfloat16": ("eager", "eager_autocast", "inductor", "zentorch", "openvino"),
    "int8": ("eager", "inductor", "openvino", "onnxruntime", "onnxruntime_dynamic"),
}

#: The whole-model engines; the summary compares with the best of them.
PEERS = ("inductor", "zentorch", "openvino", "onnxruntime", "onnxruntime_dynamic")
