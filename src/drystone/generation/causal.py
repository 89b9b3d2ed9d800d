"""A causal language model of transformers, prepared: captured once, with the programs that every text begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from drystone.capture.export import check_model
from drystone.capture.parts import first_line
from drystone.checkpoints.dynamic import DynamicLayer
from drystone.errors import CaptureError, UnsupportedError, warn
from drystone.factories import on_cpu
from drystone.generation.cache import Cache
from drystone.generation.encoder_decoder import DecoderSource
from drystone.generation.encoder_module import EncoderDecoderModule
from drystone.generation.experts import share_of_experts
from drystone.generation.module import EagerModule, GenerativeModule
from drystone.generation.source import CausalSource
from drystone.generation.step import cache_argument
from drystone.options import Options
from drystone.passes.quantise_weights import BITS
from drystone.preparer import Preparer, Programs
from drystone.sources.parted import difference
from drystone.spinner import spinner

T = TypeVar("T")

# Tokens of the text on which programs are compared with the model.
COMPARED = 6
# The relative error of logits that is put down to rounded weights, or x: real models' is a tenth of it, that of other sums about 1.
ROUNDING = {"int8": 0.1, "int4": 0.5}


def optimize_causal(model: Any, options: Options) -> Any:
    """The model with programs for ``generate``; without any where it can't be served, which a warning says.

    Raises ``CaptureError`` for a model in training mode, or one that is not on the CPU.
    """
    unread = _unread_weight(model)
    if unread is None:
        check_model(model, (), {})
    kind, source_kind = (
        (EncoderDecoderModule, DecoderSource) if model.config.is_encoder_decoder else (GenerativeModule, CausalSource)
    )
    with on_cpu(), spinner("preparing") as say:
        say("capturing")
        try:
            if unread is not None:
                raise UnsupportedError(unread)
            source: Any = source_kind(model, options)
            fast = _prepared(kind, model, source, options, say)
            if options.weights in BITS and (share := share_of_experts(model)):
                warn(f"weights={options.weights!r}: experts keep their weights as they are, {share:.0%} of the model's")
            return fast
        except (CaptureError, UnsupportedError) as error:
            if options.strict:
                raise
            warn(f"{type(model).__name__} generates without programs: {first_line(error)}")
            return _named(EagerModule, model)(model)


def _unread_weight(model: Any) -> str | None:
    """Names a weight in a form of torchao's or another package's that has no reader here."""
    for name, weight in model.named_parameters():
        held = weight.data  # without the type of a parameter
        if is_traceable_wrapper_subclass(held):
            return f"its weight {name!r} is of the type {type(held).__name__}, which is not read"
    return None


def _prepared(kind: Any, model: Any, source: Any, options: Options, say: Callable[[str], None]) -> Any:
    programs = Programs(Preparer(), source, options, source.capture(), source.sizes(1, 1, 1))
    fast = _named(kind, model)(model, source, programs)
    say("comparing with the model")
    try:
        _compare(fast, model, options)
    except UnsupportedError:
        if source.stack is None:
            raise
        source.stack = None  # the layers that were not traced may be others after all
        return _prepared(kind, model, source, options, say)
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

    def forward(self, **call: Any) -> torch.Tensor:
        logits: torch.Tensor = self.model(**call, use_cache=False).logits[:, -self.count :]
        return logits


def _rounds(model: nn.Module, options: Options) -> bool:
    """Whether products round x to int8, where the last bit of a number may be a step of the codes."""
    return options.activations is not None or any(isinstance(module, DynamicLayer) for module in model.modules())


def _compare(fast: Any, model: Any, options: Options) -> None:
    """Raises ``UnsupportedError`` where the programs of a short text and of a token after it give something else than the model."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(COMPARED).mul_(7919).remainder_(vocabulary)[None]
    cache: dict[str, Any] = {cache_argument(model): Cache(fast)}
    got = [fast(**fast.example_call(part), **cache).logits[:, -1:] for part in (ids[:, :-1], ids[:, -1:])]
    least = max(ROUNDING.get(str(options.weights), 0.0), ROUNDING["int8"] if _rounds(model, options) else 0.0)
    differs = difference(torch.cat(got, 1), _Logits(model, len(got)), (), fast.example_call(ids), options.dtype, least=least)
    if differs:
        raise UnsupportedError(f"its programs' logits differ from its own {differs}")
