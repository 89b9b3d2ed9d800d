"""The public face as its users' type checkers see it: `make lint` runs mypy --strict on this file, without an installed drystone."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import drystone
from drystone.inplace.explanation import InPlaceExplanation
from drystone.ops.topk import TopK
from drystone.runtime.explain import Explanation
from drystone.runtime.module import OptimizedModule
from drystone.runtime.packed_layers import PackedLayersModule
from drystone.runtime.parts import PartedModule


def test_optimize_save_and_load(tmp_path: Path) -> None:
    x = torch.ones(1, 4)
    fast = drystone.optimize(nn.Linear(4, 2).eval(), (x,), dtype=None, tuning="estimate")
    assert_type(fast, OptimizedModule | PartedModule | PackedLayersModule)
    assert isinstance(fast, OptimizedModule)
    assert_type(fast.prepare(x), Explanation)
    assert_type(drystone.save(fast, tmp_path / "linear"), None)
    loaded = drystone.load(tmp_path / "linear")
    assert_type(loaded, OptimizedModule)
    assert torch.equal(loaded(x), fast(x))


def test_in_place() -> None:
    x, model = torch.ones(1, 4), nn.Linear(4, 2).eval()
    assert_type(drystone.optimize_(model, x, tuning="estimate"), nn.Linear)
    assert_type(drystone.explain(model), InPlaceExplanation)
    assert_type(drystone.restore(model), nn.Linear)
    with drystone.optimizing(model, tuning="estimate") as same, torch.no_grad():
        assert_type(same, nn.Linear)
        want = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), want)


def test_operators() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert_type(drystone.ops.softmax(x, 1), Tensor)
    top = drystone.ops.topk(x, 2)
    assert_type(top, TopK)
    assert_type(top.indices, Tensor)
    assert torch.equal(top.values, torch.topk(x, 2).values)


def test_enabled_gives_nothing() -> None:
    with drystone.enabled([], reuse_pages=False) as nothing:
        assert_type(nothing, None)
    assert_type(drystone.__version__, str)


def test_errors_are_of_one_family() -> None:
    with pytest.raises(drystone.DrystoneError):
        drystone.optimize(nn.Linear(4, 2), torch.ones(1, 4))


if TYPE_CHECKING:  # mistakes: --strict complains of an ignore that is not needed
    drystone.optimize(nn.Identity(), torch.ones(1), tunning="estimate")  # type: ignore[call-arg]
    drystone.optimize(nn.Identity(), torch.ones(1), tuning="guess")  # type: ignore[arg-type]
    drystone.optimize_(nn.Identity(), capture="eager")  # type: ignore[arg-type]
    drystone.save("model.pt", "artefact")  # type: ignore[arg-type]
    drystone.load(3)  # type: ignore[arg-type]
    drystone.ops.topk(torch.ones(1))  # type: ignore[call-arg]
    print(drystone.optimise)  # type: ignore[attr-defined]


def test_names_are_those_of_their_modules() -> None:
    """In a process that has imported nothing of them: all that is public is listed, found, and documented."""
    from drystone import conductor, ops, saving
    from drystone.inplace import explanation, optimize, recording

    found = {"optimize": conductor.optimize, "save": saving.save, "load": saving.load, "ops": ops}
    found |= {"explain": explanation.explain, "optimizing": recording.optimizing}
    found |= {name: getattr(optimize, name) for name in ("optimize_", "restore")}
    for name, value in found.items():
        assert getattr(drystone, name) is value
    assert set(drystone.__all__) <= set(dir(drystone))
    assert all(inspect.getdoc(getattr(drystone, name)) for name in drystone.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="module 'drystone' has no attribute 'optimise'"):
        getattr(drystone, "optimise")  # noqa: B009
