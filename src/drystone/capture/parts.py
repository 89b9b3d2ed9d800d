"""A model that can't be captured whole → its largest parts that can.

Model            can't: "if x.mean() > 0:"       eager
  stem           can                             → one program
  blocks         a list, not called              walked through
    0            can                             → one program
    1            can't: ".item()"                eager
      conv       can                             → one program
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from drystone.capture.module_tree import stands_alone
from drystone.capture.recording import Call, Recording
from drystone.errors import DrystoneError

Prepared = TypeVar("Prepared")


@dataclass
class Part(Generic[Prepared]):
    """One module: prepared, or left eager with the reason; ``name`` is its qualified name."""

    name: str
    module: nn.Module
    prepared: Prepared | None = None
    reason: str = ""


def divide(
    model: nn.Module,
    why: str,
    recording: Recording,
    prepare: Callable[[nn.Module, list[Call]], Prepared],
    direct: Callable[[nn.Module], bool],
) -> Iterator[Part[Prepared]]:
    """Parts top down, in the order of the tree. ``why``: the reason why the model is not one.

    ``prepare`` makes something of a module and the ways in which it is called, or raises a DrystoneError that says why not.
    ``direct`` modules are not captured for it, so the model itself may be one, and what they give back is as they give it.
    """
    seen: set[nn.Module] = set()

    def visit(name: str, module: nn.Module) -> Iterator[Part[Prepared]]:
        if module in seen:
            return
        seen.add(module)
        calls = recording.calls.get(module, [])
        reason = None
        if next(module.parameters(), None) is None:
            reason = "it has no parameters"
        elif stands_alone(module):
            reason = "it is TorchScript" if isinstance(module, torch.jit.ScriptModule) else "it is prepared already"
        elif not any(inner in recording.calls for inner in module.modules()):
            reason = "no call of it is seen with the example inputs"
        if reason:
            yield Part(name, module, reason=reason)
            return
        if calls:
            reason = recording.obstacle(module, fresh=not direct(module))
            if reason is None:
                try:
                    yield Part(name, module, prepare(module, calls))
                    return
                except DrystoneError as error:
                    reason = first_line(error)
            yield Part(name, module, reason=reason)
        for child_name, child in module.named_children():
            yield from visit(f"{name}.{child_name}", child)

    if direct(model):
        yield from visit("", model)
        return
    seen.add(model)
    yield Part("", model, reason=why)
    for child_name, child in model.named_children():
        yield from visit(child_name, child)


def first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
