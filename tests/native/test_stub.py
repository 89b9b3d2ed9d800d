"""The committed stub of the native core is the one that its bindings give."""

from __future__ import annotations

import runpy
from pathlib import Path

BIND = Path(__file__).parents[2] / "native" / "bind"


def test_stub_is_up_to_date() -> None:
    made = runpy.run_path(str(BIND / "stub.py"))
    assert made["stub"]() == made["STUB"].read_text(), "the bindings have changed: make stub"
