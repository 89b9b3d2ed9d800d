"""One step of the decoder of an encoder-decoder model, and what its cross-attention reads of the encoder's result.

    step(…, cross_lengths (B), cross_pages (layers, B, capacity))   as a causal model's, with pages for the encoder's result
    keys(hidden (1, S, C))                                          → key and value (1, H, S, D) of each layer, once a text

Positions are counted on from ``lengths``: the rows of a call are equally long.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from transformers import EncoderDecoderCache

from drystone.generation.attention import Traced, TracedCache, TracedCrossCache, traced
from drystone.generation.pages import Pages, Rows, Sequence
from drystone.generation.source import EXAMPLE, CausalSource
from drystone.generation.step import UNLIMITED, Step
from drystone.graph.cache_pages import PAGE, Page, pages_for
from drystone.preparer import Sizes


def source_limit(model: Any) -> int:
    """The positions of what the encoder gives."""
    names = ("max_source_positions", "max_position_embeddings")
    limits = (getattr(model.config, name, None) for name in names)
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), UNLIMITED)


class DecoderStep(Step):
    inputs = (*Step.inputs, "cross_lengths", "cross_pages")
    needs = "encoder_outputs"

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        keep: torch.Tensor,
        lengths: torch.Tensor,
        pages: torch.Tensor,
        cross_lengths: torch.Tensor,
        cross_pages: torch.Tensor,
    ) -> torch.Tensor:
        with traced(Traced(pages, lengths, keep, cross_pages, cross_lengths)) as call:
            return self.decoded(input_ids, call.lengths[0], filled=True)

    def logits(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return self.decoded(input_ids, position_ids[0, 0], filled=True)

    def decoded(self, input_ids: torch.Tensor, past: Any, filled: bool, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """``hidden``: the encoder's result, where keys and values are to be made of it."""
        cache = EncoderDecoderCache(TracedCache(self.layers, past), TracedCrossCache(self.layers))
        cache.is_updated = dict.fromkeys(range(self.layers), filled)
        config: Any = self.model.config
        if hidden is None:
            hidden = torch.zeros(input_ids.shape[0], 1, config.d_model)
        more: dict[str, Any] = {self.argument: cache}
        if "cache_position" in inspect.signature(type(self.model).forward).parameters:  # an older transformers
            more["cache_position"] = torch.arange(input_ids.shape[1]) + past
        outputs = self.model(
            encoder_outputs=(hidden,),
            decoder_input_ids=input_ids,
            decoder_attention_mask=torch.ones_like(input_ids),
            use_cache=True,
            return_dict=True,
            **more,
        )
        logits: torch.Tensor = outputs.logits
        return logits


class CrossKeys(nn.Module):
    """Keys and values of all layers of the encoder's result (1, S, C)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.training = False
        self.step = DecoderStep(model, 0)

    def forward(self, hidden: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        token = torch.zeros(1, 1, dtype=torch.int64)
        with traced(Traced(token, token[0], token[0], written={})) as call:
            self.step.decoded(token, 0, filled=False, hidden=hidden)
        assert call.written is not None
        return [call.written[layer] for layer in range(self.step.layers)]


class DecoderSource(CausalSource):
    """The decoder of an encoder-decoder model."""

    def __init__(self, model: Any, options: Any) -> None:
        super().__init__(model, options)
        self.positions = self.limit  # the model makes them itself, for what fills a chunk up too
        self.source_positions = source_limit(model)

    def step(self) -> Step:
        return DecoderStep(self.model, self.positions)

    def sizes(self, batch: int, count: int, kept: int) -> Sizes:
        return (*super().sizes(batch, count, kept), (batch,), (len(self.layers), batch, pages_for(self.source_positions)))

    def example(self) -> tuple[list[torch.Tensor], list[dict[int, Any]], list[Rows]]:
        tensors, varies, rows = super().example()
        batch, length, _ = EXAMPLE
        cross = Rows([Sequence(Pages(self.layers, self.source_positions)) for _ in range(batch)])
        cross.reserve(length)
        cross.advance(length)
        pages, lengths = cross.tables()
        return [*tensors, lengths, pages], [*varies, {0: Dim.AUTO}, {1: Dim.AUTO}], [*rows, cross]


def write_all(sequence: Sequence, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Put keys and values (1, H, S, D) of each layer into an empty sequence."""
    count = layers[0][0].shape[2]
    sequence.reserve(count)
    for table, (keys, values) in zip(sequence.table.tolist(), layers, strict=True):
        for address, key, value in zip(table, keys[0].split(PAGE, 1), values[0].split(PAGE, 1), strict=False):
            Page.at(address).write(0, key, value)
    sequence.advance(count)
