"""``EncoderDecoderModule``: the encoder is a program, run once a text or sound, and the decoder runs programs on a cache."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import Seq2SeqLMOutput

from drystone.capture.parts import first_line
from drystone.errors import CaptureError, UnsupportedError, warn
from drystone.generation.cache import Cache
from drystone.generation.encoder_decoder import CrossKeys, DecoderSource, write_all
from drystone.generation.module import GenerativeModule
from drystone.generation.pages import Pages, Rows, Sequence
from drystone.graph.cache_pages import PAGE
from drystone.options import Options
from drystone.preparer import Preparer, Programs
from drystone.runtime.module import Example
from drystone.sources.whole import optimize_whole


class FirstCall(nn.Module):
    """``module``, prepared for the inputs of its first call; itself where it can't be."""

    def __init__(self, module: nn.Module, options: Options) -> None:
        super().__init__()
        self.training = False
        self.__dict__.update(_module=module, _options=options, _fast=None)

        @functools.wraps(module.forward)  # generate looks at its parameters
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._run(*args, **kwargs)

        self.__dict__["forward"] = forward

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.__dict__["_fast"] is None:
            self.__dict__["_fast"] = self._prepared(args, kwargs)
        with torch.no_grad():
            return self.__dict__["_fast"](*args, **kwargs)

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
        module: nn.Module = self.__dict__["_module"]
        try:
            return optimize_whole(Example(module, args, kwargs), self.__dict__["_options"], Preparer(), quiet=True)
        except (CaptureError, UnsupportedError) as error:
            if self.__dict__["_options"].strict:
                raise
            warn(f"{type(module).__name__} runs without a program: {first_line(error)}")
            return module


class EncoderDecoderModule(GenerativeModule):
    """The model with programs for its encoder, once, and for the prefill and decode of what it answers."""

    served = frozenset(
        {"input_ids", "input_features", "attention_mask", "encoder_outputs", "decoder_input_ids", "decoder_position_ids"}
        | {"decoder_attention_mask", "use_cache", "return_dict", "cache_position"}
    )

    def __init__(self, model: Any, source: DecoderSource, programs: Programs) -> None:
        super().__init__(model, source, programs)
        encoder, keys = (FirstCall(module, source.options) for module in (model.get_encoder(), CrossKeys(model)))
        self.keep_aside(prepared_encoder=encoder, cross_keys=keys)

    def pages_of_source(self, dtype: torch.dtype) -> Pages:
        """The memory of what cross-attention reads."""
        source = self._source
        assert isinstance(source, DecoderSource)
        return Pages(source.layers, source.source_positions, dtype)

    looped = frozenset({"encoder_outputs", "attention_mask", "use_cache", "cache_position"})

    def begin(self, cache: Cache, ids: torch.Tensor, config: Any, call: dict[str, Any]) -> tuple[torch.Tensor, None]:
        self._read_source(cache, call)
        return self.step(cache, ids[:, cache.get_seq_length() :], None, None, 1), None

    def _read_source(self, cache: Cache, call: dict[str, Any]) -> torch.Tensor | None:
        """Fill the cache of cross-attention, if it is not: gives the encoder's result then."""
        if cache.cross is not None:
            return None
        hidden = self._encoded(call)
        of_text = self._model.main_input_name == "input_ids"
        cache.cross = self._source_rows(cache, hidden, call.get("attention_mask") if of_text else None)
        return hidden

    def _answer(self, kwargs: dict[str, Any], cache: Cache | None) -> Any:
        self.check()
        cache = Cache(self) if cache is None else cache
        with torch.no_grad():
            hidden = self._read_source(cache, kwargs)
            logits = self.step(cache, kwargs["decoder_input_ids"], None, None)
        kept: dict[str, Any] = {self._argument: None if kwargs.get("use_cache") is False else cache}
        outputs = Seq2SeqLMOutput(logits=logits, encoder_last_hidden_state=hidden, **kept)
        return outputs.to_tuple() if kwargs.get("return_dict") is False else outputs

    def _encoded(self, call: dict[str, Any]) -> torch.Tensor:
        """The encoder's result (B, S, C)."""
        outputs = call.get("encoder_outputs")
        if outputs is None:
            name = self._model.main_input_name
            more = {"attention_mask": call["attention_mask"]} if call.get("attention_mask") is not None else {}
            outputs = self.prepared_encoder(**{name: call[name]}, **more, return_dict=True)
        hidden: torch.Tensor = outputs[0]
        return hidden

    def _source_rows(self, cache: Cache, hidden: torch.Tensor, mask: torch.Tensor | None) -> Rows:
        """Keys and values of each row of the encoder's result, but for padding; equal rows share them."""
        pages, sequences = self.pages_of_source(cache.pages.dtype), list[Sequence]()
        before = hidden[:0]
        for row in range(hidden.shape[0]):
            own = hidden[row] if mask is None else hidden[row, mask[row] != 0]
            if sequences and torch.equal(own, before):
                sequences.append(sequences[-1].fork())
                continue
            before, count = own, own.shape[0]
            # Whole pages: few sizes, and so few programs.
            filled = nn.functional.pad(own, (0, 0, 0, -count % PAGE))[None].contiguous()
            keys = [(key[:, :, :count], value[:, :, :count]) for key, value in self.cross_keys(filled)]
            sequences.append(Sequence(pages))
            write_all(sequences[-1], keys)
        return Rows(sequences)

    def more_of(self, cache: Cache, row: int | None = None) -> tuple[torch.Tensor, ...]:
        assert cache.cross is not None
        rows = cache.cross if row is None else Rows([cache.cross.sequences[row]])
        pages, lengths = rows.tables()
        return lengths, pages

    def example_call(self, ids: torch.Tensor) -> dict[str, Any]:
        """A call for the next tokens ``ids``, to be compared with the model's own."""
        hidden = torch.randn(1, PAGE // 8, self._model.config.d_model, generator=torch.Generator().manual_seed(0))
        return {"encoder_outputs": (hidden,), "decoder_input_ids": ids}

    def _reason(self, call: dict[str, Any], cache: Any) -> str | None:
        mask = call.get("decoder_attention_mask")
        if mask is not None and not bool((mask != 0).all()):
            return "padding in decoder_input_ids"
        if call.get("encoder_outputs") is None and call.get(self._model.main_input_name) is None:
            return f"neither encoder_outputs nor {self._model.main_input_name}"
        return super()._reason({**call, "input_ids": call.get("decoder_input_ids")}, cache)
