"""A warning names the user's line, however deep inside it is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from drystone import DrystoneWarning, native

X = torch.randn(2, 6)


class OnAten(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.i0()


def other_shape() -> Any:
    fast = drystone.optimize(nn.Sequential(OnAten()).eval(), X, tuning="estimate")
    return fast(torch.randn(2, 6))


def in_place() -> Any:
    model = drystone.optimize_(nn.Linear(6, 3).eval(), X, tuning="estimate")
    return model(X)  # its result carries a gradient


def compiled() -> Any:
    with torch.inference_mode():
        return torch.compile(OnAten().eval(), backend="drystone", options={"tuning": "estimate"})(X)


WAYS: dict[str, Callable[[], Any]] = {
    "whole": partial(drystone.optimize, OnAten().eval(), X, tuning="estimate"),
    "within another": other_shape,
    "in place": in_place,
    "compiled": compiled,
}


@pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen, of which nothing is said")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_warnings_name_the_users_line(way: Callable[[], Any]) -> None:
    with pytest.warns(DrystoneWarning) as given:
        way()
    assert {Path(warning.filename).name for warning in given if issubclass(warning.category, DrystoneWarning)} == {
        Path(__file__).name
    }
