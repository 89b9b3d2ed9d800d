"""``torch.ops.drystone``: the native operators, with the shapes and gradients that torch knows for its own of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from drystone import native
from drystone.eager import operators

if operators.why_not() is None:
    native.define_operators()


def operator(
    name: str, setup_context: Callable[..., None] | None = None, backward: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """The native operator that does what ``torch.ops.aten.NAME`` does; where this torch can't have it, torch's own.

    Args:
        name: of aten.
        setup_context, backward: its gradient, as ``torch.library.register_autograd`` takes them.
    """
    own = getattr(torch.ops.aten, name).default
    if not hasattr(torch.ops.drystone, name):
        return own
    torch.library.register_fake(f"drystone::{name}")(own)
    if backward is not None:
        torch.library.register_autograd(f"drystone::{name}", backward, setup_context=setup_context)
    return getattr(torch.ops.drystone, name).default
