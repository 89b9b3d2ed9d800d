"""``torch.jit.load`` and ``torch.jit.freeze`` of modules that prepare themselves, and torch's own again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from drystone.eager.script import self_preparing

_NAMES = ("load", "freeze")
_replaced: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}  # of torch.jit, by name: torch's own, and ours


def replace(optimize: Callable[..., Any]) -> None:
    """``torch.jit.load`` and ``torch.jit.freeze`` give modules that ``optimize`` prepares at their first call. Twice is as once."""
    for name in _NAMES:
        if name not in _replaced:
            own = getattr(torch.jit, name)
            _replaced[name] = own, _preparing(name, own, optimize)
            setattr(torch.jit, name, _replaced[name][1])


def restore() -> None:
    """Torch's own functions again; modules that they gave in between stay as they are.

    What others have put over ours in between stays too, and ours then does what torch's own does.
    """
    while _replaced:
        name, (own, ours) = _replaced.popitem()
        if getattr(torch.jit, name) is ours:
            setattr(torch.jit, name, own)


def is_replaced() -> bool:
    return bool(_replaced)


def _preparing(name: str, own: Callable[..., Any], optimize: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def made(*args: Any, **kwargs: Any) -> Any:
        result = own(*args, **kwargs)
        _, ours = _replaced.get(name, (None, None))
        return self_preparing(result, optimize) if ours is made else result

    return made
