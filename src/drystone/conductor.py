"""The way in: ``optimize`` decides how a model is prepared, whole, in parts, or with its layers packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import drystone.copies  # noqa: F401 (what is optimised can be copied)
from drystone.capture.export import check_model
from drystone.capture.kept_modules import Choice, chosen_modules
from drystone.errors import CaptureError, UnsupportedError, warn
from drystone.layouts import optimize_layers
from drystone.options import Options, check_arguments, check_eager, check_release
from drystone.parted import optimize_in_parts
from drystone.passes.in_precision import bfloat16_notice
from drystone.preparer import Preparer
from drystone.runtime.layouts import LayoutModule
from drystone.runtime.module import Example, OptimizedModule
from drystone.runtime.parts import PartedModule
from drystone.runtime.stand_in import StandIn, threads_in_force
from drystone.whole import optimize_whole


def optimize(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | torch.Tensor | PackedSequence | None = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    keep_fp32: Sequence[Choice] | Choice | None = None,
    dynamic_shapes: Any = None,
    accuracy: Literal["default", "strict"] = "default",
    tuning: Literal["measure", "estimate"] = "measure",
    capture: Literal["auto", "whole", "eager"] = "auto",
    strict: bool = False,
    formats: str | None = None,
    release_originals: bool = False,
) -> OptimizedModule | PartedModule | LayoutModule:
    """Prepare ``model`` for inference on this CPU: a module of the same signature.

    The model is captured, simplified, planned as a whole (implementation and memory format of every operator, by measuring)
    and becomes one native program. Where it can't be captured whole, its largest submodules that can be become programs, and
    the rest runs eagerly; a DrystoneWarning says which. The model itself is left as it is; it must be in eval mode.

    Args:
        model: any ``nn.Module`` in eval mode, on the CPU; or a TorchScript module, traced, scripted or frozen. For a module that
            was optimised, alone or as a submodule, its original is taken.
        example_inputs: a tuple of its positional inputs (or one tensor); shapes and dtypes decide what is prepared.
        example_kwargs: its inputs by name.
        dtype: ``torch.bfloat16`` computes in bfloat16 with float32 accumulation; inputs and outputs keep the model's dtypes.
            Where the CPU does not multiply bfloat16, weights are stored in it and all is computed in float32.
            None or ``torch.float32``: the model's own precision.
        keep_fp32: submodules that stay float32 where ``dtype`` is bfloat16, with all inside them: themselves, their
            qualified names ("encoder.layer.0"), or functions of (name, module) that say so of each submodule.
        dynamic_shapes: which input dimensions may vary, as ``torch.export.export`` takes it. None lets the batch vary (the
            first dimension, where the model allows it). A new shape makes a program at its first call, planned from the
            times that are known; ``fast.prepare(*inputs)`` measures it. The 16 last used are kept.
        accuracy: ``"strict"`` bars algorithms that reorder the arithmetic.
        tuning: ``"measure"`` rehearses candidates; ``"estimate"`` plans from known times and a cost model.
        capture: ``"auto"`` captures the model whole or, where torch.export can't and no ``dynamic_shapes`` are asked for, in
            parts; ``"whole"`` raises instead. ``"eager"`` captures nothing: the model's Python runs at each call, its layers run
            packed, and tensors between them keep the memory format in which the model was fastest, or eager runs.
        strict: raise instead of running an operator on ATen, or a part of the model eagerly.
        formats: hold all tensors to one format where operators have it ("plain", "channels_last", "blocked16", "blocked8"),
            to compare; None chooses freely.
        release_originals: free the model's plain parameters once they are packed, so that memory holds one copy: the model
            itself is left with empty ones and can't be called any more, and the optimised module takes the shapes of the
            example alone. Where eager turns out the faster, they are kept, with a DrystoneWarning.

    Raises:
        CaptureError: the model is in training mode, or neither it nor any of its submodules can be captured.
        UnsupportedError: ``strict`` and something would run on ATen; or a dtype that is not served.
        InputError: example inputs missing, not on the CPU, or an argument out of range; one in ``keep_fp32`` that the model
            does not have.

    >>> fast = optimize(nn.Linear(4, 2).eval(), torch.zeros(1, 4))
    >>> fast(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    if isinstance(model, StandIn):
        model = model.original()
    single = isinstance(example_inputs, (torch.Tensor, PackedSequence))
    args = (example_inputs,) if single else tuple(example_inputs or ())
    kwargs = dict(example_kwargs or {})
    check_arguments(args, kwargs, dtype, accuracy, tuning, capture, formats)
    threads_in_force()
    if release_originals:
        check_release(model, dynamic_shapes)
    options = Options(dtype, tuning, strict, formats, accuracy, chosen_modules(model, keep_fp32))
    if dtype is torch.bfloat16 and (notice := bfloat16_notice()):
        warn(notice, stacklevel=2)
    if capture == "eager":
        check_eager(model, dtype, dynamic_shapes, strict, release_originals)
        return optimize_layers(model, args, kwargs, options)
    preparer = Preparer()
    example = Example(model, args, kwargs)
    try:
        return optimize_whole(example, options, preparer, dynamic_shapes, release_originals=release_originals)
    except (CaptureError, UnsupportedError) as error:
        whole = capture == "whole" or strict or release_originals
        if whole or dynamic_shapes is not None or isinstance(model, torch.jit.ScriptModule):
            raise
        reason = error
    check_model(model, args, kwargs)  # what is wrong with the whole model is no matter of its parts
    return optimize_in_parts(example, options, preparer, reason)
