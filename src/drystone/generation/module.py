"""``GenerativeModule``, the result of ``optimize`` for a causal language model: it runs programs on a cache."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from drystone.errors import InputError, WeightsReplacedError, warn
from drystone.generation.cache import Cache
from drystone.generation.decoder import Decoder
from drystone.generation.front import front_of
from drystone.generation.pages import Pages, Rows, Sequence
from drystone.generation.source import CausalSource
from drystone.generation.step import cache_argument, position_limit
from drystone.preparer import Programs
from drystone.runtime.explain import Explanation
from drystone.runtime.proxy import ModuleProxy, checked_tensors
from drystone.runtime.traced_calls import is_traced


class GenerativeModule(ModuleProxy):
    """The model with programs for prefill and decode. ``generate`` is transformers' own, and keeps a ``drystone.Cache``.

    Calls with a cache of transformers, or for more than logits (hidden states, attentions, a loss), run the model itself.
    ``served``: the arguments of calls that programs serve, or that change nothing of what they compute.
    """

    served = frozenset(
        {"input_ids", "attention_mask", "position_ids", "use_cache", "return_dict", "cache_position", "logits_to_keep"}
    )

    def __init__(self, model: Any, source: CausalSource, programs: Programs) -> None:
        super().__init__(model)
        self._programs, self._source = programs, source
        programs.originals.look_in(model)
        self._decoder = Decoder(programs, source.positions)
        self._argument = cache_argument(model)
        self._names = [name for name in inspect.signature(type(model).forward).parameters if name != "self"]
        self._limit = position_limit(model)
        self._pages: dict[torch.dtype, Pages] = {}
        self._warned: set[str] = set()
        self.keep_aside(_generating=front_of(self, model))

    def explain(self) -> Explanation:
        """The steps of the program that decodes one token of one sequence."""
        current = self._programs.current
        if current is None:
            raise InputError("the module has no program yet")
        return current[1].explanation

    def refresh(self) -> None:
        """Take over the model's current weights. Programs are made again when they are called for."""
        self._programs.refresh()
        self._decoder = Decoder(self._programs, self._source.positions)

    def pages_of(self, dtype: torch.dtype) -> Pages:
        """The memory of caches of ``dtype``."""
        if dtype not in self._pages:
            self._pages[dtype] = Pages(self._source.layers, self._source.positions, dtype)
        return self._pages[dtype]

    def _front(self) -> Any:
        return self._generating

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' ``generate``. Raises ``InputError`` for a prompt longer than the model, and for padding at the right."""
        return self._generating.generate(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.update(zip(self._names, args, strict=False))
        if is_traced():
            return self.call_original((), kwargs)
        cache = kwargs.get(self._argument)
        reason = self._reason(kwargs, cache)
        if reason is not None:
            if isinstance(cache, Cache):
                raise InputError(f"a drystone.Cache holds nothing for a call with {reason}; leave one of them out")
            return self._eagerly(kwargs, reason)
        try:
            return self._answer(kwargs, cache)
        except WeightsReplacedError as error:
            if cache is not None:
                raise
            return self.call_as_it_is((), kwargs, error)

    def _answer(self, kwargs: dict[str, Any], cache: Cache | None) -> Any:
        """What a call gives that programs serve."""
        ids, mask, positions = kwargs["input_ids"], kwargs.get("attention_mask"), kwargs.get("position_ids")
        checked_tensors((), {"input_ids": ids, "attention_mask": mask, "position_ids": positions})
        if cache is None and mask is not None and not padded_left(mask):
            return self._eagerly(kwargs, "padding that is not at the left")
        self.check()
        cache = Cache(self) if cache is None else cache
        with torch.no_grad():
            logits = self.step(cache, ids, mask, positions, kwargs.get("logits_to_keep"))
        wanted = kwargs.get("use_cache")
        keeps = self._model.config.use_cache if wanted is None else wanted
        kept: dict[str, Any] = {self._argument: cache if keeps else None}
        outputs = CausalLMOutputWithPast(logits=logits, **kept)
        return outputs.to_tuple() if kwargs.get("return_dict") is False else outputs

    def check(self) -> None:
        """Raises ``WeightsChangedError`` where the model's weights are others than those that are packed."""
        self._programs.originals.check()

    # What generation in our loop may be given beside the cache. With more it is left to transformers.
    looped = frozenset({"attention_mask", "position_ids", "use_cache", "logits_to_keep", "cache_position"})

    def begin(self, cache: Cache, ids: torch.Tensor, config: Any, call: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits of the last of the tokens ``ids`` (B, T), of which the cache may hold the first, and positions of the new ones.

        ``call``: of ``looped``, what the model is given.
        """
        mask, positions = call.get("attention_mask"), call.get("position_ids")
        new = ids
        covered = mask.shape[1] if mask is not None else getattr(config, "_mask_length", ids.shape[1])
        if covered == ids.shape[1]:  # the whole text
            new = ids[:, cache.get_seq_length() :]
        if positions is None and mask is not None:
            positions = (mask.long().cumsum(-1) - 1).clamp_(min=0)
        if positions is not None:
            positions = positions[:, -new.shape[1] :]
        return self.step(cache, new, mask, positions, 1), positions

    def step(
        self,
        cache: Cache,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
        keep: int | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (B, K, vocabulary) of the new tokens ``ids`` (B, T), which the cache holds afterwards.

        ``mask`` (B, past and T) is 0 where a row is padded at the left, or None. ``keep``: logits of the last so many tokens, or of
        those with these indices; None or 0: of all. Raises ``InputError`` for what the model has no positions for, for padding
        elsewhere, for sizes and dtypes that don't go together, and for the cache of another model or of the whole text.
        """
        batch, count = ids.shape
        past = cache.get_seq_length()
        if cache.pages not in self._pages.values():
            raise InputError("the cache is another model's; make one with drystone.Cache(fast), or leave it out")
        if not count:
            raise InputError(
                f"the cache holds {past} tokens, and the text has no more: shorten the cache with crop(), or leave it out"
                if past
                else "the text has no tokens; give one at least"
            )
        ids = _numbered("the tokens", ids)
        if mask is not None and mask.shape[0] not in (1, batch):
            raise InputError(f"attention_mask has {mask.shape[0]} rows, and the call has {batch}")
        leads = None if mask is None else _leads(mask.expand(batch, -1), past, count)
        if positions is None:
            positions = torch.arange(past, past + count)[None]
        elif tuple(positions.shape) not in ((1, count), (batch, count)):
            raise InputError(
                f"position_ids, or the attention_mask that they are made of, are of shape {tuple(positions.shape)}, "
                f"and the new tokens of {(batch, count)}"
            )
        positions = _numbered("position_ids", positions).expand(batch, count)
        if count > 1 and (most := int(positions[:, -1].max())) >= self._limit:
            raise InputError(f"the text has {most + 1} positions, and the model has {self._limit}; shorten it")
        cache.begin(batch)
        if count == 1 and not leads:
            logits = self._decoder.tokens(cache.rows, ids, positions, *self.more_of(cache))
        else:
            asked = keep if isinstance(keep, int) and 0 < keep < count else count
            logits = self._texts(cache, ids, positions, leads or [0] * batch, asked)
        cache.grow(count)
        return logits[:, keep] if isinstance(keep, torch.Tensor) else logits

    @property
    def positions(self) -> int:
        """Of a text, at most."""
        return self._limit

    def read_text(self, sequence: Sequence, ids: torch.Tensor) -> torch.Tensor:
        """Logits (1, vocabulary) after the new tokens ``ids`` (T) of one sequence."""
        return self._decoder.text(sequence, ids, torch.arange(sequence.length, sequence.length + ids.shape[0]), 1)

    def read_tokens(self, rows: Rows, ids: torch.Tensor) -> torch.Tensor:
        """Logits (B, vocabulary) after one new token of each row: ``ids`` (B). Rows may differ in length."""
        positions = torch.tensor([[sequence.length] for sequence in rows.sequences])
        return self._decoder.tokens(rows, ids[:, None], positions)[:, 0]

    def more_of(self, cache: Cache, row: int | None = None) -> tuple[torch.Tensor, ...]:
        """Further inputs of a step, for all rows or one."""
        return ()

    def example_call(self, ids: torch.Tensor) -> dict[str, Any]:
        """A call for the next tokens ``ids``, to be compared with the model's own."""
        return {"input_ids": ids}

    def _texts(self, cache: Cache, ids: torch.Tensor, positions: torch.Tensor, leads: list[int], asked: int) -> torch.Tensor:
        """Each row's own tokens; rows that are equal from the beginning are computed once."""
        rows, count = cache.rows.sequences, ids.shape[1]
        fresh = not cache.get_seq_length() and cache.cross is None
        first: dict[Any, int] = {}
        found: list[torch.Tensor] = []
        for row, (sequence, lead) in enumerate(zip(rows, leads, strict=True)):
            text = (lead, *ids[row].tolist(), *positions[row].tolist())
            same = first.setdefault(text, row) if fresh else row
            if same < row:
                rows[row] = rows[same].fork()
                found.append(found[same])
                continue
            own = min(asked, count - lead)
            logits = self._decoder.text(sequence, ids[row, lead:], positions[row, lead:], own, *self.more_of(cache, row))
            found.append(nn.functional.pad(logits, (0, 0, asked - own, 0)) if own < asked else logits)
        return torch.stack(found)

    def _reason(self, call: dict[str, Any], cache: Any) -> str | None:
        """What the call asks for that programs have not; None where they serve it."""
        if cache is not None and not isinstance(cache, Cache):
            return f"a {type(cache).__name__}"
        for name, value in call.items():
            if value is not None and value is not False and name not in self.served and name != self._argument:
                return f"{name}"
        ids, mask, config = call.get("input_ids"), call.get("attention_mask"), self._model.config
        if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or 0 in ids.shape:
            return "input_ids other than (batch, tokens)"
        if mask is not None and (not isinstance(mask, torch.Tensor) or mask.dim() != 2):
            return "an attention_mask other than (batch, tokens)"
        if config.output_attentions or config.output_hidden_states:
            return "hidden states or attentions, which its configuration asks for"
        return None

    def _eagerly(self, call: dict[str, Any], reason: str) -> Any:
        if reason not in self._warned:
            self._warned.add(reason)
            warn(f"a call with {reason} runs the model itself, not its program")
        with torch.no_grad():
            return self._model(**call)


class EagerModule(ModuleProxy):
    """A model that can't be served, which runs as it is."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.original()(*args, **kwargs)

    def refresh(self) -> None:
        """Nothing to do: the model itself runs."""

    def _front(self) -> nn.Module:
        return self.original()


def padded_left(mask: torch.Tensor) -> bool:
    """Whether each row of (B, T) is zeros and then at least one 1."""
    rows = mask != 0
    return bool((rows[:, -1:] & (rows[:, 1:] >= rows[:, :-1])).all()) if mask.shape[1] > 1 else bool(rows.all())


def _numbered(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """In int64, as programs read it."""
    if tensor.dtype is torch.int64:
        return tensor
    if tensor.dtype not in (torch.int32, torch.int16, torch.int8, torch.uint8):
        raise InputError(f"{name}: expected whole numbers, as int64 or int32, got {tensor.dtype}")
    return tensor.long()


def _leads(mask: torch.Tensor, past: int, count: int) -> list[int] | None:
    """For each row how many of the new tokens are padding; None where none is."""
    if mask.shape[1] not in (past + count, count):
        raise InputError(f"attention_mask has {mask.shape[1]} columns, for {past} tokens in the cache and {count} new ones")
    new = mask[:, -count:] != 0
    if bool(new.all()):
        return None
    if not bool(new.any(1).all()):
        raise InputError("attention_mask hides all tokens of a row; leave the row out")
    if not padded_left(new):
        raise InputError(
            "attention_mask hides tokens that are not the first of a row: pad at the left, as tokenizer.padding_side = 'left' does"
        )
    leads: list[int] = (~new).sum(1).tolist()
    return leads
