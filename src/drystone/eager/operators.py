"""drystone's operators under torch's own names: registered for CPU tensors by the native core, through torch's C shim.

Each takes the calls where it was measured to win, and hands every other call to torch's own kernel, at a cost of about 0.4 us.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from drystone import native
from drystone.errors import DrystoneWarning


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


def replaced() -> frozenset[str]:
    """The operators that are under torch's own names now."""
    return frozenset(name for name in names() if native.is_replaced(name))


def replace(wanted: frozenset[str]) -> None:
    """Just these operators, and torch's own for all others. What this torch can't have is said in a warning."""
    for name in replaced() - wanted:
        native.restore_operator(name)
    if not wanted:
        return
    if reason := why_not():
        warnings.warn(f"torch's own operators stay: {reason}", DrystoneWarning, stacklevel=4)
        return
    _silence_torch()
    if missing := [name for family in sorted(wanted) for name in native.replace_operator(family)]:
        warnings.warn(
            f"torch's own {', '.join(missing)} stay: in torch {torch.__version__} they take other arguments than drystone knows",
            DrystoneWarning,
            stacklevel=4,
        )


@functools.cache
def _silence_torch() -> None:
    # torch warns of the first kernel in the process that takes another's place, on standard error where C++ registers it. It is
    # what the user asked for here. Registered from Python it is a Python warning, which can be caught.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = torch.library.Library("aten", "IMPL")
        library.impl("topk", lambda *arguments: None, "CPU")
        library._destroy()
