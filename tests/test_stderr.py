"""Programs without a stderr, or with one that can't be written to: what is said goes nowhere, and nothing else changes."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone


class Accumulates(nn.Module):
    """Of which drystone has something to say."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).i0()


@pytest.mark.parametrize("how", ["none", "closed", "raises"])
def test_without_a_stderr(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Raises:
        def write(self, text: str) -> int:
            raise RuntimeError("no")

        def flush(self) -> None:
            raise RuntimeError("no")

        def isatty(self) -> bool:
            raise RuntimeError("no")

    stream: Any = None
    if how != "none":
        stream = Raises() if how == "raises" else open(tmp_path / "log", "w")  # noqa: SIM115
    if how == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    model, x = Accumulates().eval().requires_grad_(False), torch.randn(2, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", warnings._showwarning_orig)  # type: ignore[attr-defined]
        fast = drystone.optimize(model, x, tuning="estimate")
    torch.testing.assert_close(fast(x), model(x))
    assert sys.stderr is stream
