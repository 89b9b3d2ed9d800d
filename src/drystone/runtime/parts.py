"""What ``optimize`` gives back for a model that can't be captured whole: its parts run programs, the rest runs eagerly."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.errors import DrystoneWarning, InputError
from drystone.runtime.explain import PartedExplanation
from drystone.runtime.module import OptimizedModule


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

    def abandon(self, name: str) -> None:
        """The programs know the attributes of their module as they were."""
        if self.programs:
            self.programs = []
            self.other_inputs = f"the model has set its {name!r}"
            self._warn(f"runs eagerly from here on: {self.other_inputs}, which its program can't follow")

    def _warn(self, text: str) -> None:
        warnings.warn(f"part {self.name!r} {text}", DrystoneWarning, stacklevel=4)


class PartedModule(nn.Module):
    """The model with programs in the place of its parts. Inputs, outputs and attributes are the model's.

    Calls may come from several threads, if the model's may. Results carry no gradient.
    """

    def __init__(
        self, model: nn.Module, tree: nn.Module, programs: list[OptimizedModule], explain: Callable[[], PartedExplanation]
    ) -> None:
        """``tree``: the model's copy in which ``programs`` run."""
        super().__init__()
        # Past nn.Module's registration: the model's parameters stay the model's own, and are not listed twice.
        self.__dict__.update(_model=model, _tree=tree, _programs=programs)
        self.training = False
        self._explain = explain

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_model"], name)

    def train(self, mode: bool = True) -> PartedModule:
        """Refuses training mode: the programs are inference only."""
        if mode:
            raise InputError("this module is prepared for inference and has no training mode; train the original model")
        return self

    def refresh(self) -> None:
        """Take over the model's weights as they are now."""
        for program in self.__dict__["_programs"]:
            program.refresh()

    def explain(self) -> PartedExplanation:
        """Which parts run in drystone, which eagerly and why, and what each part's program does."""
        return self._explain()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        grad = torch.is_grad_enabled()
        plain = not kwargs and all(isinstance(arg, torch.Tensor) for arg in args)  # pytree takes longer than a small layer
        for leaf in args if plain else pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor) and (not leaf.is_cpu or (grad and leaf.requires_grad)):
                raise refusal(args, kwargs, leaf)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self._tree(*args, **kwargs)


def refusal(args: tuple[Any, ...], kwargs: dict[str, Any], wrong: torch.Tensor) -> InputError:
    leaves = pytree.tree_flatten_with_path((args, kwargs))[0]
    name = next(pytree.keystr(path[1:]) for path, leaf in leaves if leaf is wrong)
    if not wrong.is_cpu:
        return InputError(f"input {name}: expected a tensor on the CPU, got one on {wrong.device}; move it with .cpu()")
    return InputError(
        f"input {name} requires grad, but this module is inference only and gives no gradients: "
        "call it under torch.no_grad() or torch.inference_mode(), or detach the input"
    )
