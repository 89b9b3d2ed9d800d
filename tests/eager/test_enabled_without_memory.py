"""Tensors without memory under ``drystone.enable()``: torch's kernel gets them, and says what is wrong."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable

import pytest
import torch
from operator_calls import CALLS, operand

import drystone


def ending(work: Callable[[], object]) -> str:
    """How ``work`` ends in a child process: "returns", "raises", or the signal that ends it."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # a signal is an answer here, and no fault to report
        torch.set_num_threads(1)
        code = 1
        try:
            work()
            code = 0
        except Exception:
            code = 2
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else {0: "returns", 2: "raises"}[os.WEXITSTATUS(status)]


def freed(name: str) -> torch.Tensor:
    x = operand(name)
    x.untyped_storage().resize_(0)
    return x


@pytest.mark.parametrize("make", [freed, lambda name: torch._efficientzerotensor(operand(name).shape)], ids=["freed", "zero"])
@pytest.mark.parametrize("name", CALLS)
def test_it_ends_as_without(name: str, make: Callable[[str], torch.Tensor]) -> None:
    call = CALLS[name][0]
    without = ending(lambda: call(make(name)))
    drystone.enable()
    try:
        within = ending(lambda: call(make(name)))
    finally:
        drystone.disable()
    assert within == without or not within.startswith("signal"), f"{within}, torch alone: {without}"
