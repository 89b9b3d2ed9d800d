"""What ``optimize`` gives back for a model that can't be captured whole: its parts run programs, the rest runs eagerly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from drystone.errors import InputError, warn
from drystone.runtime.entries import OPTIMISE, Entries
from drystone.runtime.explain import PartedExplanation
from drystone.runtime.module import OptimizedModule
from drystone.runtime.proxy import ModuleProxy, checked_tensors
from drystone.runtime.recurrent import RecurrentForward
from drystone.runtime.traced_calls import is_traced


class PartForward:
    """Takes the place of a module's ``forward``: the program for these inputs, or the module itself where there is none."""

    def __init__(self, name: str, programs: list[OptimizedModule], other_inputs: str = "") -> None:
        self.name, self.programs = name, programs
        self.other_inputs = other_inputs  # what is known of calls that no program is for

    def around(self, own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)  # models look at the parameters of their modules' forward
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.call(own, *args, **kwargs)

        return forward

    def call(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        refusals = []
        for fast in self.programs:
            try:
                return fast.forward(*args, **kwargs)
            except InputError as error:  # raised before anything is computed
                refusals.append(str(error))
        if refusals and not self.other_inputs:
            self.other_inputs = refusals[0].split(". ", 1)[0]
            self._warn(f"is called with other inputs than with the example, and runs eagerly where it is: {self.other_inputs}")
        return own(*args, **kwargs)

    @property
    def runs(self) -> bool:
        return bool(self.programs)

    def refresh(self) -> None:
        for program in self.programs:
            program.refresh()

    def abandon(self, name: str) -> None:
        """The programs know the attributes of their module as they were."""
        if self.programs:
            self.programs = []
            self.other_inputs = f"the model has set its {name!r}"
            self._warn(f"runs eagerly from here on: {self.other_inputs}, which its program can't follow")

    def _warn(self, text: str) -> None:
        warn(f"part {self.name!r} {text}")


Forward = PartForward | RecurrentForward


class PartedModule(ModuleProxy):
    """The model with programs in the place of its parts. Inputs, outputs and attributes are the model's.

    Calls may come from several threads, if the model's may. Results carry no gradient. While other parameters, buffers or
    submodules stand in the model than when it was prepared, calls are of the model as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        tree: nn.Module,
        parts: Mapping[nn.Module, Forward],
        explain: Callable[[], PartedExplanation],
        entries: Entries,
    ) -> None:
        """``tree``: the model's copy, in which ``parts`` have their forwards. ``entries``: of the model, which it was made from."""
        super().__init__(model)
        self._entries = entries
        self.keep_aside(_tree=tree, _parts=parts, _forwards=list(parts.values()))
        self._explain = explain

    def refresh(self) -> None:
        """Take over the model's weights as they are now."""
        for forward in self._forwards:
            forward.refresh()

    def explain(self) -> PartedExplanation:
        """Which parts run in drystone, which eagerly and why, and what each part's program does."""
        return self._explain()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if is_traced():
            return self.call_original(args, kwargs)
        checked_tensors(args, kwargs)
        if not self._entries.hold():
            return self.call_as_it_is(args, kwargs, self._entries.replaced(OPTIMISE))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self._tree(*args, **kwargs)
