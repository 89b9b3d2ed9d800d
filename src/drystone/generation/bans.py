"""Tokens that may not come next: transformers' processors that only set scores to minus infinity, as indices.

transformers looks for these tokens among all of the vocabulary, at each token anew: 1 to 4 ms.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)


@dataclass(frozen=True)
class Ban:
    """Of ``tokens``, while a text has ``begin`` to ``end`` tokens. A processor itself."""

    begin: int
    end: int
    tokens: NDArray[np.int64]

    def apply(self, length: int, scores: NDArray[np.float32]) -> None:
        """To scores (B, vocabulary) of the next token of texts of ``length``."""
        if self.begin <= length < self.end:
            scores[:, self.tokens[self.tokens < scores.shape[-1]]] = -np.inf

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        self.apply(input_ids.shape[-1], scores.numpy())
        return scores


def lightened(processors: Iterable[Any]) -> LogitsProcessorList:
    """The same with bans in the place of processors that are no more."""
    return LogitsProcessorList([_ban_of(processor) or processor for processor in processors])


def bans_of(processors: Iterable[Any]) -> list[Ban] | None:
    """What these processors do; None if one of them does something else."""
    found = lightened(processors)
    bans = [processor for processor in found if isinstance(processor, Ban)]
    return bans if len(bans) == len(found) else None


def _ban_of(processor: Any) -> Ban | None:
    kind = type(processor)
    if kind is MinLengthLogitsProcessor:
        return Ban(0, processor.min_length, _tokens(processor.eos_token_id))
    if kind is MinNewTokensLengthLogitsProcessor:
        return Ban(0, processor.prompt_length_to_skip + processor.min_new_tokens, _tokens(processor.eos_token_id))
    if kind is SuppressTokensLogitsProcessor:
        return Ban(0, sys.maxsize, _tokens(processor.suppress_tokens))
    if kind is SuppressTokensAtBeginLogitsProcessor:
        begin = processor.begin_index
        return Ban(begin, begin + 1, _tokens(processor.begin_suppress_tokens))
    return None


def _tokens(tokens: Any) -> NDArray[np.int64]:
    found = np.asarray(torch.as_tensor(tokens).reshape(-1).numpy(), dtype=np.int64)
    return found[found >= 0]
