"""``Answer``: what a pool generates for one request, while it comes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal, NamedTuple

Reason = Literal["stop", "length", "cancelled"]


class Piece(NamedTuple):
    """``text`` is what has become certain with this token: may be empty, or more than the token's own."""

    token: int
    text: str


def _nothing() -> None:
    """There is nothing left to cancel."""


class Answer:
    """A request's tokens as they come: ``for token, text in answer``, or ``async for``. Each loop begins with the first.

    ``text`` is empty where the pool has no tokenizer. ``reason``, at the end: ``"stop"`` for a token or string that ends the text,
    ``"length"`` for ``max_new_tokens``, ``"cancelled"``; None before, and after an error, which loops and ``result`` raise.
    """

    def __init__(self, prompt_tokens: int, on_cancel: Callable[[], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.pieces: list[Piece] = []
        self.reason: Reason | None = None
        self._error: BaseException | None = None
        self._done = False
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._waiting: list[Callable[[], object]] = []  # coroutines, to be woken once

    @property
    def tokens(self) -> list[int]:
        """So far, without the prompt; the one that ended the text among them."""
        return [piece.token for piece in self.pieces]

    @property
    def text(self) -> str:
        """So far, without the string that ended it."""
        return "".join(piece.text for piece in self.pieces)

    def done(self) -> bool:
        return self._done

    def cancel(self) -> None:
        """End it with the next token, and free its part of the cache."""
        self._on_cancel()

    def result(self, timeout: float | None = None) -> list[int]:
        """All tokens, once the last has come. Raises ``TimeoutError`` after ``timeout`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._done, timeout):
                raise TimeoutError(f"no end of the text within {timeout} s")
        self._check()
        return self.tokens

    def __iter__(self) -> Iterator[Piece]:
        place = 0
        while True:
            with self._changed:
                while not self._done and len(self.pieces) == place:
                    self._changed.wait()
                fresh, done = self.pieces[place:], self._done
            yield from fresh
            place += len(fresh)
            if done:
                self._check()
                return

    async def __aiter__(self) -> AsyncIterator[Piece]:
        loop, place = asyncio.get_running_loop(), 0
        while True:
            woken = asyncio.Event()
            with self._changed:
                fresh, done = self.pieces[place:], self._done
                if not fresh and not done:
                    self._waiting.append(lambda woken=woken: loop.call_soon_threadsafe(woken.set))  # type: ignore[misc]
            if not fresh and not done:
                await woken.wait()
                continue
            for piece in fresh:
                yield piece
            place += len(fresh)
            if done:
                self._check()
                return

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancels what is not done."""
        self.cancel()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    # -- the pool's side

    def add(self, piece: Piece) -> None:
        with self._changed:
            self.pieces.append(piece)
            self._wake()

    def finish(self, reason: Reason | None = None, error: BaseException | None = None) -> None:
        with self._changed:
            self.reason, self._error, self._done = reason, error, True
            self._on_cancel = _nothing  # which holds the request
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            with contextlib.suppress(RuntimeError):  # its event loop has been closed
                wake()
