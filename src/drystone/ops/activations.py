"""tanh, sigmoid, silu and gelu."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drystone.ops.define import operator


def _keep_output(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _keep_input(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _keep_gelu(ctx: Any, inputs: tuple[Tensor], keyword_only_inputs: dict[str, str], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.approximate = keyword_only_inputs["approximate"]


_tanh = operator("tanh", _keep_output, lambda ctx, g: torch.ops.aten.tanh_backward(g, *ctx.saved_tensors))
_sigmoid = operator("sigmoid", _keep_output, lambda ctx, g: torch.ops.aten.sigmoid_backward(g, *ctx.saved_tensors))
_silu = operator("silu", _keep_input, lambda ctx, g: torch.ops.aten.silu_backward(g, *ctx.saved_tensors))
_gelu = operator(
    "gelu", _keep_gelu, lambda ctx, g: torch.ops.aten.gelu_backward(g, *ctx.saved_tensors, approximate=ctx.approximate)
)


def tanh(input: Tensor) -> Tensor:
    """``torch.tanh``, by way of e^2|x| - 1: relative error of at most 3e-7. float32 and bfloat16 are ours, other dtypes torch's."""
    return _tanh(input)


def sigmoid(input: Tensor) -> Tensor:
    """``torch.sigmoid``: relative error of at most 3e-7. float32 and bfloat16 are ours, other dtypes torch's."""
    return _sigmoid(input)


def silu(input: Tensor) -> Tensor:
    """``torch.nn.functional.silu``: relative error of at most 3e-7. float32 and bfloat16 are ours, other dtypes torch's."""
    return _silu(input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``torch.nn.functional.gelu``.

    Args:
        input: of any shape. float32 is ours, bfloat16 where ``approximate`` is "tanh"; all else is torch's.
        approximate: "none": x Phi(x), Phi the normal distribution, from the logarithm of its tail, with an absolute error of Phi of
            5e-8; "tanh": as Hendrycks and Gimpel (2016) approximate it.

    Raises:
        RuntimeError: ``approximate`` is another word.
    """
    return _gelu(input, approximate=approximate)
