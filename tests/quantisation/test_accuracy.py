"""What int8 costs in accuracy: the example, as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from drystone import native

pytest.importorskip("torchao")
pytest.importorskip("sklearn")


@pytest.mark.skipif(native.isa() == "none", reason="torch computes everything")
def test_digits_are_read_as_well() -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "int8_digits.py"))
    example["main"].__globals__["EPOCHS"] = 4
    floats, codes = example["main"](tuning="estimate")
    assert floats > 0.9 and codes > floats - 0.01
