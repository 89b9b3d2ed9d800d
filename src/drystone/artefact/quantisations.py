"""What the codes of a value stand for, as JSON: ``{"scales": [x, …], "zero_point": z}``, or null of what has none."""

from __future__ import annotations

from typing import Any

from drystone.artefact.document import entries, finite, listed, require, whole
from drystone.graph.graph import Value
from drystone.graph.quantisation import Quantisation


def of_quantisation(value: Value) -> dict[str, Any] | None:
    """The object that ``quantisation`` reads."""
    found = value.quantisation
    return None if found is None else {"scales": list(found.scales), "zero_point": found.zero_point}


def quantisation(item: Any, value: Value, what: str) -> Quantisation | None:
    """That of ``value``. Raises ``ArtefactError`` for one that its codes can't have."""
    if item is None:
        return None
    scales, zero_point = entries(item, f"{what}: the quantisation", "scales", "zero_point")
    found = Quantisation(tuple(finite(scale, what) for scale in listed(scales, what)), whole(zero_point, what, -128, 255))
    problem = found.problem(value.dtype, value.shape)
    require(problem is None, f"{what}: {problem}")
    return found
