"""Products of a few rows with a matrix."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from drystone.ops.define import operator


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, matrix = ctx.saved_tensors
    of_x, of_matrix = ctx.needs_input_grad
    return gradient.mm(matrix.T) if of_x else None, x.T.mm(gradient) if of_matrix else None


_mm = operator("mm", _setup_context, _backward)


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """``torch.mm``. Up to 64 rows in float32 with a plain matrix or its transpose are computed by a kernel that reads it once.

    Args:
        input: (n, k).
        mat2: (k, m), of the same dtype.

    Returns:
        (n, m).

    Raises:
        RuntimeError: the shapes or dtypes do not fit together.
    """
    return _mm(input, mat2)
