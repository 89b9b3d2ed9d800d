"""The operators that can be measured, the choice among their cases, and the probes of thresholds."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence

from . import operators
from .case import Case
from .probe import Probe

_MODULES = [importlib.import_module(f"{operators.__name__}.{module.name}") for module in pkgutil.iter_modules(operators.__path__)]

#: Gives the cases of a dtype.
OPERATORS: dict[str, Callable[[str], Iterator[Case]]] = {}
#: Those that have cases of int8.
ON_CODES: set[str] = set()
#: By threshold.
PROBES: dict[str, Probe] = {}
for _module in _MODULES:
    OPERATORS |= getattr(_module, "OPERATORS", {})
    ON_CODES |= getattr(_module, "ON_CODES", set())
    PROBES |= {probe.threshold: probe for probe in getattr(_module, "PROBES", ())}


def choose(operators: Sequence[str], dtypes: Sequence[str], tags: Sequence[str] = ()) -> list[Case]:
    """The cases that have, of each element of ``tags``, one of the labels that it names with commas between.

    Raises ``ValueError`` where a label is no case's, or no case has all that is asked for.
    """
    cases = [case for operator in operators for dtype in dtypes for case in OPERATORS[operator](dtype)]
    known = frozenset().union(*(case.labels for case in cases))
    wanted = [frozenset(label.strip() for label in tag.split(",")) for tag in tags]
    for label in sorted(frozenset().union(*wanted) - known):
        names = ", ".join(dict.fromkeys(case.tag for case in cases))
        sizes = ", ".join(dict.fromkeys(name for case in cases for name in case.sizes))
        raise ValueError(f"no case is called {label!r}: there are {names}, and sizes, as M=128, of {sizes}")
    chosen = [case for case in cases if all(case.labels & labels for labels in wanted)]
    if not chosen:
        raise ValueError(f"no case has all of {' and '.join(tags)}")
    return chosen
