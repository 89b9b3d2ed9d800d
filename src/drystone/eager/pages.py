"""Memory of large tensors used again: an allocator for torch that keeps what is freed, up to a bound."""

from __future__ import annotations

import os
import warnings

import psutil

from drystone import native
from drystone.eager import operators
from drystone.errors import DrystoneWarning, InputError


def limit() -> int:
    """Bytes that may wait for use: ``DRYSTONE_PAGES`` megabytes, or an eighth of the machine's memory, at most 2 GB."""
    chosen = os.environ.get("DRYSTONE_PAGES")
    if chosen is None:
        return min(psutil.virtual_memory().total // 8, 2 << 30)
    try:
        megabytes = int(chosen)
    except ValueError:
        megabytes = -1
    if megabytes < 0:
        raise InputError(f"DRYSTONE_PAGES is {chosen!r}: expected a number of megabytes, 0 for no reuse of pages")
    return megabytes << 20


def turn(on: bool) -> None:
    """Large CPU tensors from now on reuse the memory of earlier ones; or all is the C library's again."""
    if not on or (bound := limit()) == 0:
        native.release_pages()
    elif operators.why_not() is None and not native.keep_pages(bound):
        warnings.warn("pages are not reused: torch's allocator is not one that drystone knows", DrystoneWarning, stacklevel=4)


def state() -> native.PageState:
    """Whether pages are reused, how many bytes wait for use, and what was served from them."""
    return native.page_state()
