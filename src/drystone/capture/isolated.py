"""A copy of a model that shares its weights and nothing that a call could change.

Tracing leaves tensors without data wherever the model keeps something: in attributes, dicts, lists, objects. So does an eager run
leave what it keeps. Both happen to a copy, and the model, which another thread may be calling, sees nothing of it.
"""

from __future__ import annotations

import enum
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils import _pytree as pytree

# Objects of these kinds are no state, or are state of something else.
_SHARED = (type, enum.Enum, types.ModuleType, types.FunctionType, torch.jit.ScriptModule, torch.Generator, BaseException)

# Pre-hooks that are a part of what a module computes: from a direction and a length, or a weight and a mask, its weight.
_COMPUTE_WEIGHTS = (WeightNorm, SpectralNorm, BasePruningMethod)

Tensors = Callable[[torch.Tensor], torch.Tensor]


class Copier:
    """Copies a model's structure: modules, containers and plain objects. ``tensors`` gives what stands for a tensor that is no
    parameter. What is met twice is one object in the copy too; ``copies`` has modules and objects by the originals' ids."""

    def __init__(self, tensors: Tensors, modules: bool = True) -> None:
        """Without ``modules`` these are shared."""
        self._tensors, self._modules = tensors, modules
        self._known: dict[int, tuple[Any, Any]] = {}  # with the original, so that no other takes its id

    def copy(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return value
        if id(value) in self._known:
            return self._known[id(value)][1]
        if isinstance(value, torch.Tensor):
            made: Any = value if isinstance(value, nn.Parameter) else self._tensors(value)
            return self._note(value, made)
        kind = type(value)
        if kind in (dict, OrderedDict):
            made = self._note(value, kind())
        elif kind is defaultdict:
            made = self._note(value, defaultdict(value.default_factory))
        elif kind in (list, deque):
            made = self._note(value, [] if kind is list else deque(maxlen=value.maxlen))
            made.extend(map(self.copy, value))
            return made
        elif kind is set:
            return self._note(value, set(value))
        elif isinstance(value, tuple):
            items = [self.copy(item) for item in value]
            if all(a is b for a, b in zip(items, value, strict=True)):
                return value
            return self._note(value, kind._make(items) if hasattr(kind, "_make") else kind(items))
        elif kind is types.MethodType:
            return types.MethodType(value.__func__, self.copy(value.__self__))
        else:
            return self._object(value)
        for key, item in value.items():
            made[self.copy(key) if isinstance(key, nn.Module) else key] = self.copy(item)
        return made

    def _note(self, value: Any, made: Any) -> Any:
        self._known[id(value)] = value, made
        return made

    def _object(self, value: Any) -> Any:
        kind = type(value)
        # An object that has something to release must not be there twice.
        if isinstance(value, nn.Module) and not self._modules:
            return value
        if isinstance(value, _SHARED) or hasattr(kind, "__del__") or not hasattr(value, "__dict__"):
            return value
        try:
            made = object.__new__(kind)
        except TypeError:  # it has state outside of its attributes
            return value
        self._note(value, made)
        for name, item in list(vars(value).items()):
            # Hooks are functions of whoever registered them.
            vars(made)[name] = item.copy() if name.endswith("_hooks") and isinstance(item, dict) else self.copy(item)
        for name in _slots(kind):
            if hasattr(value, name):
                object.__setattr__(made, name, self.copy(getattr(value, name)))
        return made


def _slots(kind: type) -> Iterator[str]:
    for ancestor in kind.__mro__:
        slots = vars(ancestor).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                yield name


def tensors_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Those of a call, in the order in which torch flattens it."""
    return [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]


def cloned_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with tensors, containers and objects of its own: what a run does to a cache that it is given, no other sees."""
    objects = Copier(torch.Tensor.clone, modules=False)

    def cloned(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, torch.Tensor) else objects.copy(leaf)

    copied: tuple[Any, Any] = pytree.tree_map(cloned, (args, kwargs))
    return copied


class Isolated:
    """A copy of ``model`` with tensors of its own for all that are no parameters: it may run, and keep what it likes."""

    def __init__(self, model: nn.Module) -> None:
        parameters = {storage(parameter): None for parameter in model.parameters()}
        self._memory: dict[int, torch.Tensor] = {}
        self._originals: dict[int, tuple[torch.Tensor, torch.Tensor, int]] = {}

        def cloned(tensor: torch.Tensor) -> torch.Tensor:
            if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or storage(tensor) in parameters:
                return tensor
            made = self._clone(tensor)
            self._originals[id(made)] = made, tensor, version_of(made)
            return made

        self.model: nn.Module = Copier(cloned).copy(model)
        remove_hooks(self.model)

    def _clone(self, tensor: torch.Tensor) -> torch.Tensor:
        """On memory of its own, which tensors that share theirs share too."""
        memory = self._memory.get(storage(tensor))
        if memory is None:
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.detach().untyped_storage())
            memory = self._memory[storage(tensor)] = whole.clone()
        made = torch.empty(0, dtype=tensor.dtype)
        made.set_(memory.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
        return made.requires_grad_(tensor.requires_grad)

    def for_tracing(self) -> nn.Module:
        """A copy of it as it is now, with the model's own tensors wherever they are still in place and unchanged."""

        def own(tensor: torch.Tensor) -> torch.Tensor:
            made, original, version = self._originals.get(id(tensor), (None, tensor, 0))
            return original if made is tensor and version_of(tensor) == version else tensor

        copied: nn.Module = Copier(own).copy(self.model)
        return copied


def can_be_isolated(model: nn.Module) -> bool:
    """Whether a copy runs on its own: no module has a function for its ``forward`` that may hold on to the original."""
    forwards = [vars(module).get("forward") for module in model.modules()]
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    return not scripted and all(forward is None or isinstance(forward, types.MethodType) for forward in forwards)


def can_be_captured_beside_calls(model: nn.Module) -> bool:
    """Whether a capture reads a copy of the model, or what is not run: then calls of other threads may run it meanwhile."""
    return isinstance(model, torch.jit.ScriptModule) or can_be_isolated(model)


def alone(model: nn.Module) -> nn.Module:
    """The model to be run and timed beside a program, where nothing of it may change; itself where no copy can be made."""
    return Isolated(model).model if can_be_isolated(model) else model


def users_hooks(module: nn.Module) -> list[Any]:
    """What is to run around the module's ``forward``, but for what torch's own utilities have put there to compute its weights."""
    registered = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [hook for hook in registered if _is_users(hook)]


def remove_hooks(module: nn.Module) -> None:
    """Take the hooks that are the user's from a copy."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if _is_users(hook)]:
            del hooks[key]


def _is_users(hook: Any) -> bool:
    # transformers leaves hooks behind once hidden states were asked for; they do nothing but where they are asked for again.
    left = getattr(hook, "__module__", None) == "transformers.utils.output_capturing"
    return not left and not isinstance(hook, _COMPUTE_WEIGHTS)


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def state(model: nn.Module) -> dict[tuple[Any, ...], tuple[Any, int]]:
    """All that a model holds, by the path to it: (module's name and attribute, keys inside of it …) → value and version."""
    found: dict[tuple[Any, ...], tuple[Any, int]] = {}
    for name, module in model.named_modules():
        found.update(state_of(module, f"{name}." if name else ""))
    return found


def version_of(value: Any) -> int:
    """Counts the in-place changes of a tensor, where torch does."""
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def state_of(module: nn.Module, prefix: str = "") -> dict[tuple[Any, ...], tuple[Any, int]]:
    """What one module holds itself."""
    found: dict[tuple[Any, ...], tuple[Any, int]] = {}
    seen: set[int] = set()

    def visit(path: tuple[Any, ...], value: Any) -> None:
        version = version_of(value)
        opened = not isinstance(value, (torch.Tensor, str, nn.Module)) and id(value) not in seen
        entries: Any = ()
        if opened and isinstance(value, dict):
            entries = value.items()
        elif opened and isinstance(value, (list, tuple, deque)):
            entries = enumerate(value)
        elif opened and isinstance(value, set):
            entries = [("size", len(value))]
        elif opened and hasattr(value, "__dict__") and not isinstance(value, _SHARED):
            entries = vars(value).items()
        if isinstance(value, tuple):
            value = len(value)  # compared by its items
        found[path] = value, version
        if entries:
            seen.add(id(value))
            for key, item in list(entries):
                visit((*path, key if isinstance(key, (str, int)) else repr(key)), item)

    for attribute, value in vars(module).items():
        if attribute.endswith("_hooks"):
            continue
        if attribute in ("_parameters", "_buffers", "_modules"):
            for key, item in value.items():
                visit((prefix + key,), item)
        elif attribute != "_non_persistent_buffers_set":
            visit((prefix + attribute,), value)
    return found
