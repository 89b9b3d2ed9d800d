"""Memory of large tensors used again: an allocator for torch that keeps what is freed, up to a bound."""

from __future__ import annotations

import os

import psutil

from drystone import native
from drystone.errors import InputError


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


def can_be_kept() -> bool:
    """Whether torch's allocator is one that drystone knows."""
    return native.can_keep_pages()


def keep(limit: int) -> None:
    """Large CPU tensors from now on reuse the memory of earlier ones, of which at most ``limit`` bytes wait."""
    native.keep_pages(limit)


def release() -> None:
    """All is the C library's again."""
    native.release_pages()


def state() -> native.PageState:
    """Whether pages are reused, how many bytes wait for use, and what was served from them."""
    return native.page_state()
