"""What all modules that ``optimize`` gives back have in common: each stands for the model, and refuses what it can't do."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone import forks
from drystone.capture.signature import labelled_leaves
from drystone.errors import DrystoneError, InputError, UnsupportedError, WeightsReplacedError, warn
from drystone.memory import REMEDY, has_memory


class NoModel(nn.Module):
    """What stands for the model of a module that was loaded."""

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(
            "this module was loaded from an artefact, which holds no model, only its programs: to trace, transform or script "
            "a call, or to optimise it as part of another model, take the model itself"
        )


class Copies:
    """How copies and pickles are made: ``drystone.copies``, which stands above all modules, puts it in."""

    copied: Callable[[nn.Module, Callable[[Any], Any]], nn.Module]
    reduced: Callable[[nn.Module], Any]


class ModuleProxy(nn.Module):
    """Is called as the model is, for inference. Attributes, parameters, buffers and submodules are the model's own.

    A call that is traced, or transformed by functorch, is a call of the model. What would change the prepared weights, as
    ``half()``, raises ``InputError``.
    """

    stands_alone = True  # copies of a tree share it: it has programs, and one state for them

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.keep_aside(_model=model, _said_replaced=False)
        self.training = False
        self.keep_aside(**{name: getattr(model, name) for name in ("_parameters", "_buffers", "_modules")})
        self.keep_aside(_non_persistent_buffers_set=getattr(model, "_non_persistent_buffers_set", set()))

    def keep_aside(self, **attributes: Any) -> None:
        """Set attributes past nn.Module's registration: the model's modules are not registered a second time."""
        self.__dict__.update(attributes)

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

        @functools.wraps(kind.forward)  # whose parameters tell what the model takes
        def call(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
            try:
                return model(*args, **kwargs) if model.training else self(*args, **kwargs)
            except InputError:
                return model(*args, **kwargs)

        body = {"__call__": call, "forward": call, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
        front: nn.Module = object.__new__(type(kind.__name__, (kind,), body))
        object.__setattr__(front, "__dict__", vars(self.__dict__.get("_tree", model)))  # in parts, a copy keeps the state
        return front

    # Containers are asked for their entries by the methods of their class.

    def __len__(self) -> int:
        return len(self._model)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._model)

    def __getitem__(self, key: Any) -> Any:
        return self._model[key]

    def __contains__(self, item: Any) -> bool:
        return item in self._model

    def __bool__(self) -> bool:
        return bool(self._model)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._model)})

    def extra_repr(self) -> str:
        return str(self._model.extra_repr())

    def __prepare_scriptable__(self) -> nn.Module:
        """torch.jit.script compiles this instead."""
        return self.original()

    def original(self) -> nn.Module:
        """The model that this stands for. Raises ``UnsupportedError`` for a module that was loaded, which has none."""
        model: nn.Module = self._model
        return model() if isinstance(model, NoModel) else model

    def call_original(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that is traced or transformed, in whatever gradient mode it is."""
        model = self.original()
        if isinstance(model, torch.jit.ScriptModule) and torch.jit.is_tracing():
            raise UnsupportedError("the original of this module is TorchScript already: it can't be traced again; take it itself")
        return model(*args, **kwargs)

    def call_as_it_is(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], error: WeightsReplacedError, hooked: bool = False
    ) -> Any:
        """A call of the model with what has taken the place of its weights, in whatever gradient mode it is. ``hooked``: its own
        hooks run around this already."""
        if not self._said_replaced:
            self.keep_aside(_said_replaced=True)
            warn(f"the call runs eagerly: {error}")
        return self._model.forward(*args, **kwargs) if hooked else self._model(*args, **kwargs)

    def train(self, mode: bool = True) -> ModuleProxy:
        """Refuses training mode: what is prepared is inference only."""
        if mode:
            raise InputError("this module is prepared for inference and has no training mode; train the original model")
        return self

    # The artefact's form is what programs are copied in.

    def __copy__(self) -> nn.Module:
        return Copies.copied(self, lambda original: original)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        made = memo[id(self)] = Copies.copied(self, lambda original: copy.deepcopy(original, memo))
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Copies.reduced(self)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self._model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the model's weights, and take them over.

        Raises ``InputError`` with ``assign``, which would put other tensors in the place of the prepared ones.
        """
        if assign:
            raise InputError("assign=True: load the weights into the model itself, and optimise it again; or leave assign out")
        keys = self.original().load_state_dict(state_dict, strict)
        self.refresh()
        return keys

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """As part of another module: the next call asks for ``refresh()``."""
        self.original()._load_from_state_dict(*args, **kwargs)

    def refresh(self) -> None:
        """Take over the model's weights as they are now."""
        raise NotImplementedError

    def apply(self, fn: Callable[[nn.Module], None]) -> ModuleProxy:
        """Apply ``fn`` to the model and its submodules."""
        self._model.apply(fn)
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ModuleProxy:
        """Of ``to()``, ``half()``, ``cuda()`` and their like: nothing is to be done, or it can't be done to packed weights."""
        for dtype in {tensor.dtype for tensor in [*self.parameters(), *self.buffers()]} or {torch.float32}:
            tensor = torch.empty(0, dtype=dtype, device="cpu")
            try:
                given = fn(tensor)
            except Exception as error:  # torch says what: no such device, for example
                raise InputError(f"this module is prepared for the CPU: {error}") from error
            if given is not tensor:
                to = f"{given.device}" if given.device != tensor.device else f"{given.dtype}" if given.dtype != dtype else "that"
                raise InputError(
                    f"this module's weights are packed for the CPU in the dtype they were prepared in, and can't become {to}: "
                    "convert the original model and optimise it again, with dtype=torch.bfloat16 for less precision"
                )
        return self

    def share_memory(self) -> ModuleProxy:
        """Refused: packed weights have no place in shared memory."""
        raise InputError("packed weights can't be moved to shared memory; processes that are forked share them as they are")

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Refused: calls would not see it."""
        raise InputError("this module runs a program already; compile the original model, or a module around this one")


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
    if not has_memory(tensor):
        return InputError(f"input {label} has no memory for its elements: {REMEDY}")
    return None


def checked_tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """All tensors of a call, each on the CPU and without gradient, or else an ``InputError``."""
    plain = not kwargs and all(isinstance(arg, torch.Tensor) for arg in args)  # pytree takes longer than a small layer
    leaves = args if plain else pytree.tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if not tensor.is_cpu or (grad and tensor.requires_grad) or not has_memory(tensor):
            label = next(label for label, leaf in labelled_leaves(args, kwargs) if leaf is tensor)
            error = refusal(label, tensor, grad)
            assert error is not None
            raise error
    return tensors


def threads_in_force() -> int:
    """torch's thread count; raises where this process can't have so many."""
    threads = torch.get_num_threads()
    if threads > 1 and forks.forked():
        raise DrystoneError(
            "this process was forked from one that had used drystone, and OpenMP's threads do not survive a fork: "
            "call torch.set_num_threads(1) in the child, or start it with the 'spawn' method"
        )
    return threads
