"""The method that stands for a module's ``forward``, and the way back.

Only the instance's attribute ``forward`` changes. Class, hooks, weights and the methods that call ``forward`` are the module's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import update_wrapper
from types import MethodType
from typing import Any

import torch
from torch import nn

from drystone.runtime.traced_calls import is_traced

# The attribute of a module that holds its programs.
NAME = "_drystone"


def replacement(module: nn.Module, own: Callable[..., Any] | None) -> Callable[..., Any]:
    """The replacement of the method ``forward``. Bound to a copy of the module, it is the original."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # First: those that trace read on here.
        state = None if is_traced() else vars(self).get(NAME)
        if state is None or state.module is not self:
            return own(*args, **kwargs) if own else type(self).forward(self, *args, **kwargs)
        return state.call(args, kwargs)

    update_wrapper(forward, own or type(module).forward)
    setattr(forward, NAME, True)
    forward.__name__ = "forward"  # by which pickle finds the class's
    with suppress(TypeError, ValueError):  # a function without a signature
        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        signature = inspect.signature(own or MethodType(type(module).forward, module))
        parameters = list(signature.parameters.values())
        if "self" in signature.parameters:
            this = this.replace(name="_self")
        forward.__signature__ = signature.replace(parameters=[this, *parameters])  # type: ignore[attr-defined]
    return forward


def uninstall(module: nn.Module) -> None:
    held = vars(module)
    state = held.get(NAME)
    if NAME in held and not isinstance(module, torch.jit.ScriptModule):  # whose state is another's; None: it comes from a pickle
        held.pop(NAME, None)  # another thread may do the same
        forward = held.get("forward")
        if not isinstance(forward, MethodType) or (state and not hasattr(forward, NAME)):
            return  # someone has put another in its place since
        if state and state.own:
            held["forward"] = state.own
        else:
            held.pop("forward", None)
