"""Masks of attention that are known when the graph is built."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from drystone.graph.graph import Value, said_of

# What is added to hide a key: -inf, or a number that takes the exponential to 0 beside any score (the dtype's lowest, in models).
HIDES = -1e30


@dataclass(frozen=True)
class Mask:
    """What is added to the scores, or a bool that says which keys are seen; and whether the keys after the query are hidden."""

    value: Value | None
    causal: bool


def simplified(mask: Mask, queries: int, keys: int) -> Mask:
    """Without its tensor where that is a constant which hides nothing, or what a causal mask hides."""
    if mask.value is None or not mask.value.is_constant:
        return mask
    hidden = said_of(mask.value, _hidden, queries, keys)
    if hidden == "nothing":
        return Mask(None, mask.causal)
    return Mask(None, True) if hidden == "later keys" else mask


def _hidden(mask: torch.Tensor, queries: int, keys: int) -> str:
    """What a mask hides."""
    seen = mask if mask.dtype == torch.bool else mask == 0
    if seen.all():
        return "nothing"
    before = torch.ones(queries, keys, dtype=torch.bool).tril()
    hidden = ~mask if mask.dtype == torch.bool else mask <= HIDES
    if mask.shape[-2:] == before.shape and (seen == before).all() and (hidden == ~before).all():
        return "later keys"
    return "some"
