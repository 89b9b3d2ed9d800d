"""One eager run of a model that can't be captured whole: how each of its modules is called, and which do more than return.

A program gives fresh results and changes nothing, so it can stand for a module only where the module does the same. What breaks
that is seen from outside: the version counters of tensors, the memory of results, the attributes of modules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.capture.isolated import state_of, version_of
from drystone.capture.module_tree import copy_tree, unchanged


@dataclass
class Call:
    """One way in which a module is called; ``kind`` has the structure, the tensors' shapes and dtypes, and all other values."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    kind: tuple[Any, ...]


@dataclass
class Recording:
    """What a run of the model showed. All modules are the model's own."""

    output: Any = None
    calls: dict[nn.Module, list[Call]] = field(default_factory=dict)  # one of each kind, in the order they came
    effects: dict[nn.Module, str] = field(default_factory=dict)  # what a call does to its inputs, or its results to them
    stateful: dict[nn.Module, str] = field(default_factory=dict)  # the attribute of the module itself that a run changes

    def obstacle(self, module: nn.Module, fresh: bool = True) -> str | None:
        """Why nothing can stand for ``module``; None where nothing is known against it. ``fresh``: its results would be new."""
        for name, inner in module.named_modules():
            if inner is not module and (inner._forward_hooks or inner._forward_pre_hooks):
                return f"its {name!r} has forward hooks"
            if inner in self.stateful:
                return f"each run changes {self.stateful[inner]!r} of " + (f"its {name!r}" if name else "it")
        return self.effects.get(module) if fresh else None


def record(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recording:
    """Run ``model(*args, **kwargs)`` once, on a copy of it with buffers of its own. Raises what the model raises.

    The tensors among the calls' arguments are those of the run, not clones.
    """
    recorder = _Recorder(model)
    recorder.recording.output = recorder.copies[model](*args, **kwargs)
    recorder.compare_statistics()
    return recorder.recording


class _Recorder:
    def __init__(self, model: nn.Module) -> None:
        self.recording = Recording()
        self.copies = copy_tree(model, stateful=set(model.modules()))
        for original, module in self.copies.items():
            observed = functools.partial(self.call, original, module.forward)
            vars(module)["forward"] = functools.update_wrapper(observed, module.forward)
        self.initial = {original: state_of(module) for original, module in self.copies.items()}

    def call(self, original: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        versions = [version_of(leaf) for leaf in leaves]
        kept_args, kept_kwargs = pytree.tree_unflatten(leaves, spec)  # containers that later changes do not reach
        kind = (spec, *map(_kind, leaves))
        output = forward(*args, **kwargs)
        calls = self.recording.calls.setdefault(original, [])
        if all(call.kind != kind for call in calls):
            calls.append(Call(kept_args, kept_kwargs, kind))
        effect = _effect(leaves, spec, versions, args, kwargs, output)
        if effect:
            self.recording.effects[original] = effect
        self.compare(original)
        return output

    def compare(self, original: nn.Module) -> None:
        """Note which modules, here or below, are no longer as they were before the run."""
        for inner in original.modules():
            if inner in self.copies and inner not in self.recording.stateful:
                name = _changed(self.initial[inner], state_of(self.copies[inner]))
                if name:
                    self.recording.stateful[inner] = name

    def compare_statistics(self) -> None:
        """Note the modules whose running statistics are others, which torch's version counters do not show."""
        for original, copied in self.copies.items():
            for name, buffer in original._buffers.items():
                now = copied._buffers.get(name)
                if buffer is not None and now is not None and original not in self.recording.stateful and _moved(buffer, now):
                    self.recording.stateful[original] = name


def _moved(before: torch.Tensor, now: torch.Tensor) -> bool:
    plain = type(before) is torch.Tensor and before.layout is torch.strided and before.is_floating_point()
    return plain and before.shape == now.shape and not torch.allclose(before, now, 0.0, 0.0, equal_nan=True)


def _kind(leaf: Any) -> tuple[Any, ...]:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, torch.Tensor) else (type(leaf), repr(leaf))


def _effect(
    leaves: list[Any], spec: pytree.TreeSpec, versions: list[int], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> str | None:
    """What a call did that a program would not do."""
    now, spec_now = pytree.tree_flatten((args, kwargs))
    if spec_now != spec or any(a is not b for a, b in zip(leaves, now, strict=True)):
        return "a call changes a container that it is given"
    if any(version_of(leaf) != version for leaf, version in zip(leaves, versions, strict=True)):
        return "a call changes its input in place"
    given, results = _memory(leaves), _memory(pytree.tree_leaves(output))
    if not set(given).isdisjoint(results):
        return "its result shares memory with its input"
    return "two of its results share memory" if len(set(results)) < len(results) else None


def _memory(leaves: list[Any]) -> list[int]:
    """What tells tensors that share memory from others."""
    return [leaf.untyped_storage()._cdata for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided]


def _changed(before: dict[Any, tuple[Any, int]], now: dict[Any, tuple[Any, int]]) -> str | None:
    """The name of the first attribute that is not what it was."""
    for key in [*before, *(key for key in now if key not in before)]:
        if key not in before or key not in now or not unchanged(before[key][0], now[key][0]) or before[key][1] != now[key][1]:
            return str(key[0])
    return None
