"""Hooks that torch runs round every module's ``forward``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# Of all modules: before a call and after it. Torch changes these two in place.
GLOBAL_HOOKS: tuple[dict[int, Any], dict[int, Any]] = (
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_forward_hooks,
)


@contextmanager
def global_hooks_held() -> Iterator[None]:
    """What runs in this thread is no concern of hooks on all modules; other threads' calls still are."""
    here = threading.get_ident()

    def elsewhere(hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: None if threading.get_ident() == here else hook(*args, **kwargs)

    before = [dict(hooks) for hooks in GLOBAL_HOOKS]
    try:
        for hooks, own in zip(GLOBAL_HOOKS, before, strict=True):
            hooks.update({key: elsewhere(hook) for key, hook in own.items()})
        yield
    finally:
        for hooks, own in zip(GLOBAL_HOOKS, before, strict=True):
            hooks.update({key: hook for key, hook in own.items() if key in hooks})
