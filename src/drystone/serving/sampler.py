"""The next token of one request, chosen as transformers' ``generate`` chooses it for that request alone."""

from __future__ import annotations

from typing import Any

import torch

from drystone.errors import InputError, UnsupportedError
from drystone.generation.bans import lightened
from drystone.generation.loop import highest

# Of transformers' GenerationMode.
_MODES = ("greedy_search", "sample")


class Sampler:
    """``options``: the keywords of ``generate``. ``seed``: of the draws; those after ``torch.manual_seed(seed)``.

    Raises ``InputError`` for keywords or values that ``generate`` refuses, ``UnsupportedError`` for beams and the like.
    """

    def __init__(self, model: Any, prompt: list[int], most: int, seed: int | None, options: dict[str, Any]) -> None:
        try:
            config, unknown = model._prepare_generation_config(None, **options)
            config.max_length = len(prompt) + most
            model._prepare_special_tokens(config, True, device="cpu")
            self._processors: Any = lightened(model._get_logits_processor(config, len(prompt), device="cpu", model_kwargs={}))
        except (TypeError, ValueError) as error:
            raise InputError(f"GenerationPool: {error}") from error
        if unknown:
            raise InputError(f"GenerationPool: {', '.join(unknown)} is no option of generate")
        if config.get_generation_mode() not in _MODES or (config.num_return_sequences or 1) > 1:
            raise UnsupportedError(
                "GenerationPool: requests are decoded greedily or by sampling, one text each; for more call the model's generate"
            )
        self._ids = torch.tensor([prompt])
        self._samples = bool(config.do_sample)
        self._random = torch.Generator()
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)
        ends = config.eos_token_id
        self.ends = frozenset([] if ends is None else ends if isinstance(ends, list) else [ends])
        self.stops: list[str] = [config.stop_strings] if isinstance(config.stop_strings, str) else config.stop_strings or []

    @property
    def plain(self) -> bool:
        """Whether it takes the token of the largest logit."""
        return not self._samples and not self._processors

    def __call__(self, logits: torch.Tensor) -> int:
        """Logits (1, vocabulary) → a token."""
        scores = self._processors(self._ids, logits.float())
        if self._samples:
            token = torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=self._random)
        else:
            token = torch.from_numpy(highest(scores))[:, None]
        if self._processors:
            self._ids = torch.cat([self._ids, token], dim=1)
        return int(token)
