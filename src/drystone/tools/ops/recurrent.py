"""LSTM, GRU and RNN by time steps, batch and size: a module of one layer, through ``drystone.optimize`` and as torch has it.

From zeros, as most models begin. Weights are hot: a call reads the hidden ones once a time step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from drystone.graph.recurrent import GATES

from ..bench.workload import DTYPES
from .case import Call, Case, Contest

STEPS = (1, 15, 35, 50)
BATCHES = (1, 32, 64, 128)
SIZES = ((250, 200), (500, 500), (800, 800), (1024, 1024))  # of the inputs and of the hidden state
MODULES: dict[str, Callable[[int, int], nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}


def cases(kind: str, dtype: str) -> Iterator[Case]:
    """Every size with every number of steps and every batch."""
    for (inputs, hidden), steps, batch in itertools.product(SIZES, STEPS, BATCHES):
        yield case(kind, dtype, steps, batch, inputs, hidden)


def case(kind: str, dtype: str, steps: int, batch: int, inputs: int, hidden: int) -> Case:
    """One layer of ``kind``."""
    width = DTYPES[dtype].itemsize
    weights = GATES[kind] * hidden * (inputs + hidden)
    return Case(
        operator=kind,
        tag=f"{inputs}x{hidden}",
        dtype=dtype,
        sizes={"T": steps, "N": batch, "I": inputs, "H": hidden},
        axis="T",
        group="N = 1" if batch == 1 else "N > 1",
        flops=2 * steps * batch * weights,
        bytes=(weights + steps * batch * (inputs + hidden)) * width,
        copies=1,
        make=lambda: layer(kind, steps, batch, inputs, hidden, DTYPES[dtype]),
    )


def layer(kind: str, steps: int, batch: int, inputs: int, hidden: int, dtype: torch.dtype) -> Contest:
    """The contenders; what they give is the output sequence."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MODULES[kind](inputs, hidden).eval().to(dtype)
        x = torch.randn(steps, batch, inputs).to(dtype)

    def call_of(function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> Call:
        return lambda i: function(x)[0]

    def exact() -> torch.Tensor:
        wide = MODULES[kind](inputs, hidden).eval().double()
        wide.load_state_dict(module.state_dict())
        return wide(x.double())[0]

    def drystone() -> Call:
        from drystone.conductor import optimize

        return call_of(optimize(module, (x,)))

    return Contest({"drystone": drystone, "torch": lambda: call_of(module)}, exact)


OPERATORS: dict[str, Callable[[str], Iterator[Case]]] = {
    "lstm": partial(cases, "lstm"),
    "gru": partial(cases, "gru"),
    "rnn": partial(cases, "rnn_tanh"),
}
