"""LSTM, GRU and RNN by time steps, batch and size: a module of one layer, through ``drystone.optimize`` and as torch has it.

From zeros, as most models begin. Weights are hot: a call reads the hidden ones once a time step. Packed sequences are of all
lengths up to the time steps, evenly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from drystone.graph.ops.recurrent import GATES

from ...bench.workload import DTYPES
from ..case import Call, Case, Contest

STEPS = (1, 15, 35, 50)
BATCHES = (1, 32, 64, 128)
SIZES = ((250, 200), (500, 500), (800, 800), (1024, 1024))  # of the inputs and of the hidden state
PACKED = ((15, 32), (50, 32), (50, 128))  # time steps and batch
MODULES: dict[str, Callable[[int, int], nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}


def cases(kind: str, dtype: str) -> Iterator[Case]:
    """Every size with every number of steps and every batch."""
    for (inputs, hidden), steps, batch in itertools.product(SIZES, STEPS, BATCHES):
        yield case(kind, dtype, [steps] * batch, inputs, hidden)
    for (inputs, hidden), (steps, batch) in itertools.product(SIZES, PACKED):
        lengths = [-(-steps * (batch - i) // batch) for i in range(batch)]
        yield case(kind, dtype, lengths, inputs, hidden, packed=True)


def case(kind: str, dtype: str, lengths: list[int], inputs: int, hidden: int, packed: bool = False) -> Case:
    """One layer of ``kind`` on sequences of ``lengths``, which do not rise; ``packed``, they are a ``PackedSequence``."""
    width = DTYPES[dtype].itemsize
    weights, rows = GATES[kind] * hidden * (inputs + hidden), sum(lengths)
    steps, batch = lengths[0], len(lengths)
    return Case(
        operator=kind,
        tag=f"{'packed-' if packed else ''}{inputs}x{hidden}",
        dtype=dtype,
        sizes={"T": steps, "N": batch, "I": inputs, "H": hidden},
        axis="T",
        group="packed" if packed else "N = 1" if batch == 1 else "N > 1",
        flops=2 * rows * weights,
        bytes=(weights + rows * (inputs + hidden)) * width,
        copies=1,
        make=lambda: layer(kind, lengths, inputs, hidden, DTYPES[dtype], packed),
    )


def layer(kind: str, lengths: list[int], inputs: int, hidden: int, dtype: torch.dtype, packed: bool) -> Contest:
    """The contenders; what they give is the output sequence."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MODULES[kind](inputs, hidden).eval().to(dtype)
        padded = torch.randn(lengths[0], len(lengths), inputs).to(dtype)
    x = pack_padded_sequence(padded, torch.tensor(lengths)) if packed else padded

    def call_of(function: Callable[..., Any]) -> Call:
        return (lambda i: function(x)[0].data) if packed else (lambda i: function(x)[0])

    def exact() -> torch.Tensor:
        wide = MODULES[kind](inputs, hidden).eval().double()
        wide.load_state_dict(module.state_dict())
        return call_of(lambda x: wide(x.to(torch.float64)))(0)

    def drystone() -> Call:
        from drystone.conductor import optimize

        return call_of(optimize(module, (x,)))

    return Contest({"drystone": drystone, "torch": lambda: call_of(module)}, exact)


OPERATORS: dict[str, Callable[[str], Iterator[Case]]] = {
    "lstm": partial(cases, "lstm"),
    "gru": partial(cases, "gru"),
    "rnn": partial(cases, "rnn_tanh"),
}
