"""A causal language model of transformers, prepared: captured once, with the programs that every text begins with."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from drystone.capture.parts import first_line
from drystone.errors import CaptureError, UnsupportedError, warn
from drystone.factories import on_cpu
from drystone.generation.cache import Cache
from drystone.generation.module import EagerModule, GenerativeModule
from drystone.generation.source import CausalSource
from drystone.options import Options
from drystone.parted import difference
from drystone.preparer import Preparer, Programs
from drystone.spinner import spinner

T = TypeVar("T")

# Tokens of the text on which programs are compared with the model.
COMPARED = 6


def optimize_causal(model: Any, options: Options) -> Any:
    """The model with programs for ``generate``; without any where it can't be served, which a warning says."""
    with on_cpu(), spinner("preparing") as say:
        say("capturing")
        source = CausalSource(model, options)
        try:
            programs = Programs(Preparer(), source, options, source.capture(), source.sizes(1, 1, 1))
            fast = _named(GenerativeModule, model)(model, programs)
            say("comparing with the model")
            _compare(fast, model, options)
        except (CaptureError, UnsupportedError) as error:
            if options.strict:
                raise
            warn(f"{type(model).__name__} generates without programs: {first_line(error)}")
            return _named(EagerModule, model)(model)
    return fast


def _named(kind: type[T], model: nn.Module) -> type[T]:
    """With the name of the model's class: pipelines of transformers look at it."""
    return type(type(model).__name__, (kind,), {"__module__": kind.__module__})


class _Logits(nn.Module):
    """Of the last tokens of a text, by the model itself."""

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.model, self.count = model, count
        self.training = False

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits[:, -self.count :]
        return logits


def _compare(fast: Any, model: Any, options: Options) -> None:
    """Raises ``UnsupportedError`` where the programs of a short text and of a token after it give something else than the model."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(COMPARED).mul_(7919).remainder_(vocabulary)[None]
    cache = Cache(fast)
    got = [fast.step(cache, part, None, None, 1) for part in (ids[:, :-1], ids[:, -1:])]
    differs = difference(torch.cat(got, 1), _Logits(model, len(got)), (ids,), {}, options.dtype)
    if differs:
        raise UnsupportedError(f"its programs' logits differ from its own {differs}")
