"""Copies of what ``optimize`` gave, by ``copy`` and ``pickle``: an artefact in memory, and the model beside it."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from drystone.capture.kept_modules import names_of
from drystone.errors import UnsupportedError
from drystone.preparer import programs_of
from drystone.runtime.module import OptimizedModule, interface_of
from drystone.runtime.proxy import Copies
from drystone.saving import Original, load, read, save

__all__ = ["load", "save"]  # a module that was loaded can be copied too


def copied(fast: nn.Module, copy: Callable[[Original], Original]) -> OptimizedModule:
    """Another module with the same programs and with packed weights of its own, on what ``copy`` gives of the model.

    A model that can't be copied stays behind: the copy then is as a module that was loaded.
    """
    files, original = _apart(fast)
    if original is not None:
        try:
            original = copy(original)
        except Exception:  # whatever a model raises where something in it has no copy
            original = None
    return _restored(files, original)


def reduced(fast: nn.Module) -> tuple[Callable[..., OptimizedModule], tuple[Any, ...]]:
    """What pickle stores: the files of an artefact, and the model where it can be pickled."""
    files, original = _apart(fast)
    try:
        pickled = pickle.dumps(original)
    except Exception:  # a class inside of a function, a lock: pickle has no one error for it
        pickled = pickle.dumps(None)
    return _unpickled, (files, pickled)


def _unpickled(files: dict[str, bytes], pickled: bytes) -> OptimizedModule:
    return _restored(files, pickle.loads(pickled))


def _apart(fast: nn.Module) -> tuple[dict[str, bytes], Original | None]:
    """The artefact in memory, and what is to be kept of the model, if it is there."""
    if not isinstance(fast, OptimizedModule):
        raise UnsupportedError(
            f"an optimised {type(fast).__name__} can't be copied or pickled: copy the model and optimise the copy. "
            "What is captured whole can be copied, and kept in a folder by drystone.save and drystone.load"
        )
    with tempfile.TemporaryDirectory(prefix="drystone-") as temporary:
        path = Path(temporary) / "copy"
        save(fast, path)
        files = {file.name: file.read_bytes() for file in path.iterdir()}
    programs, example = programs_of(fast), interface_of(fast).example
    if programs.released or example is None:
        return files, None
    options, watched = programs.options, [name for name, _ in programs.originals.named]
    float32, kept = (names_of(example.model, modules) for modules in (options.float32_modules, options.kept_modules))
    declared = interface_of(fast).declared
    bare = replace(options, float32_modules=(), kept_modules=(), grouped={})
    return files, Original(example, bare, float32, kept, watched, programs.verdict, declared)


def _restored(files: dict[str, bytes], original: Original | None) -> OptimizedModule:
    with tempfile.TemporaryDirectory(prefix="drystone-") as temporary:
        for name, data in files.items():
            (Path(temporary) / name).write_bytes(data)
        return read(Path(temporary), original)  # the weights' file stays open, and is there as long as it is


Copies.copied, Copies.reduced = staticmethod(copied), staticmethod(reduced)
