"""What is taken for calibration data, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from drystone.errors import InputError
from drystone.quantisation.samples import MOST, samples_of

X = torch.zeros(2, 3)


def test_larger_batches_are_cut() -> None:
    found = samples_of([torch.arange(15.0).view(5, 3)], (X,), {})
    assert [call[0][0][0, 0].item() for call in found] == [0.0, 6.0]
    assert len(samples_of(DataLoader(torch.zeros(10, 3), batch_size=4), (X,), {})) == 5


def test_calls_by_position_and_by_name() -> None:
    assert samples_of([(X, X)], (X, X), {}) == [((X, X), {})]
    assert samples_of([{"a": X}], (), {"a": X}) == [((), {"a": X})]
    assert samples_of([{"a": X}], ({"a": X},), {}) == [(({"a": X},), {})]


def test_no_more_than_enough() -> None:
    assert len(samples_of((X for _ in range(10 * MOST)), (X,), {})) == MOST


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "calibration is missing"),
        (X, "expected an iterable of inputs, got Tensor"),
        (5, "expected an iterable of inputs, got int"),
        ([], "no samples"),
        ([torch.zeros(2, 4)], "sample 0: expected shape [2, 3]"),
        ([X, torch.zeros(1, 3)], "sample 1: expected shape [2, 3]"),
        ([torch.full((2, 3), torch.nan)], "holds NaN or infinity"),
        ([X.double()], "expected torch.float32"),
        ([(X, 1)], "leave out labels"),
        (["text"], "is no call like the example's|got str"),
    ],
)
def test_what_does_not_serve(given: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        samples_of(given, (X,), {})
    assert any(part in str(caught.value) for part in said.split("|"))
