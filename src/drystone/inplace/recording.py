"""``optimizing``: the calls in a ``with`` block are recorded, and prepared for at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

from drystone.capture.isolated import cloned_call
from drystone.capture.signature import form_of
from drystone.errors import InputError
from drystone.inplace.calls import sizes_of_call
from drystone.inplace.forward import NAME
from drystone.inplace.optimize import optimize_, restore
from drystone.inplace.state import InPlace
from drystone.runtime.programs import MAX_PROGRAMS
from drystone.runtime.proxy import ModuleProxy
from drystone.runtime.traced_calls import is_traced
from drystone.thread_flag import ThreadFlag

Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def optimizing(model: Model, **options: Any) -> Iterator[Model]:
    """``optimize_`` for the calls in a ``with`` block. They run eagerly and are recorded; the end of the block prepares for them.

    If the block does not call the model itself, but a method that calls ``self.encoder(x)``, the outermost called modules are
    optimised. ``options`` are those of ``optimize_``. If the block raises, the model stays as it was.

    Raises ``InputError`` if the block calls no module of the model in eval mode.

    >>> model = nn.Sequential(nn.Linear(4, 2)).eval()
    >>> with optimizing(model, tuning="estimate"), torch.no_grad():
    ...     y = model(torch.ones(1, 4))
    """
    restore(model)
    recorder = _Recorder(model)
    try:
        yield model
    finally:
        recorder.remove()
    if not recorder.calls:
        raise InputError(f"optimizing: the block has called neither the {type(model).__name__} nor a module inside it in eval mode")
    called = [module for module in model.modules() if module in recorder.calls]  # outer ones first
    for module in called:
        optimize_(module, **options)
        state: InPlace = vars(module)[NAME]
        for args, kwargs in recorder.calls[module]:
            state.warm_up(args, kwargs)


class _Recorder:
    """Records the calls of a model's outermost modules, until ``remove``."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: dict[nn.Module, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self.known: set[Any] = set()
        self.here = ThreadFlag()  # of a thread inside a call
        self.own = {module: vars(module).get("forward") for module in model.modules()}
        for module in self.own:
            if not isinstance(module, (torch.jit.ScriptModule, ModuleProxy)):
                vars(module)["forward"] = self._noting(module, module.forward)

    def remove(self) -> None:
        for module, own in self.own.items():
            if own is not None:
                vars(module)["forward"] = own
            else:
                vars(module).pop("forward", None)

    def _noting(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def noted(*args: Any, **kwargs: Any) -> Any:
            if self.here or module.training or is_traced():
                return forward(*args, **kwargs)
            self.note(module, args, kwargs)
            with self.here:
                return forward(*args, **kwargs)

        return noted

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = module, form_of(args, kwargs), sizes_of_call(args, kwargs)
        calls = self.calls.setdefault(module, [])
        if key not in self.known and len(calls) < MAX_PROGRAMS:
            self.known.add(key)
            calls.append(cloned_call(args, kwargs))
