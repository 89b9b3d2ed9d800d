"""The model's plain weights: whether they are still those that were packed, and letting go of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from drystone import native
from drystone.errors import WeightsChangedError, WeightsReleasedError
from drystone.graph.graph import Graph
from drystone.runtime.entries import REFRESH, Entries, listed
from drystone.runtime.stamps import Stamps

_address = torch.Tensor.data_ptr
# Numbers at the front of a tensor that are compared. A running statistic moves as a whole, but for channels that are always zero.
COMPARED = 64


Named = tuple[str, torch.Tensor]  # a weight and its qualified name


class Numbers:
    """The first numbers of buffers: torch's batch norm writes to its running statistics in training mode without counting it."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._tensors = [tensor for tensor in tensors if _is_statistic(tensor)]
        self._memory = [tensor.untyped_storage() for tensor in self._tensors]  # lives as long as it is looked at
        self._places = list(map(_address, self._tensors))
        sizes = [min(tensor.numel(), COMPARED) * tensor.itemsize for tensor in self._tensors]
        self._front = native.Snapshot(list(zip(self._places, sizes, strict=True)))

    def have_moved(self) -> bool:
        return bool(self._tensors and self.moved())

    def moved(self) -> list[torch.Tensor]:
        """The tensors whose numbers are others, or elsewhere."""
        places = list(map(_address, self._tensors))
        if places != self._places:  # memory that is another, or none any more, is not read
            each = zip(self._tensors, places, self._places, strict=True)
            return [tensor for tensor, place, before in each if place != before]
        return [self._tensors[i] for i in self._front.changed()]


def _is_statistic(tensor: torch.Tensor) -> bool:
    plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided and tensor.is_cpu
    return plain and tensor.is_floating_point() and tensor.numel() > 0 and tensor.data_ptr() != 0 and tensor.is_contiguous()


class Weights:
    """The tensors of the model that a module's programs were made from, each with the version that torch counts.

    They are kept alive: a packed weight is known by the address of its original.
    """

    def __init__(self, named: Iterable[Named], entries: Entries | None = None, remedy: str = REFRESH) -> None:
        """``entries``: where they are to stay. ``remedy``: what a user does where they don't."""
        self._model: nn.Module | None = None
        self._entries, self._remedy = entries or Entries(), remedy
        self.take(named)

    def look_in(self, model: nn.Module) -> None:
        """Watch the places of ``model`` where the weights are, those that are taken later too."""
        self._model = model
        self._entries = Entries(model, self._all())

    def _all(self) -> list[torch.Tensor]:
        return [tensor for _, tensor in self.named]

    def take(self, named: Iterable[Named]) -> None:
        """Watch these from now on, as they are now."""
        self.named = list(named)
        self._stamps = Stamps(self._all())
        # One buffer a module: torch moves the mean and the variance of a batch norm together.
        fronts = {name.rpartition(".")[0]: tensor for name, tensor in reversed(self.named) if _is_statistic(tensor)}
        self._numbers = Numbers(fronts.values())
        if self._model is not None:
            self.look_in(self._model)

    def check(self) -> None:
        """Raises ``WeightsChangedError`` where one was written to, ``WeightsReplacedError`` where the model has another instead."""
        if not self._entries.hold():
            raise self._entries.replaced(self._remedy)
        if self._stamps.hold() and not self._numbers.have_moved():
            return
        changed = set(map(id, [*self._stamps.changed(), *self._numbers.moved()]))
        names = [name for name, tensor in self.named if id(tensor) in changed]
        if not names:  # the same numbers in other memory
            self._stamps = Stamps(self._all())
            return
        raise WeightsChangedError(
            f"the model's weights were changed after it was prepared ({listed(names)}), and packed copies of the old ones are in "
            "use; call refresh() on the optimised module to take over the new ones"
        )

    def release(self, model: nn.Module, graph: Graph) -> None:
        """Let go of the plain weights. Those that programs read as they are stay with these; ``model`` is left with empty ones."""
        for value in graph.constants():
            value.data = released
        for parameter in model.parameters():
            parameter.data = torch.empty(0, dtype=parameter.dtype)
        self.take([])


def released() -> Any:
    """Raises ``WeightsReleasedError``."""
    raise WeightsReleasedError(
        "the plain weights were released (release_originals=True): what is prepared runs on, but needs no other packing of them; "
        "optimise the model again, from its file, for other shapes, threads or weights"
    )
