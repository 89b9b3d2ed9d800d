"""The model as transformers' ``generate`` sees it: of its class, with its attributes, and programs in the place of its forward."""

from __future__ import annotations

import functools
from typing import Any

from transformers.utils import ModelOutput

from drystone.generation.cache import Cache
from drystone.generation.loop import sample
from drystone.generation.step import cache_argument


def front_of(fast: Any, model: Any) -> Any:
    """An object on the attributes of ``model`` that runs ``fast``."""
    kind, argument = type(model), cache_argument(model)

    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return fast.forward(*args, **kwargs)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return fast(*args, **kwargs)

    def prepare_cache(self: Any, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """A cache of drystone's, unless the caller brings or asks for another one, or for what no program gives."""
        asks = (
            generation_config.cache_implementation not in (None, "dynamic", "dynamic_full"),
            generation_config.output_attentions,
            generation_config.output_hidden_states,
            model_kwargs.get(argument),
            generation_config.use_cache is False,
            model_kwargs.get("inputs_embeds") is not None,
        )
        if not any(asks):
            model_kwargs[argument] = Cache(fast)
            return None
        return kind._prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs)

    def without_cross(result: Any) -> Any:
        """``result`` without a cache of two parts: Whisper would take it apart, row by row."""
        cache = result.get(argument) if isinstance(result, ModelOutput) else None
        if not isinstance(cache, Cache) or cache.cross is None:
            return result
        return type(result)(**{name: value for name, value in result.items() if name != argument})

    def own_sample(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        result = sample(fast, argument, input_ids, *args, **kwargs)
        return without_cross(kind._sample(self, input_ids, *args, **kwargs) if result is None else result)

    def beam_search(self: Any, *args: Any, **kwargs: Any) -> Any:
        return without_cross(kind._beam_search(self, *args, **kwargs))

    body: dict[str, Any] = {
        "__call__": call,
        "forward": forward,
        "_prepare_cache_for_generation": prepare_cache,
        "_sample": own_sample,
        "_beam_search": beam_search,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    }
    if model.config.is_encoder_decoder:
        body["get_encoder"] = lambda self, *args, **kwargs: fast.prepared_encoder
    front: Any = object.__new__(type(kind.__name__, (kind,), body))
    object.__setattr__(front, "__dict__", vars(model))
    return front
