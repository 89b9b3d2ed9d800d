"""drystone's operators under torch's own names: registered for CPU tensors by the native core, through torch's C shim.

Each takes the calls where it was measured to win, and hands every other call to torch's own kernel, at a cost of less than 0.1 us.
Once put there they stay, and are switched on and off: torch's table of kernels has no lock, and calls read it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from drystone import native


@functools.cache
def names() -> tuple[str, ...]:
    """All operators. Some stand for several of ``torch.ops.aten``: the out= variant, the gradient."""
    return tuple(native.operator_names())


@functools.cache
def why_not() -> str | None:
    """Why no operator can be replaced on this torch and this machine, or None."""
    if native.isa() == "none":
        return "this CPU has neither AVX2 nor FMA"
    try:
        native.find_libtorch(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except RuntimeError as error:
        return str(error)
    return None


def choose(only: Iterable[str] | None) -> frozenset[str]:
    """The operators that ``only`` names; all for None."""
    if only is None:
        return frozenset(names())
    if isinstance(only, str):
        only = [only]
    chosen = frozenset(only)
    if unknown := sorted(chosen - set(names())):
        raise ValueError(f"drystone.enable: no operator {', '.join(map(repr, unknown))} in drystone; it has {', '.join(names())}")
    return chosen


def switched_on() -> frozenset[str]:
    """The operators that compute under torch's own names now."""
    return frozenset(name for name in names() if native.is_on(name))


def replace(wanted: frozenset[str]) -> list[str]:
    """Put these operators under torch's own names, switched off. Gives what this torch can't have."""
    if wanted:
        _silence_torch()
    return [name for family in sorted(wanted) for name in native.replace_operator(family)]


def why_missing(missing: list[str]) -> str:
    return f"torch's own {', '.join(missing)} stay: in torch {torch.__version__} they take other arguments than drystone knows"


def switch_on(wanted: frozenset[str]) -> None:
    """Just these operators compute; torch's own compute all others."""
    native.switch_operators(sorted(wanted))


@functools.cache
def _silence_torch() -> None:
    # torch warns of the first kernel in the process that takes another's place, on standard error where C++ registers it. It is
    # what the user asked for here. Registered from Python it is a Python warning, which can be caught. Of an operator of our own,
    # which no other thread calls.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        definition = torch.library.Library("drystone_enable", "DEF")
        definition.define("replaced() -> ()")
        for _ in range(2):
            library = torch.library.Library("drystone_enable", "IMPL")
            library.impl("replaced", lambda: None, "CPU", allow_override=True)
            _kept.append(library)
        _kept.append(definition)


_kept: list[torch.library.Library] = []  # taking one away is not for a time when others call
