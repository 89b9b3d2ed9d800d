"""``optimize``, which chooses how a model is prepared: whole, in parts, or with packed layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import drystone.copies  # noqa: F401 (registers the copies of optimised modules)
from drystone.capture.export import check_model
from drystone.capture.kept_modules import Choice, chosen_modules
from drystone.errors import CaptureError, UnsupportedError, warn
from drystone.generation.models import generates
from drystone.options import Options, check_arguments, check_eager, check_options, check_release, example_call
from drystone.packed_layers import optimize_layers
from drystone.parted import optimize_in_parts
from drystone.passes.in_precision import bfloat16_notice
from drystone.preparer import Preparer
from drystone.runtime.module import Example, OptimizedModule
from drystone.runtime.packed_layers import PackedLayersModule
from drystone.runtime.parts import PartedModule
from drystone.runtime.proxy import ModuleProxy, threads_in_force
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
    tuning: Literal["measure", "estimate"] | float = "measure",
    capture: Literal["auto", "whole", "eager"] = "auto",
    strict: bool = False,
    formats: str | None = None,
    release_originals: bool = False,
    new_shapes: Literal["wait", "background"] = "wait",
) -> OptimizedModule | PartedModule | PackedLayersModule:
    """Prepare ``model`` for inference on this CPU. Returns a module with the same signature.

    The model is captured and simplified. Autotuning chooses an implementation and a memory format for every operator of the
    whole graph, and the result is one native program. If the model can't be captured whole, its largest submodules that can be
    become programs, and the rest runs eagerly; a DrystoneWarning says which. The model itself stays as it is.

    Args:
        model: any ``nn.Module`` in eval mode, on the CPU; or a TorchScript module, traced, scripted or frozen. An optimised module,
            alone or as a submodule, stands for its original.
        example_inputs: a tuple of positional inputs, or one tensor. The program is prepared for their shapes and dtypes.
            Causal language models of transformers need none: their ``generate`` and calls run programs of prefill and decode
            on a ``drystone.Cache``.
        example_kwargs: inputs by name.
        dtype: ``torch.bfloat16`` computes in bfloat16 with float32 accumulation; inputs and outputs keep the model's dtypes.
            CPUs without bfloat16 arithmetic store weights as bfloat16 and compute in float32.
            None or ``torch.float32``: the model's own precision.
        keep_fp32: submodules that stay float32 where ``dtype`` is bfloat16, with everything inside them: modules, qualified
            names ("encoder.layer.0"), or predicates of (name, module).
        dynamic_shapes: the input dimensions that may vary, as for ``torch.export.export``. None: all may, where the model
            allows it; the first call with another size captures it once more, which a declaration saves.
            Calls outside of the declared ranges, or with other sizes for inputs that share a ``Dim``, raise ``ShapeError``.
            A new shape makes a program at its first call, with the choices of the first; ``fast.prepare(*inputs)``
            measures it. The most recently used are kept, within 256 MB or ``DRYSTONE_MEMORY`` ("2G") beside the weights.
        accuracy: ``"strict"`` bars algorithms that reorder the arithmetic.
        tuning: ``"measure"`` autotunes for at most 10 seconds or 200 runs of the program, whichever is less. A number of seconds
            sets another bound. The most expensive operators are measured first; those that are left are planned from a cost
            model, as all are by ``"estimate"``. ``explain()`` says how much was spent. Measured times are kept on disk.
        capture: ``"auto"`` captures the model whole. If torch.export can't, and there are no ``dynamic_shapes``, it captures
            parts; ``"whole"`` raises instead. ``"eager"`` captures nothing: the model's Python runs at each call with packed
            layers, and tensors between them keep the memory format in which the model is fastest; or eager runs.
        strict: raise instead of running an operator on ATen, or a part of the model eagerly.
        formats: for comparisons: hold all tensors to one format where operators have it ("plain", "channels_last",
            "blocked16", "blocked8"). None chooses freely.
        release_originals: free the model's parameters after packing, so that memory holds one copy. The model
            can't be called any more, and the optimised module takes only the shapes of the
            example. If eager is faster, the parameters are kept, with a DrystoneWarning.
        new_shapes: what a call does for which there is no program: ``"wait"`` until it is made, or be answered by eager while a
            thread makes it in the ``"background"``. ``explain()`` says what is being made. Where that fails, eager goes on, with
            one DrystoneWarning.

    Raises:
        CaptureError: the model is in training mode; neither it nor any of its submodules can be captured; or it can't vary as
            ``dynamic_shapes`` declares, with torch's suggestion.
        UnsupportedError: an operator would run on ATen with ``strict``; or an unsupported dtype.
        InputError: missing example inputs, or inputs not on the CPU; an argument out of range; a submodule in ``keep_fp32`` that
            the model does not have.

    >>> fast = optimize(nn.Linear(4, 2).eval(), torch.zeros(1, 4))
    >>> fast(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    if isinstance(model, ModuleProxy):
        model = model.original()
    args, kwargs = example_call(example_inputs, example_kwargs)
    known = not args and not kwargs and generates(model)  # what it is called with
    if known:
        check_options(dtype, accuracy, tuning, capture, formats, new_shapes)
    else:
        check_arguments(args, kwargs, dtype, accuracy, tuning, capture, formats, new_shapes)
    threads_in_force()
    if release_originals:
        check_release(model, dynamic_shapes, generates=known)
    options = Options(dtype, tuning, strict, formats, accuracy, new_shapes, chosen_modules(model, keep_fp32))
    if dtype is torch.bfloat16 and (notice := bfloat16_notice()):
        warn(notice)
    if known:
        from drystone.generation.causal import optimize_causal  # imports transformers

        return optimize_causal(model, options)
    if capture == "eager":
        check_eager(model, dtype, dynamic_shapes, strict, release_originals, new_shapes)
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
    check_model(model, args, kwargs)  # an error of the whole model's call, which its parts would not show
    return optimize_in_parts(example, options, preparer, reason)
