"""What all modules that ``optimize`` gives back have in common: each stands for the model, and refuses what it can't do."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone import native
from drystone.errors import DrystoneError, InputError


class StandIn(nn.Module):
    """Is called as the model is, for inference. Attributes are the model's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.keep_aside(_model=model)
        self.training = False

    def keep_aside(self, **modules: Any) -> None:
        """Set attributes past nn.Module's registration: the model's parameters stay the model's own, and are not listed twice."""
        self.__dict__.update(modules)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            model = self.__dict__["_model"]
            found = getattr(model, name)
            own = isinstance(found, MethodType) and found.__self__ is model
            return MethodType(found.__func__, self._front()) if own and _has_plain_state(model) else found

    def _front(self) -> nn.Module:
        """The model for methods beside its ``forward``: they find its attributes, and what they call as the model is this module.

        Inputs that this module refuses, it having computed nothing, go to the model.
        """
        model: nn.Module = self.__dict__["_model"]
        kind = type(model)

        def call(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
            try:
                return model(*args, **kwargs) if model.training else self(*args, **kwargs)
            except InputError:
                return model(*args, **kwargs)

        body = {"__call__": call, "forward": call, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
        front: nn.Module = object.__new__(type(kind.__name__, (kind,), body))
        object.__setattr__(front, "__dict__", vars(self.__dict__.get("_tree", model)))  # in parts, a copy keeps the state
        return front

    def train(self, mode: bool = True) -> StandIn:
        """Refuses training mode: what is prepared is inference only."""
        if mode:
            raise InputError("this module is prepared for inference and has no training mode; train the original model")
        return self


def _has_plain_state(model: nn.Module) -> bool:
    """Whether all that it keeps is in its ``__dict__``, and so may be another object's too."""
    return not isinstance(model, torch.jit.ScriptModule) and not any("__slots__" in vars(kind) for kind in type(model).__mro__[:-1])


def refusal(label: str, tensor: torch.Tensor, grad: bool) -> InputError | None:
    """What is wrong with the input called ``label``, whatever the model; None where nothing is. ``grad``: grad mode is on."""
    if not tensor.is_cpu:
        return InputError(f"input {label}: expected a tensor on the CPU, got one on {tensor.device}; move it with .cpu()")
    if grad and tensor.requires_grad:
        return InputError(
            f"input {label} requires grad, but this module is inference only and gives no gradients: "
            "call it under torch.no_grad() or torch.inference_mode(), or detach the input"
        )
    return None


def checked_tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """All tensors of a call, each on the CPU and without gradient, or else an ``InputError``."""
    plain = not kwargs and all(isinstance(arg, torch.Tensor) for arg in args)  # pytree takes longer than a small layer
    leaves = args if plain else pytree.tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if not tensor.is_cpu or (grad and tensor.requires_grad):
            paths = pytree.tree_flatten_with_path((args, kwargs))[0]
            label = next(pytree.keystr(path[1:]) for path, leaf in paths if leaf is tensor)
            error = refusal(label, tensor, grad)
            assert error is not None
            raise error
    return tensors


def threads_in_force() -> int:
    """torch's thread count; raises where this process can't have so many."""
    threads = torch.get_num_threads()
    if threads > 1 and native.forked():
        raise DrystoneError(
            "this process was forked from one that had used drystone, and OpenMP's threads do not survive a fork: "
            "call torch.set_num_threads(1) in the child, or start it with the 'spawn' method"
        )
    return threads


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether it holds neither NaN nor infinity; where it does, a program that keeps them runs."""
    dtype = tensor.dtype
    if (dtype is torch.float32 or dtype is torch.bfloat16) and tensor.is_contiguous():
        return native.all_finite(tensor.data_ptr(), tensor.numel(), native.DTYPES[dtype])
    return not (dtype.is_floating_point or dtype.is_complex) or bool(tensor.isfinite().all())
