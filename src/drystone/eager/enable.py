"""What ``drystone.enable()`` changes in torch, as a whole: one state, set and read at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from drystone.eager import operators, pages, torchscript


@dataclass(frozen=True)
class Enabled:
    """What is in place of torch's own."""

    operators: frozenset[str] = frozenset()  # of aten
    reuse_pages: bool = False
    torchscript: bool = False


def state() -> Enabled:
    return Enabled(operators.replaced(), pages.state().on, torchscript.is_replaced())


def change(only: Iterable[str] | None, reuse_pages: bool, hook: bool, optimize: Callable[..., Any]) -> None:
    """Exactly this and nothing else in place of torch's own; ``only`` None for all operators.

    Raises:
        ValueError: drystone has no operator of a name in ``only``.
    """
    restore(Enabled(operators.choose(only), reuse_pages, hook), optimize)


def restore(wanted: Enabled, optimize: Callable[..., Any]) -> None:
    """The state that ``state()`` gave."""
    operators.replace(wanted.operators)
    pages.turn(wanted.reuse_pages)
    if wanted.torchscript:
        torchscript.replace(optimize)
    else:
        torchscript.restore()
