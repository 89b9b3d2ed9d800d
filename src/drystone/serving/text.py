"""Text out of tokens, as they come: no half characters, and nothing of what may become a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What tokenizers give for bytes that are no character, or not yet.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """``decode``: a tokenizer's. ``stops``: the text ends before the first of these strings."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, stops
        self._tokens: list[int] = []
        self._begin = self._end = 0  # the last tokens that made text: what follows is decoded together with them
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain with this token, and was not before."""
        self._tokens.append(token)
        text = self._decode(self._tokens[self._begin :])
        return "" if text.endswith(_UNFINISHED) else self._released(text)

    def end(self) -> str:
        """What was held back, after the last token."""
        if self.stopped:
            return ""
        text = self._released(self._decode(self._tokens[self._begin :]))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _released(self, text: str) -> str:
        """``text``: of the tokens from ``_begin`` on."""
        held = self._held + text[len(self._decode(self._tokens[self._begin : self._end])) :]
        self._begin, self._end = self._end, len(self._tokens)
        places = [place for stop in self._stops if (place := held.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return held[: min(places)]
        kept = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]


def _overlap(text: str, stop: str) -> int:
    """The longest end of ``text`` that ``stop`` begins with."""
    return next((count for count in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:count])), 0)
