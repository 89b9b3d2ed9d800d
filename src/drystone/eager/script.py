"""A TorchScript module that prepares itself: the first call makes its program, later calls run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.jit._recursive import wrap_cpp_module
from torch.utils import _pytree as pytree

from drystone.errors import DrystoneError, DrystoneWarning, InputError, WeightsChangedError, warn
from drystone.forks import Lock

Optimize = Callable[..., Any]


class _State:
    """What a module knows of its program. ``fast`` is None until the first call, and where there is none."""

    def __init__(self, optimize: Optimize, kind: type) -> None:
        self.optimize = optimize
        self.kind = kind  # the module's own class
        self.by_hand = False  # not by what stands for torch.jit.load
        self.fast: Any = None
        self.tried = False
        self.warned = False
        self.lock = Lock()


class SelfPreparingScript(torch.jit.RecursiveScriptModule):
    """The module as torch gives it, but for what a call runs.

    The original runs in training mode, while it is traced, under autocast, for inputs that require grad in grad mode, and,
    with one warning, where the module can't be captured or the inputs are others than the program takes.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state: _State = self.__dict__["_drystone"]
        if (
            torch.jit.is_tracing()
            or torch.is_autocast_enabled("cpu")
            or getattr(self, "training", False)
            or _needs_grad(args, kwargs)
        ):
            return super().__call__(*args, **kwargs)
        with state.lock:
            if not state.tried:
                state.tried = True
                _prepare(self, state, args, kwargs)
            fast = state.fast
        if fast is None:
            try:
                return super().__call__(*args, **kwargs)
            except Exception:
                self._forget()  # inputs that torch refuses too say nothing about the module
                raise
        try:
            return fast(*args, **kwargs)
        except WeightsChangedError:
            fast.refresh()
            return fast(*args, **kwargs)
        except InputError as error:  # raised before anything is computed
            _warn(state, f" for inputs other than those of its first call: {error}")
            return super().__call__(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "training":  # a program knows the attributes as they were
            self._forget()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._forget()
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _forget(self) -> None:
        state: _State = self.__dict__["_drystone"]
        with state.lock:
            state.fast, state.tried = None, False


def self_preparing(module: Any, optimize: Optimize) -> Any:
    """``module`` with calls that go to the program that ``optimize`` makes of it; as it is where its tensors are not on the CPU."""
    if any(tensor.device.type != "cpu" for tensor in [*module.parameters(), *module.buffers()]):
        return module
    _install(module, optimize)
    return module


def install(module: Any, optimize: Optimize) -> Callable[[tuple[Any, ...], dict[str, Any]], None]:
    """Have the calls of ``module`` go to the program. Gives a function that makes it now, and raises what ``optimize`` raises.

    There is no wrapper around it: what asks for a ScriptModule, or saves one, is to find it.
    """
    state = _install(module, optimize)
    state.by_hand = True

    def prepare(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plain = wrap_cpp_module(module._c)  # type: ignore[no-untyped-call]
        with state.lock:
            state.fast, state.tried = optimize(plain, args, example_kwargs=kwargs), True

    return prepare


def _install(module: Any, optimize: Optimize) -> _State:
    _uninstall(module)
    state = module.__dict__["_drystone"] = _State(optimize, type(module))
    object.__setattr__(module, "__class__", SelfPreparingScript)
    return state


def uninstall(module: Any) -> None:
    """What ``install`` has done; modules that prepare themselves because they were loaded so go on doing it."""
    if type(module) is SelfPreparingScript and module.__dict__["_drystone"].by_hand:
        _uninstall(module)


def _uninstall(module: Any) -> None:
    if type(module) is SelfPreparingScript:
        state: _State = module.__dict__.pop("_drystone")
        object.__setattr__(module, "__class__", state.kind)


def _prepare(module: SelfPreparingScript, state: _State, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    plain = wrap_cpp_module(module._c)  # type: ignore[no-untyped-call]
    try:
        state.fast = state.optimize(plain, args, example_kwargs=kwargs)
    except (DrystoneError, DrystoneWarning) as error:
        _warn(state, f": {error}")


def _warn(state: _State, reason: str) -> None:
    if not state.warned:
        state.warned = True
        warn(f"a TorchScript module runs as torch made it{reason}")


def _needs_grad(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves((args, kwargs))
    )
