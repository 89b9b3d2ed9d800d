"""Writes src/drystone/_native.pyi: signatures and docstrings as the installed native core has them from this folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from nanobind.stubgen import StubGen

from drystone import native

STUB = Path(__file__).parents[2] / "src" / "drystone" / "_native.pyi"


def stub() -> str:
    generator = StubGen(sys.modules[native.Step.__module__])
    generator.put(generator.module)
    return re.sub(r"^VERSION: str = .*$", "VERSION: str", generator.get(), flags=re.MULTILINE)


if __name__ == "__main__":
    STUB.write_text(stub())
