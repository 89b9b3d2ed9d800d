"""Calls that are not made for their numbers: traced, transformed, or watched operator by operator.

A program reads and writes memory past torch's dispatcher. Whoever records or rewrites what a call does, torch.jit.trace, make_fx,
torch.export, Dynamo, functorch's transformations, forward-mode AD, a TorchDispatchMode, would see nothing of it. Such calls are of
the model itself.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

_interpreters = torch._C._functorch.peek_interpreter_stack
_modes = torch._C._len_torch_dispatch_stack
_is_traced_by_jit = torch._C._is_tracing
_is_traced_by_dynamo = torch.compiler.is_dynamo_compiling


def is_traced() -> bool:
    """Whether this thread's call must be of the model. At each call, so it is of the cheapest questions: 0.2 µs in all."""
    return (
        _is_traced_by_dynamo()  # first: Dynamo reads on here, and knows the answer to this alone
        or _modes() > 0
        or _interpreters() is not None
        or forward_ad._current_level >= 0
        or _is_traced_by_jit()
    )
