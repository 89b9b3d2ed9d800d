"""``optimize_`` and ``restore``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from drystone.capture.kept_modules import Choice, chosen_modules
from drystone.conductor import optimize
from drystone.eager import script
from drystone.errors import InputError
from drystone.inplace.forward import uninstall
from drystone.inplace.state import FirstCalls, install
from drystone.options import check_options, example_call
from drystone.runtime.proxy import ModuleProxy
from drystone.runtime.recurrent import is_recurrent

Model = TypeVar("Model", bound=nn.Module)


def optimize_(
    model: Model,
    example_inputs: tuple[Any, ...] | torch.Tensor | PackedSequence | None = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    keep_fp32: Sequence[Choice] | Choice | None = None,
    dynamic_shapes: Any = None,
    accuracy: Literal["default", "strict"] = "default",
    tuning: Literal["measure", "estimate"] | float = "measure",
    capture: Literal["auto", "whole"] = "auto",
    strict: bool = False,
    formats: str | None = None,
    new_shapes: Literal["wait", "background"] = "wait",
) -> Model:
    """Optimise ``model`` in place, and return it. ``restore(model)`` undoes it.

    Its ``forward`` is replaced, or that of its parts if it can't be captured whole. All else is its own: class, attributes,
    ``state_dict()``, hooks, and all methods that call it. Without an example it is prepared at its
    first call, for the arguments of that call. If a method calls submodules instead (``encode_image`` the image encoder), each of
    these is prepared at its own first call. Calls of other sizes get programs as with ``optimize``. Calls with other keywords or
    another structure are captured for themselves, eight at most. Further ones run eagerly, as do calls that can't be captured; a
    DrystoneWarning says so once.

    The original runs in training mode, under autocast, if the result needs a gradient (use ``torch.inference_mode()`` or
    ``torch.no_grad()``), while submodules have new hooks, and while it is traced or transformed. Changed weights are taken over by
    the second call that finds them the same. A new value of a number, string or switch among the attributes, or a new submodule
    or parameter, leads to a new program. Changes inside other objects (a ``config``) go unnoticed until the next ``optimize_``.

    ``copy.deepcopy`` returns a module that prepares itself at its first call. Pickles and ``torch.save`` hold the original module.

    Args:
        model: any ``nn.Module`` on the CPU. A TorchScript module gets a subclass of its class, which calls the program.
        example_inputs: a call to prepare for now, as for ``optimize``. The other arguments are as for ``optimize`` too. With
            ``new_shapes="background"`` the first call does not wait either, but for that of a TorchScript module. Without an
            example, ``tuning="measure"`` takes at most 3 seconds of a first call.

    Raises:
        InputError: ``model`` comes from ``optimize``; an argument is out of range.
        CaptureError, UnsupportedError: as ``optimize`` raises for the example. The model is unchanged then.

    >>> model = optimize_(nn.Linear(4, 2).eval())
    >>> with torch.inference_mode():
    ...     model(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    if isinstance(model, ModuleProxy):
        raise InputError(f"optimize_: this {type(model).__name__} is prepared already; take the model itself")
    if isinstance(model, torch.jit.ScriptModule) and not isinstance(model, torch.jit.RecursiveScriptModule):
        raise InputError(
            "optimize_: what torch.jit.trace gives has no place for it; take torch.jit.freeze of it, or drystone.optimize"
        )
    check_options(dtype, accuracy, tuning, capture, formats, new_shapes, dynamic_shapes=dynamic_shapes)
    if capture == "eager":
        raise InputError('optimize_: capture="eager" runs on a copy of the model; use drystone.optimize for it')
    options = {
        "dtype": dtype,
        "keep_fp32": chosen_modules(model, keep_fp32),
        "dynamic_shapes": dynamic_shapes,
        "accuracy": accuracy,
        "tuning": tuning,
        "capture": capture,
        "strict": strict,
        "formats": formats,
        "new_shapes": new_shapes,
    }
    restore(model)
    prepare: Callable[..., None]
    if isinstance(model, torch.jit.ScriptModule):
        prepare = script.install(model, partial(optimize, **options | {"keep_fp32": None}))
    else:
        first_calls = FirstCalls()
        prepare = install(model, options, first_calls).prepare
        _await_calls_inside(model, options | {"dynamic_shapes": None}, first_calls)
    if example_inputs is not None or example_kwargs:
        try:
            prepare(*example_call(example_inputs, example_kwargs))
        except BaseException:
            restore(model)
            raise
    return model


def restore(model: Model) -> Model:
    """Undo ``optimize_`` for ``model`` and all modules inside it."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            script.uninstall(module)
        else:
            uninstall(module)
    return model


def _await_calls_inside(model: nn.Module, options: dict[str, Any], first_calls: FirstCalls) -> None:
    """Have the modules inside prepare themselves, if it is they who are called.

    Not single layers: a program of one operator is no faster than eager, and takes as long to make as another.
    """
    for module in model.modules():
        if module is model or isinstance(module, (torch.jit.ScriptModule, ModuleProxy)):
            continue
        layers = next(module.children(), None) is not None or is_recurrent(module)
        if layers and next(module.parameters(), None) is not None:
            install(module, options, first_calls)
