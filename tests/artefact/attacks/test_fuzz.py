"""A few hundred of the changes of ``tests/artefact/fuzz.py``, which makes as many as one likes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from artefacts import saved

spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "fuzz.py")
assert spec is not None and spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)

ALLOWED = {"refused", "runs, the same results", "runs, other results", "takes other inputs"}


@pytest.mark.filterwarnings("ignore:.*operators run on ATen")
def test_each_change_is_refused_or_runs(tmp_path: Path) -> None:
    saved(tmp_path)
    outcomes = fuzz.fuzz(tmp_path, 0, 300)
    assert sum(map(len, outcomes.values())) == 300
    assert not {key: numbers for key, numbers in outcomes.items() if key[1] not in ALLOWED}
    found = {outcome for kind, outcome in outcomes if kind == "bytes_of_a_file"}
    assert found == {"refused"}, "a change of bytes went unnoticed"
