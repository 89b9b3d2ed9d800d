"""``Cache``: the keys and values of a model's past tokens, in pages, as transformers takes and returns it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache as TransformersCache

from drystone.errors import InputError, UnsupportedError
from drystone.generation.pages import Pages, Rows, Sequence


class Cache(TransformersCache):  # type: ignore[misc]
    """What ``fast.generate`` keeps of past tokens, for a ``fast`` that ``drystone.optimize`` gave for a causal language model.

    ``generate(…, return_dict_in_generate=True)`` returns it. Passed to the next call with the whole text so far, it saves computing
    the beginning again. Memory grows by pages of positions without copying; beams and sequences with a common beginning share its
    pages. Padding at the left takes no place.

    Args:
        fast: the optimised model. Another model's cache is refused.
        dtype: of keys and values: ``torch.float32``, ``torch.bfloat16``, or ``torch.int8`` with a scale a head and position.
    """

    def __init__(self, fast: Any, dtype: torch.dtype = torch.float32) -> None:
        pages = getattr(fast, "pages_of", None)
        if pages is None:
            raise InputError("Cache: expected a causal language model from drystone.optimize that has programs")
        super().__init__(layers=[])
        self.pages: Pages = pages(dtype)
        self.rows = Rows([])
        self._length = 0  # of the batch, with padding
        self.cross: Rows | None = None  # what cross-attention reads, once the encoder has run

    def begin(self, batch: int) -> None:
        """Have a sequence for each row of a call: a single one is the beginning of all. Raises ``InputError`` for others."""
        if not self.rows.sequences:
            self.rows = Rows([Sequence(self.pages)])
        if len(self.rows.sequences) == 1 and batch > 1:
            self.rows.select([0] * batch)
        if len(self.rows.sequences) != batch:
            raise InputError(
                f"the cache has {len(self.rows.sequences)} sequences and the call has {batch}; use another cache for another batch"
            )

    def grow(self, count: int) -> None:
        """The batch has so many more positions, padding among them; rows count their own."""
        self._length += count

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        """Another cache of the same past, in the same pages until one of the two writes to them."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__
        other.rows, other.cross = _forked(self.rows), None if self.cross is None else _forked(self.cross)
        return other

    def __copy__(self) -> Cache:
        return self.__deepcopy__({})

    def __reduce__(self) -> Any:
        raise UnsupportedError("a drystone.Cache can't be pickled: its pages are this process's memory; keep the tokens instead")

    # -- what transformers asks

    def __len__(self) -> int:
        return len(self.pages.layers)

    def __repr__(self) -> str:
        return f"drystone.Cache({len(self.rows.sequences)} sequences of {self._length} positions)"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self._length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self._length + query_length, 0

    def update(self, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            "a drystone.Cache is written to by programs of the optimised model; pass the original model a cache of transformers"
        )

    def reset(self) -> None:
        self.rows, self._length, self.cross = Rows([]), 0, None

    def crop(self, tokens: int) -> None:
        """Forget the last ``-tokens`` positions; or, if positive as in older transformers, all from position ``tokens`` on."""
        removed = -tokens if tokens <= 0 else self._length - tokens
        if removed <= 0:
            return
        removed = min(removed, self._length)
        for row in self.rows.sequences:
            row.crop(max(row.length - removed, 0))
        self._length -= removed

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row ``beam_idx[i]`` was. No page is moved: common ones are shared until one row writes to them."""
        self._select(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._select((indices.nonzero().flatten() if indices.dtype is torch.bool else indices).tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._select([row for row in range(len(self.rows.sequences)) for _ in range(repeats)])

    def _select(self, indices: list[int]) -> None:
        for rows in filter(None, (self.rows, self.cross)):
            rows.select(indices)

    def activate_past_recording(self) -> None:
        """Nothing to do: windows are the attention's, and pages keep what is before them."""

    def early_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: pages come with tokens."""

    @property
    def max_batch_size(self) -> int:
        return len(self.rows.sequences)

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return bool(self.rows.sequences)

    @property
    def is_croppable(self) -> bool:
        return True

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * len(self)

    @property
    def is_linear(self) -> list[bool]:
        return [False] * len(self)

    @property
    def is_dummy(self) -> list[bool]:
        return [False] * len(self)


def _forked(rows: Rows) -> Rows:
    return Rows([sequence.fork() for sequence in rows.sequences])
