"""``optimize``, which chooses how a model is prepared: whole, in parts, or with packed layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn.utils.rnn import PackedSequence

import drystone.copies  # noqa: F401 (registers the copies of optimised modules)
from drystone.capture.export import check_model
from drystone.capture.kept_modules import Choice, chosen_modules, names_of
from drystone.checkpoints.twin import twin_of
from drystone.errors import CaptureError, InputError, UnsupportedError, warn
from drystone.generation.models import generates
from drystone.options import (
    INT8,
    Options,
    check_eager,
    check_generates,
    check_int8,
    check_options,
    check_release,
    example_call,
    grouped_of,
    require_example,
)
from drystone.passes.in_precision import bfloat16_notice
from drystone.preparer import Preparer
from drystone.runtime.module import Example, OptimizedModule
from drystone.runtime.packed_layers import PackedLayersModule
from drystone.runtime.parts import PartedModule
from drystone.runtime.proxy import ModuleProxy, threads_in_force
from drystone.sources.packed_layers import optimize_layers
from drystone.sources.parted import optimize_in_parts
from drystone.sources.quantised import optimize_quantised
from drystone.sources.whole import optimize_whole


def optimize(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[Any, ...] | torch.Tensor | PackedSequence | None = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    dtype: torch.dtype | tuple[torch.dtype, torch.dtype] | None = None,
    calibration: Any = None,
    max_error: float | None = None,
    keep_fp32: Sequence[Choice] | Choice | None = None,
    dynamic_shapes: Any = None,
    accuracy: Literal["default", "strict"] = "default",
    tuning: Literal["measure", "estimate"] | float = "measure",
    capture: Literal["auto", "whole", "eager"] = "auto",
    strict: bool = False,
    formats: str | None = None,
    release_originals: bool = False,
    new_shapes: Literal["wait", "background"] = "wait",
    weights: Literal["int8", "int4"] | str | os.PathLike[str] | None = None,
    group_size: Literal[32, 64, 128] = 32,
    activations: Literal["int8"] | None = None,
    keep: Sequence[Choice] | Choice | None = None,
) -> OptimizedModule | PartedModule | PackedLayersModule:
    """Prepare ``model`` for inference on this CPU. Returns a module with the same signature.

    The model is captured and simplified. Autotuning chooses an implementation and a memory format for every operator of the
    whole graph, and the result is one native program. If the model can't be captured whole, its largest submodules that can be
    become programs, and the rest runs eagerly; a DrystoneWarning says which. The model itself stays as it is.

    Args:
        model: any ``nn.Module`` in eval mode, on the CPU; or a TorchScript module, traced, scripted or frozen; or an
            ``ExportedProgram``. An optimised module,
            alone or as a submodule, stands for its original.
        example_inputs: a tuple of positional inputs, or one tensor. The program is prepared for their shapes and dtypes.
            Causal language models of transformers need none: their ``generate`` and calls run programs of prefill and decode
            on a ``drystone.Cache``.
        example_kwargs: inputs by name.
        dtype: ``torch.bfloat16`` computes in bfloat16 with float32 accumulation; inputs and outputs keep the model's dtypes.
            CPUs without bfloat16 arithmetic store weights as bfloat16 and compute in float32.
            ``torch.int8`` quantises products to int8 by torchao, with the recipe that errs least on ``calibration``; a layer
            runs in int8 where that is faster, and the whole in floats where no layer gains. ``(torch.int8, torch.bfloat16)``
            computes what is left in bfloat16. None or ``torch.float32``: the model's own precision. A model that was quantised by
            torchao's PT2E already is given as it is, a ``GraphModule`` or an ``ExportedProgram``.
        calibration: for int8, an iterable of inputs like those to come: tensors, tuples of positional inputs, or dicts of inputs
            by name, of the example's shapes or larger batches, or as ``dynamic_shapes`` declares: an int8 model takes no other.
            At most 128 are read.
        max_error: for int8, the relative L2 error of the outputs on the calibration data. The layers that err most stay float32
            until it is reached.
        keep_fp32: submodules that stay float32 where ``dtype`` is bfloat16 or int8, with everything inside them: modules, qualified
            names ("encoder.layer.0"), or predicates of (name, module).
        dynamic_shapes: the input dimensions that may vary, as for ``torch.export.export``. None: all may, where the model
            allows it; the first call with another size captures it once more. ``"auto"``: the same, but where an input is rows
            of tokens (int32 or int64, two axes), the first capture is for all sizes, which takes two to three times as long.
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
        weights: ``"int8"`` or ``"int4"`` rounds the weights of linear layers to so many bits, with one scale for
            ``group_size`` neighbours along a row, by the scales that err least. Products of few rows then take a quarter or an
            eighth of the memory traffic. All else is computed as without it. The model must be captured whole.
            The path of a GGUF file ("….gguf") from which transformers has read the model keeps the file's own codes instead
            (Q8_0, Q4_0, Q4_1, Q4_K, Q6_K), which transformers has made floats of. This takes the package gguf.
            Weights that torchao's ``quantize_`` has quantised without x (Int8WeightOnlyConfig, IntxWeightOnlyConfig) keep their
            codes in any case; a twin of the model, in which they are floats, stands for it then. So do layers that round x too
            (Int8DynamicActivationInt8WeightConfig, ``torch.ao.nn.quantized.dynamic.Linear``), and those of GPTQ and AWQ checkpoints
            in 4 or 8 bits, as transformers puts them into a model (qweight, qzeros, scales, g_idx), without floats.
        group_size: 32, 64 or 128. It must divide the inputs of each linear layer that is not in ``keep``.
        activations: ``"int8"`` lets products with weights in codes round their x to int8 as well, each ``group_size`` neighbours
            of a row by their largest magnitude, and multiply codes by codes, where that is faster. ``explain()`` says what it
            costs: the relative L2 error of the results against the same program without it. NaN and infinities make a row NaN.
        keep: submodules whose weights are not quantised, as ``keep_fp32`` names them.

    Raises:
        CaptureError: the model is in training mode; neither it nor any of its submodules can be captured; or it can't vary as
            ``dynamic_shapes`` declares, with torch's suggestion.
        UnsupportedError: an operator would run on ATen with ``strict``; or an unsupported dtype.
        InputError: missing example inputs, or inputs not on the CPU; an argument out of range; a submodule in ``keep_fp32`` or
            ``keep`` that the model does not have; a linear layer that ``group_size`` does not divide.

    >>> fast = optimize(nn.Linear(4, 2).eval(), torch.zeros(1, 4))
    >>> fast(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    if isinstance(model, ModuleProxy):
        model = model.original()
    if isinstance(model, ExportedProgram):
        if example_inputs is None and example_kwargs is None and model.example_inputs is not None:
            example_inputs, example_kwargs = model.example_inputs
        model = model.module()
    args, kwargs = example_call(example_inputs, example_kwargs)
    known = not args and not kwargs and generates(model)  # what it is called with
    if not known:
        require_example(args, kwargs)
    check_options(dtype, accuracy, tuning, capture, formats, new_shapes, weights, group_size, activations, dynamic_shapes)
    threads_in_force()
    if known:
        check_generates(dynamic_shapes, capture, release_originals)
    if release_originals:
        check_release(model, dynamic_shapes)
    codes = dtype in INT8
    if codes:
        if known or weights is not None:
            raise InputError('dtype=torch.int8 quantises activations too; for weights alone leave it out: weights="int8"')
        check_int8(max_error, model, capture, release_originals, new_shapes, dynamic_shapes)
    elif calibration is not None or max_error is not None:
        raise InputError("calibration and max_error are for dtype=torch.int8")
    lower = dtype[1] if isinstance(dtype, tuple) else None if codes else dtype
    float32, kept = chosen_modules(model, keep_fp32), chosen_modules(model, keep, "keep")
    found = grouped_of(model, weights)
    if (twin := twin_of(model, kept)) is not None:
        model, found = twin.model, twin.grouped | found
        float32, kept = twin.those_of(float32), twin.those_of(kept)
    if activations is not None and weights is None and not found:
        raise InputError('activations="int8" is for products with weights in codes; give weights="int8" or "int4" too')
    options = Options(
        lower,
        tuning,
        strict,
        formats,
        accuracy,
        new_shapes,
        float32_modules=float32,
        weights=weights,
        group_size=group_size,
        activations=activations,
        kept_modules=kept,
        grouped=found,
        varying=dynamic_shapes == "auto",
    )
    if lower is torch.bfloat16 and (notice := bfloat16_notice()):
        warn(notice)
    if known:
        from drystone.generation.causal import optimize_causal  # imports transformers

        return optimize_causal(model, options)
    if codes:
        example, names = Example(model, args, kwargs), names_of(model, float32)
        return optimize_quantised(example, options, Preparer(), calibration, max_error, names, dynamic_shapes)
    if capture == "eager":
        check_eager(model, dtype, dynamic_shapes, strict, release_originals, new_shapes, weights)
        return optimize_layers(model, args, kwargs, options)
    preparer = Preparer()
    example = Example(model, args, kwargs)
    dynamic_shapes = None if options.varying else dynamic_shapes
    try:
        return optimize_whole(example, options, preparer, dynamic_shapes, release_originals=release_originals)
    except (CaptureError, UnsupportedError) as error:
        # Parts are held against the model's own results, which quantised weights do not give.
        whole = capture == "whole" or strict or release_originals or bool(weights or found)
        if whole or dynamic_shapes is not None or isinstance(model, torch.jit.ScriptModule):
            raise
        reason = error
    check_model(model, args, kwargs)  # an error of the whole model's call, which its parts would not show
    return optimize_in_parts(example, options, preparer, reason)
