"""Other people's libraries, as their users call them, with one line more: ``drystone.optimize_(model)``.

Nothing here is installed by ``make test``: ``pip install -c constraints.txt 'drystone[ecosystem]'`` does.
"""

from __future__ import annotations

import pytest
import torch
from usage import Usage, difference, usages

import drystone

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("usage", usages(), ids=lambda usage: usage.name)
def test_same_results(usage: Usage) -> None:
    for package in usage.packages:
        # RuntimeError: torchvision's for CUDA has no operators beside the torch for CPUs.
        pytest.importorskip(package, exc_type=(ImportError, OSError, RuntimeError), reason=f"{package} can't be imported")
    plain = usage.build()
    want = plain.run()
    fast = usage.build()
    drystone.optimize_(fast.model, tuning="estimate")
    for _ in range(2):
        assert difference(fast.run(), want) is None
    drystone.restore(fast.model)
    assert difference(fast.run(), want) is None


def test_differences_are_found() -> None:
    want = {"a": [1, 0.5, "x"], "b": torch.tensor([1.0, 2.0])}
    assert difference({"a": [1, 0.500001, "x"], "b": torch.tensor([1.0, 2.00001])}, want) is None
    for other in (
        {"a": want["a"]},
        {**want, "a": [1, 0.5]},
        {**want, "a": [1, 0.51, "x"]},
        {**want, "a": [1, 0.5, "y"]},
        {**want, "b": torch.tensor([1.0, 2.01])},
        {**want, "b": torch.tensor([[1.0, 2.0]])},
    ):
        assert difference(other, want)
