"""The model's plain weights: whether they are still those that were packed, and letting go of them."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import nn

from drystone.errors import WeightsChangedError, WeightsReleasedError
from drystone.graph.graph import Graph

_version = attrgetter("_version")


class Source(Protocol):
    """What was captured: ``constants`` by placeholder as (qualified name, tensor); ``weights``, those of the model itself."""

    constants: dict[str, tuple[str, torch.Tensor]]
    weights: set[str]


class Weights:
    """The parameters and buffers that a module's programs were made from, each with the version that torch counts.

    They are kept alive: a packed weight is known by the address of its original.
    """

    def __init__(self, source: Source, recapture: Callable[[], Source]) -> None:
        self._recapture = recapture
        self._take(source)

    def _take(self, source: Source) -> None:
        self._named = [source.constants[placeholder] for placeholder in sorted(source.weights)]
        # Tensors made under inference mode can't be written to outside it, and have no count.
        self._tensors = [tensor for _, tensor in self._named if not tensor.is_inference()]
        self._versions = list(map(_version, self._tensors))

    def check(self) -> None:
        """Raises ``WeightsChangedError`` where one was written to."""
        if list(map(_version, self._tensors)) == self._versions:
            return
        changed = {id(t) for t, version in zip(self._tensors, self._versions, strict=True) if t._version != version}
        names = [name for name, tensor in self._named if id(tensor) in changed]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise WeightsChangedError(
            f"the model's weights were changed after it was prepared ({shown}), and packed copies of the old ones are in use; "
            "call refresh() on the optimised module to take over the new ones"
        )

    def refresh(self) -> None:
        """Capture the model as it is now."""
        self._take(self._recapture())

    def release(self, model: nn.Module, graph: Graph) -> None:
        """Let go of the plain weights. Those that programs read as they are stay with these; ``model`` is left with empty ones."""
        for value in graph.constants():
            value.data = _gone
        for parameter in model.parameters():
            parameter.data = torch.empty(0, dtype=parameter.dtype)
        self._named, self._tensors, self._versions, self._recapture = [], [], [], _gone


def _gone() -> Any:
    raise WeightsReleasedError(
        "the plain weights were released (release_originals=True): what is prepared runs on, but needs no other packing of them; "
        "optimise the model again, from its file, for other shapes, threads or weights"
    )
