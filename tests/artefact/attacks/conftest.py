"""An artefact to attack, and a copy of it for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from artefacts import copied, saved


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("saved"))[0]


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return copied(original, tmp_path / "m.drystone")
