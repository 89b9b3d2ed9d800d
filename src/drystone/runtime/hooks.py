"""Hooks round a module's ``forward``: the model's own ones run around its program, as nn.Module runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def within_hooks(model: nn.Module, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``run(*args, **kwargs)`` in the place of the model's ``forward``. Hooks see the model, and may change inputs and result."""
    for key, hook in list(model._forward_pre_hooks.items()):
        if key in model._forward_pre_hooks_with_kwargs:
            given = hook(model, args, kwargs)
            args, kwargs = (args, kwargs) if given is None else given
        else:
            given = hook(model, args)
            if given is not None:
                args = given if isinstance(given, tuple) else (given,)
    result = run(*args, **kwargs)
    for key, hook in list(model._forward_hooks.items()):
        inputs = (args, kwargs) if key in model._forward_hooks_with_kwargs else (args,)
        given = hook(model, *inputs, result)
        result = result if given is None else given
    return result
