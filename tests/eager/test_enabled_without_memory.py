"""Tensors without memory under ``drystone.enable()``: torch's kernel gets them, and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_calls import CALLS, operand

import drystone
from children import child


def freed(name: str) -> torch.Tensor:
    x = operand(name)
    x.untyped_storage().resize_(0)
    return x


@pytest.mark.parametrize("make", [freed, lambda name: torch._efficientzerotensor(operand(name).shape)], ids=["freed", "zero"])
@pytest.mark.parametrize("name", CALLS)
def test_it_ends_as_without(name: str, make: Callable[[str], torch.Tensor]) -> None:
    call = CALLS[name][0]
    without = child(lambda: call(make(name)), threads=1)
    drystone.enable()
    try:
        within = child(lambda: call(make(name)), threads=1)
    finally:
        drystone.disable()
    assert within == without or not within.startswith(("signal", "hangs")), f"{within}, torch alone: {without}"
