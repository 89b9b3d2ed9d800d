"""One step of a causal language model, as a function of tokens, positions and a cache: what programs are made of.

    step(input_ids (B, T), position_ids (B, T), keep (K), lengths (B), pages (layers, B, capacity))  → logits (B, K, vocabulary)

B sequences get T new tokens each; ``lengths`` says how many their pages hold before. Logits are those of the positions ``keep``.
"""

from __future__ import annotations

import copy
import inspect
import sys
from contextlib import nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn

from drystone.capture.module_tree import copy_tree
from drystone.errors import UnsupportedError
from drystone.generation.attention import NAME, InPlaceOfTorch, Traced, TracedCache, kept_positions, traced
from drystone.generation.experts import choose_experts
from drystone.generation.position_bias import alibi_of, use_one_bias


def cache_argument(model: nn.Module) -> str:
    """What the model calls its cache: transformers renames it."""
    names = inspect.signature(type(model).forward).parameters
    for name in ("cache", "past_key_values"):
        if name in names:
            return name
    raise UnsupportedError(f"{type(model).__name__} takes no cache")


# Of a model that does not say how many positions it has.
UNLIMITED = 1 << 15


def position_limit(model: Any) -> int:
    """The positions of a text that the model is made for."""
    config = model.config.get_text_config(decoder=True)
    limits = (getattr(config, name, None) for name in ("max_target_positions", "max_position_embeddings", "max_seq_len"))
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), UNLIMITED)


def decoder_layers(model: Any) -> int:
    if model.config.is_encoder_decoder:
        found = (getattr(model.config, name, None) for name in ("decoder_layers", "num_decoder_layers"))
        return next(count for count in (*found, model.config.num_hidden_layers) if count)
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)


class Step(nn.Module):
    """Runs a copy of ``model``'s tree that attends over pages. ``inputs``: the parameters of its forward."""

    inputs: tuple[str, ...] = ("input_ids", "position_ids", "keep", "lengths", "pages")
    needs = "position_ids"

    def __init__(self, model: Any, positions: int) -> None:
        """``positions``: the most that a sequence may have."""
        super().__init__()
        self.training = False
        self.alibi = alibi_of(model, positions)
        self.takes_needed = self.needs in inspect.signature(type(model).forward).parameters
        if not self.takes_needed and self.alibi is None:
            raise UnsupportedError(f"{type(model).__name__} takes no {self.needs}")
        self.argument = cache_argument(model)
        self.copies = copy_tree(model)
        self.model = self.copies[model]
        self.layers = decoder_layers(model)
        self.calls_torch = _attend_over_pages(list(self.copies.values()))
        twin: Any = self.model
        head = twin.get_output_embeddings()
        if head is None:
            raise UnsupportedError(f"{type(model).__name__} has no output embeddings")
        vars(head)["forward"] = MethodType(_of_kept, head)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        keep: torch.Tensor,
        lengths: torch.Tensor,
        pages: torch.Tensor,
    ) -> torch.Tensor:
        with traced(Traced(pages, lengths, keep, alibi=self.alibi)):
            return self.logits(input_ids, position_ids)

    def logits(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Within ``traced``."""
        more: dict[str, Any] = {self.argument: TracedCache(self.layers)}
        if self.takes_needed:
            more["position_ids"] = position_ids
        with InPlaceOfTorch() if self.calls_torch else nullcontext():
            outputs = self.model(input_ids=input_ids, use_cache=True, return_dict=True, **more)
        logits: torch.Tensor = outputs.logits
        return logits


def _of_kept(head: nn.Module, hidden: torch.Tensor) -> Any:
    return type(head).forward(head, kept_positions(hidden))


def _attend_over_pages(modules: list[nn.Module]) -> bool:
    """Give copies of modules configurations of their own, that name our attention. Whether some call torch's instead.

    Those are of a file that does not know transformers' attention interface.
    """
    known: dict[tuple[int, str], Any] = {}
    calls_torch, stand_ins = False, use_one_bias(modules)
    for module in modules:
        own = hasattr(module, "layer_idx") and not hasattr(sys.modules[type(module).__module__], "ALL_ATTENTION_FUNCTIONS")
        name = "eager" if stand_ins else "sdpa" if own else NAME  # MPT's own code converts its mask, which nothing reads then
        calls_torch |= own
        if own and hasattr(module, "is_causal"):
            vars(module)["is_causal"] = False  # it would make a number of what is a symbol; over pages it is causal in any case
        for attribute, value in vars(module).items():
            if hasattr(value, "_attn_implementation"):
                if (id(value), name) not in known:
                    known[id(value), name] = made = copy.deepcopy(value)
                    made._attn_implementation = name
                    choose_experts(made)
                vars(module)[attribute] = known[id(value), name]
    return calls_torch
