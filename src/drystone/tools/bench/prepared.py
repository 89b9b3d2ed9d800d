"""A model that a contender has prepared, and what the contenders of one engine share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .workload import first_tensor

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Prepared:
    """``call()`` is what is timed; ``output`` turns what it returns into the model's first output tensor.

    ``details()`` tells, after the measurement, what the contender did, as JSON data.
    """

    call: Callable[[], Any]
    output: Callable[[Any], torch.Tensor] = first_tensor
    details: Callable[[], dict[str, Any]] = dict


def openvino_request(model: Any, inputs: Sequence[torch.Tensor], threads: int, precision: str) -> Prepared:
    """The latency hint; one infer request, inputs and outputs shared and not copied."""
    import openvino as ov

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    arrays = [x.numpy() for x in inputs]
    return Prepared(
        lambda: request.infer(arrays, share_inputs=True, share_outputs=True),
        lambda result: torch.from_numpy(result[0].copy()),
    )


def onnx_session(path: Path, in_order: Callable[[list[str]], Sequence[torch.Tensor]], threads: int) -> Prepared:
    """All graph optimisations. ``in_order``: the inputs of these names."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = [port.name for port in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(wanted, in_order(wanted), strict=True)}
    names = [session.get_outputs()[0].name]
    return Prepared(lambda: session.run(names, feeds), lambda result: torch.from_numpy(result[0]))
