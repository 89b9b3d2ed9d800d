"""What all tests share: a tuning cache of their own, two threads, one seed."""

from __future__ import annotations

import os

# libgomp reads it when torch loads it: on a busy machine, threads that wait must not take the cores from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import nn

import sampling

THREADS = 2

# The same examples at each run: raise max_examples and load the profile "default" to search further.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    sampling.seed()  # before workers start


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not drawn, but for tests that are asked for by name. Kernels are tried in every remainder under every cap."""
    if any("::" in argument for argument in config.args) or config.option.keyword:
        return
    kernels = Path(__file__).parent / "native"
    chosen = sampling.draw(items, lambda item: kernels in item.path.parents)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"Where cases are many, a share was drawn: DRYSTONE_TEST_SEED={sampling.seed()} draws it again.")


@pytest.fixture(scope="session", autouse=True)
def tuning_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's tuning cache."""
    folder = tmp_path_factory.mktemp("tuning-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRYSTONE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def tests_may_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured beside other tests counts all the same: no figure here is one of speed."""
    monkeypatch.setattr("drystone.plan.autotune.CONTENDED", math.inf)


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Every test draws the same random numbers and starts with the same number of threads, in whatever order they run."""
    torch.default_generator.manual_seed(0)  # the only one here: torch.manual_seed notes a stack trace for each kind of GPU
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def no_tuning_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans come from the cost model alone, whatever other tests have measured."""
    monkeypatch.setenv("DRYSTONE_CACHE", "off")


class CaptureOnce:
    """Captures a module once for each set of input shapes: torch.export takes longer than all the rest of a small test."""

    def __init__(self) -> None:
        self.capture = importlib.import_module("drystone.capture.export").capture
        self.known: dict[Any, tuple[nn.Module, Any]] = {}

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, dynamic_shapes: Any = None
    ) -> Any:
        if kwargs or dynamic_shapes:
            return self.capture(model, args, kwargs, dynamic_shapes)
        key = (id(model), tuple((tuple(x.shape), x.dtype) for x in args))
        if key not in self.known:
            self.known[key] = (model, self.capture(model, args))  # the model is kept, so that its id is not given to another
        return self.known[key][1]


@pytest.fixture(scope="session")
def capture_once() -> CaptureOnce:
    return CaptureOnce()


@pytest.fixture
def shared_captures(monkeypatch: pytest.MonkeyPatch, capture_once: CaptureOnce) -> None:
    """``drystone.optimize`` captures a module once, however often it is called with it."""
    monkeypatch.setattr(importlib.import_module("drystone.sources.whole"), "capture_module", capture_once)
