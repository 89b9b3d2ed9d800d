"""``drystone.GenerationPool``: texts of many clients, generated together."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from drystone.errors import InputError, UnsupportedError
from drystone.generation.decoder import CHUNKS
from drystone.generation.loop import highest
from drystone.generation.pages import Rows, Sequence

from .answer import Answer, Piece, Reason
from .beginnings import Beginnings
from .sampler import Sampler
from .service import Request, Service, at_least_one
from .statistics import GenerationStatistics
from .text import TextStream


@dataclass(eq=False)
class _Request(Request):
    prompt: list[int]
    most: int  # tokens to generate
    sampler: Sampler
    text: TextStream | None
    answer: Answer = field(init=False)
    sequence: Sequence | None = None
    cancelled: bool = False

    @property
    def read(self) -> bool:
        """Whether the prompt is in the cache, and so the next call decodes a token."""
        return self.sequence is not None and self.sequence.length >= len(self.prompt)


class GenerationPool(Service[_Request]):
    """Texts for requests of many threads, or of asyncio, by a model that ``drystone.optimize`` gave for a causal language model.

    One call decodes the next token of all of them. They join and leave between tokens; a prompt is read in chunks, one between two
    tokens of the others. Each text is the one that ``generate`` gives for its request alone, up to rounding (a product of
    more rows adds in another order).

        with drystone.GenerationPool(fast, tokenizer) as pool:
            for token, text in pool.submit(ids, max_new_tokens=100):
                print(text, end="", flush=True)

    Args:
        fast: the optimised model.
        tokenizer: of transformers, or whatever has its ``decode``. Without it there are tokens only, and no ``stop_strings``.
        max_batch: how many texts are generated at a time. Others wait, and begin in the order they came.
        chunk: tokens of a prompt that are read between two tokens of the others.
        max_queue: how many requests may wait. Further callers are held until there is room.
        reuse: tokens that stay in the cache when their texts are done, the latest, for texts that begin alike.
        cache_dtype: of keys and values, as of ``drystone.Cache``.

    Raises:
        InputError: an argument is out of range, or the model has no programs for generation.
        UnsupportedError: the model has an encoder.
    """

    def __init__(
        self,
        fast: Any,
        tokenizer: Any = None,
        *,
        max_batch: int = 8,
        chunk: int = 128,
        max_queue: int = 1024,
        reuse: int = 8192,
        cache_dtype: torch.dtype = torch.float32,
    ) -> None:
        at_least_one("GenerationPool", max_batch=max_batch, chunk=chunk, max_queue=max_queue)
        if reuse < 0:
            raise InputError(f"GenerationPool: reuse is {reuse}, and must be 0 at least")
        pages = getattr(fast, "pages_of", None)
        if pages is None:
            raise InputError("GenerationPool: expected a causal language model from drystone.optimize that has programs")
        if fast.config.is_encoder_decoder:
            raise UnsupportedError(
                f"GenerationPool: {type(fast).__name__} has an encoder; call its generate, or serve it by a Pool"
            )
        self._fast, self._tokenizer, self._max_batch, self._chunk = fast, tokenizer, max_batch, chunk
        self._pages = pages(cache_dtype)
        self._beginnings = Beginnings(self._pages, reuse)
        self._running: list[_Request] = []
        self._rows = Rows([])
        super().__init__(max_queue)
        thread = threading.Thread(target=self._run, name="drystone-generation", daemon=True)
        thread.start()
        self._threads.append(thread)

    def submit(
        self,
        prompt: Listed[int] | torch.Tensor,
        *,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        deadline: float | None = None,
        **options: Any,
    ) -> Answer:
        """The answer to a prompt, which comes while you read it. Returns at once, unless the queue is full.

        Args:
            prompt: token ids: a list, or an int64 tensor (T) or (1, T).
            max_new_tokens: Default: as many as the model has positions for.
            seed: of sampling. The same as ``torch.manual_seed(seed)`` before ``generate``; None draws anew each time.
            deadline: seconds within which the computation must have begun.
            options: keywords of ``generate`` for greedy decoding and sampling: ``do_sample``, ``temperature``, ``top_p``,
                ``repetition_penalty``, ``eos_token_id``, ``stop_strings``, …

        Raises:
            InputError: a prompt that is empty, has no such tokens, or is too long for the model; an option that is wrong.
            UnsupportedError: beams, several texts a prompt, and the like.
            TimeoutError: the deadline passed while the queue was full. Passing later, the answer raises it.
            PoolClosedError: the pool is closed.
        """
        request = self._request(prompt, max_new_tokens, seed, deadline, **options)
        self._admit(request)
        return request.answer

    async def submit_async(self, prompt: Listed[int] | torch.Tensor, **how: Any) -> Answer:
        """``submit``, whose wait for room in a full queue leaves the event loop free."""
        request = self._request(prompt, **how)
        try:
            await self._admitted(request)
        except asyncio.CancelledError:
            self._cancel(request)  # it may be admitted later
            raise
        return request.answer

    def prepare(self) -> None:
        """Make the programs of all numbers of texts, and of prompts, which are else made when they are first needed."""
        with torch.no_grad():
            for length in CHUNKS:
                if length <= min(self._chunk, self.positions):
                    self._fast.read_text(Sequence(self._pages), torch.zeros(length, dtype=torch.int64))
            for count in range(1, self._max_batch + 1):
                rows = Rows([Sequence(self._pages) for _ in range(count)])
                self._fast.read_tokens(rows, torch.zeros(count, dtype=torch.int64))

    @property
    def positions(self) -> int:
        """The model's: of a prompt and its answer together, at most."""
        return int(self._fast.positions)

    def statistics(self) -> GenerationStatistics:
        """Counts and latencies."""
        counts = self._recorder.read("requests", "failed", "late", "cancelled", "tokens", "steps", "decoded", "reused")
        return GenerationStatistics(running=len(self._running), queued=len(self._queue), cache_bytes=self._pages.used, **counts)

    def close(self, *, cancel: bool = False) -> None:
        """Refuse new requests, answer those that have come (with ``cancel``: cancel them), and end the thread."""
        if cancel:
            with self._changed:
                self._closed = True
                for request in (*self._queue, *self._running):
                    request.cancelled = True
        super().close()

    # -- requests ------------------------------------------------------------------------------------------------------------

    def _request(
        self,
        prompt: Listed[int] | torch.Tensor,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        deadline: float | None = None,
        **options: Any,
    ) -> _Request:
        end = self._end(deadline)
        ids, positions = _tokens(prompt), self.positions
        vocabulary = self._fast.get_input_embeddings().weight.shape[0]
        if not ids or min(ids) < 0 or max(ids) >= vocabulary:
            raise InputError(f"GenerationPool: expected a prompt of one token at least, each from 0 to {vocabulary - 1}")
        most = max(positions - len(ids), 1) if max_new_tokens is None else max_new_tokens
        at_least_one("GenerationPool", max_new_tokens=most)
        if len(ids) + most > positions:
            raise InputError(
                f"GenerationPool: a prompt of {len(ids)} tokens and {most} new ones, and the model has {positions} positions; "
                "shorten the prompt, or ask for fewer"
            )
        sampler = Sampler(self._fast, ids, most, seed, options)
        if sampler.stops and self._tokenizer is None:
            raise InputError("GenerationPool: stop_strings needs a tokenizer: drystone.GenerationPool(fast, tokenizer)")
        text = None
        if self._tokenizer is not None:
            text = TextStream(partial(self._tokenizer.decode, skip_special_tokens=True), sampler.stops)
        request = _Request(ids, most, sampler, text, deadline=end)
        request.answer = Answer(len(ids), partial(self._cancel, request))
        return request

    def _cancel(self, request: _Request) -> None:
        with self._changed:
            request.cancelled = True
            if request in self._queue:
                self._queue.remove(request)
                self._finish(request, "cancelled")
            self._changed.notify_all()

    # -- the thread ----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        torch.get_num_threads()  # sets this thread's number from that of the process, once
        with torch.no_grad():
            while self._take():
                self._read_prompt()
                self._decode()
        self._beginnings.clear()

    def _take(self) -> bool:
        """Let requests in and out. False once the pool is closed and all are answered."""
        with self._changed:
            while True:
                now = time.monotonic()
                for request in [each for each in self._running if each.cancelled]:
                    self._finish(request, "cancelled")
                for request in [each for each in self._queue if each.cancelled or (each.deadline or now) < now]:
                    self._queue.remove(request)
                    late = TimeoutError("GenerationPool: the deadline passed before the computation began")
                    self._finish(request, "cancelled" if request.cancelled else None, None if request.cancelled else late)
                while self._queue and len(self._running) < self._max_batch:
                    self._running.append(self._queue.popleft())
                self._changed.notify_all()
                if self._running or (self._closed and not self._queue):
                    return bool(self._running)
                self._changed.wait()

    def _read_prompt(self) -> None:
        """A chunk of the prompt that came first."""
        request = next((request for request in self._running if not request.read), None)
        if request is None:
            return
        try:
            if request.sequence is None:
                self._fast.check()
                request.sequence = self._beginnings.begin(request.prompt)
                self._recorder.count(reused=request.sequence.length)
            done = request.sequence.length
            logits = self._fast.read_text(request.sequence, torch.tensor(request.prompt[done : done + self._chunk]))
            if request.read:
                self._recorder.took(time.monotonic() - request.since)
                self._add(request, request.sampler(logits))
        except BaseException as error:
            self._finish(request, error=error)

    def _decode(self) -> None:
        """One token of all whose prompts are read."""
        ready = []
        for request in [request for request in self._running if request.read]:
            try:
                assert request.sequence is not None
                request.sequence.reserve(1)
                ready.append(request)
            except BaseException as error:  # no memory for more
                self._finish(request, error=error)
        if not ready:
            return
        try:
            logits = self._logits(ready)
            largest = highest(logits).tolist() if all(request.sampler.plain for request in ready) else None
        except BaseException as error:
            for request in ready:
                self._finish(request, error=error)
            return
        self._recorder.count(steps=1, decoded=len(ready))
        for row, request in enumerate(ready):
            try:
                self._add(request, request.sampler(logits[row : row + 1]) if largest is None else largest[row])
            except BaseException as error:
                self._finish(request, error=error)

    def _logits(self, ready: list[_Request]) -> torch.Tensor:
        sequences = [request.sequence for request in ready if request.sequence is not None]
        if sequences != self._rows.sequences:
            self._rows = Rows(sequences)
        logits: torch.Tensor = self._fast.read_tokens(
            self._rows, torch.tensor([request.answer.pieces[-1].token for request in ready])
        )
        return logits

    def _add(self, request: _Request, token: int) -> None:
        text = request.text.add(token) if request.text else ""
        reason: Reason | None = None
        if token in request.sampler.ends or (request.text and request.text.stopped):
            reason = "stop"
        elif len(request.answer.pieces) + 1 == request.most:
            reason = "length"
        if reason and request.text:
            text += request.text.end()
        self._recorder.count(tokens=1)
        request.answer.add(Piece(token, text))
        if reason:
            assert request.sequence is not None
            self._beginnings.keep([*request.prompt, *request.answer.tokens], request.sequence)
            self._finish(request, reason)

    def _finish(self, request: _Request, reason: Reason | None = None, error: BaseException | None = None) -> None:
        if request in self._running:
            self._running.remove(request)
        self._rows, request.sequence = Rows([]), None
        if error is not None:
            traceback.clear_frames(error.__traceback__)  # which hold pages as long as somebody holds the error
        outcome = (
            "cancelled"
            if reason == "cancelled"
            else "late"
            if isinstance(error, TimeoutError)
            else "failed"
            if error
            else "requests"
        )
        self._recorder.count(**{outcome: 1})
        request.answer.finish(reason, error)


def _tokens(prompt: Any) -> list[int]:
    if isinstance(prompt, torch.Tensor):
        if prompt.dtype != torch.int64 or prompt.dim() not in (1, 2) or (prompt.dim() == 2 and prompt.shape[0] != 1):
            raise InputError(f"GenerationPool: expected token ids (T) or (1, T), int64, got {prompt.dtype} {tuple(prompt.shape)}")
        return list(prompt.flatten().tolist())
    try:
        return [int(token) for token in prompt]
    except (TypeError, ValueError) as error:
        raise InputError(f"GenerationPool: expected token ids, got {type(prompt).__name__}") from error
