"""Operators that give back their very input: what is changed in one shows in the other, as in eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone

SAME: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dropout": lambda h: F.dropout(h, 0.1, training=False),
    "nn.Dropout": nn.Dropout(0.1).eval(),
    "alpha_dropout": lambda h: F.alpha_dropout(h, 0.1, training=False),
    "dropout2d": lambda h: F.dropout2d(h.view(2, 4, 1, 1), 0.1, training=False).view(2, 4),
    "contiguous": lambda h: h.contiguous(),
    "to": lambda h: h.to(torch.float32),
    "reshape": lambda h: h.reshape(2, 4),
    "detach": lambda h: h.detach(),
    "view_as": lambda h: h.view_as(h),
    "flatten": lambda h: h.flatten(1),
    "expand": lambda h: h.expand(2, 4),
    "slice": lambda h: h[:],
    "other shape": lambda h: h.reshape(4, 2),
    "identity": nn.Identity(),
    "clone": lambda h: h.clone(),  # the other way round: nothing shows
}
CHANGES: dict[str, Callable[[torch.Tensor], Any]] = {
    "mul_": lambda y: y.mul_(2),
    "relu": lambda y: F.relu(y, inplace=True),
    "row": lambda y: y.__setitem__(0, 5.0),
    "copy_": lambda y: y.copy_(y * 2 + 1),
}


class Shared(nn.Module):
    """Changes a tensor or its likeness in place, and reads both."""

    def __init__(self, same: Any, change: Any, backwards: bool) -> None:
        super().__init__()
        self.layer, self.same, self.change, self.backwards = nn.Linear(4, 4), same, change, backwards

    def forward(self, x: torch.Tensor) -> Any:
        h = self.layer(x)
        y = self.same(h)
        self.change(h if self.backwards else y)
        return y.sum() + h * 2, y * 1.0, h


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "same", [SAME["dropout"], SAME["nn.Dropout"], SAME["dropout2d"]], ids=["dropout", "nn.Dropout", "dropout2d"]
)
def test_changes_of_a_dropout_that_drops_nothing(same: Any, change: Any, backwards: bool) -> None:
    check(Shared(same, change, backwards))


@pytest.mark.parametrize("same", SAME.values(), ids=SAME)
def test_changes_show_in_the_other_name(same: Any) -> None:
    check(Shared(same, CHANGES["mul_"], False))
    check(Shared(same, CHANGES["relu"], True))


@pytest.mark.parametrize("capture", ["auto", "eager"])
def test_a_dropout_that_is_the_result(capture: Any) -> None:
    check(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.ReLU(inplace=True), nn.Dropout(0.1)), capture)
    check(Shared(nn.Dropout(0.1).eval(), CHANGES["mul_"], False), capture)


def check(model: nn.Module, capture: Any = "auto") -> None:
    x = torch.randn(2, 4)
    fast = drystone.optimize(model.eval(), x, tuning="estimate", capture=capture)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
