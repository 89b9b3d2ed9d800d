"""Greedy decoding and sampling, as transformers' ``_sample`` does it, with less between two tokens."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from drystone.generation.cache import Cache

# What the model is called with, beside its cache. A call with more is left to transformers.
_SERVED = {"attention_mask", "position_ids", "use_cache", "logits_to_keep", "cache_position"}


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
    more = {name for name, value in model_kwargs.items() if value is not None and name not in _SERVED}
    if not isinstance(cache, Cache) or more or synced_gpus or not served(config):
        return None
    returns_more = config.return_dict_in_generate
    scores: Any = () if returns_more and config.output_scores else None
    raw_logits: Any = () if returns_more and config.output_logits else None
    has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    pad = config._pad_token_tensor
    unfinished, some_ended = torch.ones(input_ids.shape[0], dtype=torch.int64), False
    asked_from, ending = endings(stopping_criteria)
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")

    new = input_ids
    covered = mask.shape[1] if mask is not None else getattr(config, "_mask_length", input_ids.shape[1])
    if covered == input_ids.shape[1]:  # the whole text, of which the cache may hold the beginning
        new = input_ids[:, cache.get_seq_length() :]
    if positions is None and mask is not None:
        positions = (mask.long().cumsum(-1) - 1).clamp_(min=0)
    if positions is not None:
        positions = positions[:, -new.shape[1] :]
    fast.check()
    logits = fast.step(cache, new, mask, positions, 1)
    positions = torch.full((1, 1), cache.get_seq_length() - 1) if positions is None else positions[:, -1:]
    while True:
        next_logits = logits[:, -1].float()
        next_scores = logits_processor(input_ids, next_logits.clone() if raw_logits is not None else next_logits)
        if scores is not None:
            scores += (next_scores,)
        if raw_logits is not None:
            raw_logits += (next_logits,)
        if config.do_sample:
            tokens = torch.multinomial(torch.softmax(next_scores, dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = highest(next_scores)
        if has_eos and some_ended:
            tokens = tokens * unfinished + pad * (1 - unfinished)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
        if streamer is not None:
            streamer.put(tokens.cpu())
        if input_ids.shape[1] >= asked_from or not ending.isdisjoint(tokens.tolist()):
            unfinished = unfinished & ~stopping_criteria(input_ids, scores)
            if not unfinished.any():
                break
            some_ended = not unfinished.all()
        positions = positions + 1
        logits = fast.step(cache, tokens[:, None], None, positions)
    if streamer is not None:
        streamer.end()
    if not returns_more:
        return input_ids
    found: dict[str, Any] = {"sequences": input_ids, "scores": scores, "logits": raw_logits, argument: cache}
    return GenerateDecoderOnlyOutput(**found)


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


def highest(scores: torch.Tensor) -> torch.Tensor:
    """The index of the first highest of each row: NumPy finds it in a tenth of torch's time."""
    return torch.from_numpy(scores.float().numpy().argmax(-1))


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
