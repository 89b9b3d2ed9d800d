"""What optimize gave is copied, pickled, and sent to other processes."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from drystone import UnsupportedError, WeightsChangedError
from drystone.preparer import programs_of
from drystone.runtime.module import OptimizedModule
from small_models import Decides
from stateful_models import Average

pytestmark = pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
X = torch.randn(4, 8)


def by_torch(fast: Any) -> Any:
    file = io.BytesIO()
    torch.save({"model": fast}, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)["model"]


def by_joblib(fast: Any) -> Any:
    joblib = pytest.importorskip("joblib")
    file = io.BytesIO()
    joblib.dump(fast, file, compress=3)
    file.seek(0)
    return joblib.load(file)


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda fast: pickle.loads(pickle.dumps(fast)),
    "torch.save": by_torch,
    "joblib": by_joblib,
    "twice": lambda fast: copy.deepcopy(pickle.loads(pickle.dumps(fast))),
}


class Tagged(nn.Sequential):
    tag = "model"

    def described(self) -> str:
        return f"{self.tag} of {len(self)}"


def model() -> nn.Module:
    made = Tagged(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4)).eval()
    made.tag = "this"
    return made


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_is_as_the_first(way: Callable[[Any], Any], dtype: torch.dtype | None) -> None:
    original = model()
    fast = drystone.optimize(original, X, tuning="estimate", dtype=dtype, keep_fp32="0" if dtype else None)
    made = way(fast)
    assert type(made) is OptimizedModule and made is not fast
    assert torch.equal(made(X), fast(X))
    assert made.described() == "this of 4" and list(made.state_dict()) == list(original.state_dict())
    assert next(made.parameters()).dtype is torch.float32
    assert (made[0] is original[0]) == (way is copy.copy)
    more = torch.randn(7, 8)
    torch.testing.assert_close(made(more), fast(more))
    assert "linear" in str(made.explain()) or made.explain().steps


@pytest.mark.parametrize("way", [copy.deepcopy, WAYS["pickle"]], ids=["deepcopy", "pickle"])
def test_weights_of_a_deep_copy_are_its_own(way: Callable[[Any], Any]) -> None:
    original = model()
    fast = drystone.optimize(original, X, tuning="estimate")
    made, want = way(fast), fast(X)
    with torch.no_grad():
        made[3].bias.add_(1)
    assert torch.equal(fast(X), want), "the first has nothing to do with it"
    with pytest.raises(WeightsChangedError):
        made(X)
    made.refresh()
    torch.testing.assert_close(made(X), want + 1)
    torch.testing.assert_close(made(X[:2]), want[:2] + 1)
    with torch.no_grad():
        original[3].bias.add_(2)
    with pytest.raises(WeightsChangedError):
        fast(X)
    torch.testing.assert_close(made(X), want + 1)
    made.load_state_dict(original.state_dict())
    torch.testing.assert_close(made(X), want + 2)


def test_inside_of_another_module() -> None:
    original = model()
    outer = nn.ModuleDict({"model": original, "fast": drystone.optimize(original, X, tuning="estimate")})
    made = copy.deepcopy(outer)
    assert made["fast"][0] is made["model"][0] and made["fast"][0] is not original[0]
    assert torch.equal(made["fast"](X), outer["fast"](X))


def test_a_model_that_can_not_be_pickled_stays_behind() -> None:
    class Local(nn.Linear):
        pass

    fast = drystone.optimize(Local(8, 4).eval(), X, tuning="estimate")
    made = pickle.loads(pickle.dumps(fast))
    assert torch.equal(made(X), fast(X)) and list(made.parameters()) == []
    assert list(copy.deepcopy(fast).parameters())


def test_copies_of_a_loaded_module(tmp_path: Path) -> None:
    fast = drystone.optimize(model(), X, tuning="estimate")
    drystone.save(fast, tmp_path / "m")
    for way in WAYS.values():
        made = way(drystone.load(tmp_path / "m"))
        assert torch.equal(made(X), fast(X))
        with pytest.raises(drystone.ShapeError, match="artefact"):
            made(X[:2])


def test_a_copy_of_a_copy_that_is_saved(tmp_path: Path) -> None:
    fast = drystone.optimize(model(), X, tuning="estimate")
    made = copy.deepcopy(fast)
    made(X[:3])
    drystone.save(made, tmp_path / "m")
    assert torch.equal(drystone.load(tmp_path / "m")(X[:3]), made(X[:3]))


def test_eager_stays_eager() -> None:
    fast = drystone.optimize(model(), X, tuning="estimate")
    programs_of(fast).verdict = "eager"
    assert copy.deepcopy(fast).explain().runs == "eager"


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("capture", ["eager", "parts"])
def test_what_is_not_captured_whole_says_what_to_do(way: Callable[[Any], Any], capture: str) -> None:
    fast: Any = drystone.optimize(Decides(nn.Linear(8, 8)), X, tuning="estimate", capture="auto" if capture == "parts" else "eager")
    with pytest.raises(UnsupportedError, match=r"drystone\.save"):
        way(fast)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_keeps_state_says_what_to_do(way: Callable[[Any], Any]) -> None:
    fast = drystone.optimize(Average().eval(), X[:, :4], tuning="estimate")
    with pytest.raises(UnsupportedError, match="which no artefact holds: pass the state in"):
        way(fast)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_pool_says_what_to_do(way: Callable[[Any], Any]) -> None:
    with drystone.Pool(nn.Linear(8, 4), 1, 1) as pool, pytest.raises(UnsupportedError, match="make a pool of it there"):
        way(pool)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_module_optimised_in_place(way: Callable[[Any], Any]) -> None:
    original = model()
    want = original(X)
    drystone.optimize_(original, tuning="estimate")
    with torch.no_grad():
        original(X)
        torch.testing.assert_close(way(original)(X), want)


class Names(pickle.Unpickler):
    """Notes what a pickle refers to."""

    found: set[str]

    def find_class(self, module: str, name: str) -> Any:
        self.found.add(f"{module}.{name}")
        return super().find_class(module, name)


def test_a_pickle_holds_an_artefact_and_no_code() -> None:
    names = Names(io.BytesIO(pickle.dumps(drystone.optimize(model(), X, tuning="estimate"))))
    names.found = set()
    names.load()
    assert names.found == {"drystone.copies._unpickled"}


def answer(fast: Any, x: torch.Tensor, queue: Any) -> None:
    queue.put(fast(x).tolist())


def test_sent_to_another_process() -> None:
    fast = drystone.optimize(nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval(), X, tuning="estimate")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=answer, args=(fast, X, queue))
    process.start()
    got = queue.get(timeout=100)
    process.join(timeout=100)
    torch.testing.assert_close(torch.tensor(got), fast(X))
