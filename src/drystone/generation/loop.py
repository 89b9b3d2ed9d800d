"""Greedy decoding and sampling, as transformers' ``_sample`` does it, with less between two tokens.

After a step, which has read all weights, the caches hold nothing of Python and torch. An operator of torch's takes 15 to 40 us
then, one of NumPy's a tenth, so what a step reads stays in memory that NumPy writes.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput

from drystone.generation.bans import bans_of, lightened
from drystone.generation.cache import Cache


def sample(
    fast: Any,
    argument: str,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    streamer: Any = None,
    **model_kwargs: Any,
) -> Any:
    """The result of ``_sample``, token by token the same; None where it is left to that."""
    cache, config = model_kwargs.pop(argument, None), generation_config
    more = {name for name, value in model_kwargs.items() if value is not None and name not in fast.looped}
    if not isinstance(cache, Cache) or more or synced_gpus or not served(config):
        return None
    returns_more = config.return_dict_in_generate
    scores: Any = () if returns_more and config.output_scores else None
    raw_logits: Any = () if returns_more and config.output_logits else None
    has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    pad = config._pad_token_tensor
    batch = input_ids.shape[0]
    unfinished, some_ended = np.ones(batch, dtype=bool), False
    processors: Any = lightened(logits_processor)
    bans = None if config.do_sample or scores is not None or raw_logits is not None else bans_of(processors)
    asked_from, ending = endings(stopping_criteria)
    fast.check()
    logits, positions = fast.begin(cache, input_ids, config, model_kwargs)
    last = np.full((batch, 1), cache.get_seq_length() - 1) if positions is None else positions[:, -1:].numpy()
    place, token = np.array(np.broadcast_to(last, (batch, 1)), dtype=np.int64), np.empty((batch, 1), dtype=np.int64)
    place_tensor, token_tensor = torch.from_numpy(place), torch.from_numpy(token)
    text = _Text(input_ids)
    while True:
        if bans is not None:
            numbers = _numbers(logits)[:, -1]
            for ban in bans:
                ban.apply(text.length, numbers)
            tokens = _first_highest(numbers)
        else:
            next_logits = logits[:, -1].float()
            next_scores = processors(text.ids(), next_logits.clone() if raw_logits is not None else next_logits)
            if scores is not None:
                scores += (next_scores,)
            if raw_logits is not None:
                raw_logits += (next_logits,)
            if config.do_sample:
                tokens = torch.multinomial(torch.softmax(next_scores, dim=-1), num_samples=1).squeeze(1).numpy()
            else:
                tokens = highest(next_scores)
        if has_eos and some_ended:
            tokens = np.where(unfinished, tokens, int(pad))
        text.append(tokens)
        if streamer is not None:
            streamer.put(torch.from_numpy(tokens))
        if text.length >= asked_from or not ending.isdisjoint(tokens.tolist()):
            unfinished &= ~stopping_criteria(text.ids(), scores).numpy()
            if not unfinished.any():
                break
            some_ended = not unfinished.all()
        place += 1
        token[:, 0] = tokens
        logits = fast.step(cache, token_tensor, None, place_tensor)
    if streamer is not None:
        streamer.end()
    sequences = text.ids().clone(memory_format=torch.contiguous_format)
    if not returns_more:
        return sequences
    found: dict[str, Any] = {"sequences": sequences, "scores": scores, "logits": raw_logits, argument: cache}
    return (GenerateDecoderOnlyOutput if cache.cross is None else GenerateEncoderDecoderOutput)(**found)


class _Text:
    """The tokens of each row, in memory that is made twice as large when it is full."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.length = ids.shape[1]
        self._memory = np.array(ids.numpy(), dtype=np.int64)

    def append(self, tokens: NDArray[np.int64]) -> None:
        if self.length == self._memory.shape[1]:
            self._memory = np.concatenate([self._memory, np.empty_like(self._memory), tokens[:, None]], 1)
        self._memory[:, self.length] = tokens
        self.length += 1

    def ids(self) -> torch.Tensor:
        return torch.from_numpy(self._memory[:, : self.length])


def endings(criteria: StoppingCriteriaList) -> tuple[int, set[int]]:
    """The length from which on the criteria may end a text, and the tokens that may end a shorter one."""
    length, tokens = sys.maxsize, set[int]()
    for criterion in criteria:
        if type(criterion) is MaxLengthCriteria:
            warned = criterion.max_position_embeddings  # of longer texts
            length = min(length, criterion.max_length, sys.maxsize if warned is None else warned + 1)
        elif type(criterion) is EosTokenCriteria:
            tokens.update(criterion.eos_token_id.tolist())
        else:
            return 0, tokens
    return length, tokens


def highest(scores: torch.Tensor) -> NDArray[np.int64]:
    """The index of the first highest of each row: NumPy finds it in a tenth of torch's time."""
    return _first_highest(_numbers(scores))


def _first_highest(numbers: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.asarray(numbers.argmax(-1), dtype=np.int64)


def _numbers(scores: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (scores if scores.dtype == torch.float32 else scores.float()).numpy()
    return found


def served(config: Any) -> bool:
    """Whether the loop here does what a generation configuration asks of it."""
    asks = (
        config.output_attentions,
        config.output_hidden_states,
        config.prefill_chunk_size,
        getattr(config, "is_assistant", False),
        config.use_cache is False,
    )
    return not any(asks)
