"""The drawing of the project's structure is as the imports are, and they go one way."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[1] / "docs" / "structure.py"


def test_the_page_shows_the_imports_as_they_are() -> None:
    spec = importlib.util.spec_from_file_location("structure", PATH)
    assert spec and spec.loader
    structure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(structure)
    assert structure.page() == structure.PAGE.read_text(), "run `make structure`"
