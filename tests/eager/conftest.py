"""What tests of ``drystone.enable()`` share: a torch whose operators it can replace, and torch's own again after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import drystone
from drystone.eager import operators


@pytest.fixture(autouse=True)
def torchs_own_afterwards() -> Iterator[None]:
    if (reason := operators.why_not()) is not None:
        pytest.skip(reason)
    yield
    drystone.disable()
