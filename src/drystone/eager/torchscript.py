"""``torch.jit.load`` and ``torch.jit.freeze`` of modules that prepare themselves, and torch's own again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from drystone.eager.script import self_preparing

_originals: dict[str, Callable[..., Any]] = {}  # of torch.jit, by name, while they are replaced


def replace(optimize: Callable[..., Any]) -> None:
    """``torch.jit.load`` and ``torch.jit.freeze`` give modules that ``optimize`` prepares at their first call."""
    for name in ("load", "freeze"):
        if name not in _originals:
            _originals[name] = getattr(torch.jit, name)
            setattr(torch.jit, name, _preparing(_originals[name], optimize))


def restore() -> None:
    """Torch's own functions again; modules that they gave in between stay as they are."""
    while _originals:
        name, function = _originals.popitem()
        setattr(torch.jit, name, function)


def is_replaced() -> bool:
    return bool(_originals)


def _preparing(function: Callable[..., Any], optimize: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def made(*args: Any, **kwargs: Any) -> Any:
        return self_preparing(function(*args, **kwargs), optimize)

    return made
