"""How far a result may be from eager's: the project's promise on accuracy, as assertions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.preparer import programs_of
from drystone.runtime.module import Prepared

# For what torch 2.6 does not export as one graph, and 2.10 does; in parts it runs natively there too.
needs_newer_export = pytest.mark.skipif(
    torch.torch_version.TorchVersion(torch.__version__) < (2, 10),
    reason="the torch.export of this torch refuses it or gets it wrong",
)

# What torch 2.13 traces for any size: before, a stride or a cut left conditions on it, as "even", that a declaration must name.
needs_unconditional_sizes = pytest.mark.skipif(
    torch.torch_version.TorchVersion(torch.__version__) < (2, 13),
    reason="the torch.export of this torch leaves conditions on the sizes that vary here",
)

# Relative L2 error against float64 that no float32 result may exceed, and how much worse than eager's own it may be.
FLOAT32_LIMIT = 2e-5
FLOAT32_TIMES_EAGER = 10
# Two units in the last place of float32. Eager's own error may be smaller still, where it rounds once or not at all.
FLOAT32_FLOOR = 2.0**-22
# bfloat16: how much worse than eager under autocast.
BFLOAT16_TIMES_AUTOCAST = 1.5


def leaves(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def program_of(fast: Any) -> Any:
    """The native program, for tests that must not get eager's answer where eager was faster in autotuning."""
    return prepared_of(fast).program


def prepared_of(fast: Any) -> Prepared:
    """What is prepared for the example's shapes, whichever of program and eager calls run."""
    current = programs_of(fast).current
    assert current is not None
    return current[1]


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """||result - reference|| / ||reference|| in the L2 norm; plain ||result|| where the reference is zero."""
    difference = (result.double() - reference.double()).norm().item()
    size = reference.double().norm().item()
    return difference / size if size else difference


def float32_limit(eager: float) -> float:
    """How far a float32 result may be from the exact one, where eager's own is so far."""
    return min(FLOAT32_LIMIT, max(FLOAT32_TIMES_EAGER * eager, FLOAT32_FLOOR))


def bfloat16_limit(*others: float) -> float:
    """The same of bfloat16: ``others`` are the errors of autocast, and of rounding inputs and outputs."""
    return BFLOAT16_TIMES_AUTOCAST * max(others)


def assert_close(got: Any, want: Any) -> None:
    """Float32 results (a tensor, or a structure of them) are those of another float32 computation, but for rounding."""
    assert pytree.tree_structure(got) == pytree.tree_structure(want)
    for mine, theirs in zip(leaves(got), leaves(want), strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        numbers = assert_same_specials(mine, theirs)
        error = relative_error(mine.detach()[numbers], theirs.detach()[numbers])
        assert error <= FLOAT32_LIMIT, f"relative error {error:.2e} > {FLOAT32_LIMIT:.2e}"


def assert_as_exact(got: torch.Tensor, exact: torch.Tensor, eager: torch.Tensor) -> None:
    """A result of float32 or bfloat16 against the exact one, and what eager makes of the same operands."""
    theirs = relative_error(eager, exact)
    low = got.dtype == torch.bfloat16
    limit = bfloat16_limit(theirs, relative_error(exact.bfloat16(), exact)) if low else float32_limit(theirs)
    error = relative_error(got, exact)
    assert error <= limit, f"relative error {error:.2e} > {limit:.2e} (eager's is {theirs:.2e})"


def assert_same_specials(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """NaN and infinities of each sign are where ``want`` has them. Gives where it has numbers."""
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(got), kind(want)), kind.__name__
    return want.isfinite()


def to_dtype(inputs: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    return [x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs]


@dataclass
class Reference:
    """What eager makes of ``model(*inputs)``, in each precision, computed when it is first asked for."""

    model: nn.Module
    inputs: tuple[torch.Tensor, ...]
    name: str = ""

    def _run(self, model: Callable[..., Any], inputs: Sequence[Any]) -> list[torch.Tensor]:
        with torch.no_grad():
            return leaves(model(*(x.clone() for x in inputs)))

    @cached_property
    def float32(self) -> list[torch.Tensor]:
        return self._run(self.model, self.inputs)

    @cached_property
    def float64(self) -> list[torch.Tensor]:
        return self._run(copy.deepcopy(self.model).double(), to_dtype(self.inputs, torch.float64))

    @cached_property
    def autocast(self) -> list[torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            try:
                return self._run(self.model, self.inputs)
            except RuntimeError as error:
                if "could not create a primitive descriptor" not in str(error):
                    raise
            with torch.backends.mkldnn.flags(enabled=False):  # which has no LSTM of bfloat16 for CPUs with AVX2 alone
                return self._run(self.model, self.inputs)

    @cached_property
    def rounded(self) -> list[torch.Tensor]:
        """float32 arithmetic between inputs and outputs that are rounded to bfloat16: the least that bfloat16 can lose.

        Autocast leaves many operators in float32, where it loses nothing at all.
        """
        inputs = to_dtype(to_dtype(self.inputs, torch.bfloat16), torch.float32)
        return [y.bfloat16() if y.is_floating_point() else y for y in self._run(self.model, inputs)]

    def check_structure(self, result: Any) -> list[torch.Tensor]:
        given = leaves(result)
        assert len(given) == len(self.float32), f"{self.name}: {len(given)} outputs, eager has {len(self.float32)}"
        for i, (got, want) in enumerate(zip(given, self.float32, strict=True)):
            assert got.shape == want.shape and got.dtype == want.dtype, (
                f"{self.name}, output {i}: {got.dtype} {list(got.shape)}, eager's is {want.dtype} {list(want.shape)}"
            )
        return given

    def check_exact(self, result: Any) -> None:
        for i, (got, want) in enumerate(zip(self.check_structure(result), self.float64, strict=True)):
            wrong = got.double() != want
            assert not wrong.any(), f"{self.name}, output {i}: {describe(got, want, wrong)}"

    def check_float32(self, result: Any) -> None:
        for i, got in enumerate(self.check_structure(result)):
            want = self.float64[i]
            error, eager = relative_error(got, want), relative_error(self.float32[i], want)
            limit = float32_limit(eager)
            assert error <= limit, (
                f"{self.name}, output {i}: relative error {error:.2e} > {limit:.2e} (eager's is {eager:.2e}); "
                + describe(got, want, (got.double() - want).abs() == (got.double() - want).abs().max())
            )

    def check_bfloat16(self, result: Any) -> None:
        for i, got in enumerate(self.check_structure(result)):
            want = self.float32[i]
            error, autocast, rounded = (relative_error(y, want) for y in (got, self.autocast[i], self.rounded[i]))
            limit = bfloat16_limit(autocast, rounded)
            assert error <= limit, (
                f"{self.name}, output {i}: relative error {error:.2e} > {limit:.2e} "
                f"(autocast's is {autocast:.2e}, that of rounding inputs and outputs {rounded:.2e})"
            )


def describe(got: torch.Tensor, want: torch.Tensor, wrong: torch.Tensor) -> str:
    """The first element that is marked, and how many are."""
    if not wrong.any():
        return f"got {got.flatten()[:4].tolist()}…, expected {want.flatten()[:4].tolist()}…"
    index = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{int(wrong.sum())} of {wrong.numel()} elements, first at {list(index)}: got {got[index]:.9g}, expected {want[index]:.9g}"
    )
