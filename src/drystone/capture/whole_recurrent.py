"""Recurrent layers are traced whole.

torch works out what they give, on tensors without data, by going through every time step and every gate: seconds for a hundred
steps, and four times as long where the batch is a symbol. Only the shapes are asked for.

lstm(x (T, N, I), h (L D, N, R), c (L D, N, H))      →      (T, N, D R), (L D, N, R), (L D, N, H)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch._C import DispatchKey
from torch._decomp import decomposition_table

_aten = torch.ops.aten
_OPERATORS = (_aten.lstm.input, _aten.gru.input, _aten.rnn_tanh.input, _aten.rnn_relu.input)
# Under inference mode, tensors without data ask the table of decompositions.
_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd, DispatchKey.Meta)


@contextmanager
def whole_recurrent() -> Iterator[None]:
    """Within it, this thread traces recurrent layers by their shapes. One thread at a time may enter."""
    owner = get_ident()
    before: list[tuple[dict[Any, Any], Any, Callable[..., Any]]] = []
    try:
        for operator in _OPERATORS:
            places: list[tuple[dict[Any, Any], Any]] = [(operator.py_kernels, key) for key in _KEYS]
            for table, key in [*places, (decomposition_table, operator)]:
                if own := table.get(key):
                    before.append((table, key, own))
                    table[key] = _by_shape(own, owner)
            operator._dispatch_cache.clear()
        yield
    finally:
        for table, key, own in before:
            table[key] = own
        for operator in _OPERATORS:
            operator._dispatch_cache.clear()


def _by_shape(own: Callable[..., Any], owner: int) -> Callable[..., Any]:
    @functools.wraps(own)  # torch asks for its name
    def kernel(
        input: torch.Tensor, hx: Any, params: Any, biases: bool, layers: int, dropout: float, train: bool, both: bool, first: bool
    ) -> Any:
        states = [hx] if isinstance(hx, torch.Tensor) else list(hx)
        fits = input.dim() == 3 and all(state.dim() == 3 for state in states) and input.shape[-1] == params[0].shape[-1]
        if get_ident() != owner or train or not fits:
            return own(input, hx, params, biases, layers, dropout, train, both, first)
        steps, rows = input.shape[first], input.shape[1 - first]
        output = input.new_empty(steps, rows, (1 + both) * states[0].shape[-1])
        last = [input.new_empty(layers * (1 + both), rows, state.shape[-1]) for state in states]
        return (output.transpose(0, 1) if first else output, *last)

    return kernel
