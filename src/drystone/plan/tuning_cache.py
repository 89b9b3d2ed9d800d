"""Measured times, kept on disk, so that a model that was prepared once is prepared again without measuring.

One JSON file per environment, named after a hash of it, in ``$DRYSTONE_CACHE``, ``$XDG_CACHE_HOME/drystone`` or
``~/.cache/drystone``; ``DRYSTONE_CACHE=off`` keeps everything in memory::

    {"version": 1, "environment": {"cpu": "…", "threads": "2", …}, "seconds": {"conv … blocked16": 0.00012, …}}

The file is a cache and nothing else: what cannot be read is warned about and rebuilt, what cannot be written is measured
again next time.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drystone.errors import warn
from drystone.forks import Lock

_VERSION = 1
_MAX_ENTRIES = 200_000
_MAX_FILE_BYTES = 64 * 2**20
# No step of a program takes this long; a file that says so is damaged.
_MAX_SECONDS = 3600.0

_writing = Lock()  # one cache of this process writes what it has read at a time


class TuningCache:
    """Seconds by key, for one ``environment`` (CPU model, threads, ISA cap, library versions …). Safe to share by threads.

    The file is read at the first ``get``, ``put`` or ``len``, and written by ``save`` only. ``path`` is None where there is
    no file: with ``DRYSTONE_CACHE=off``, which holds even when a ``folder`` is given, or when no home folder is known.
    """

    def __init__(self, environment: dict[str, str], folder: Path | None = None) -> None:
        self.environment = dict(environment)
        folder = cache_folder(folder)
        self.path: Path | None = None if folder is None else folder / f"tuning-{_digest(self.environment)}.json"
        self._lock = Lock(reentrant=True)
        self._seconds: dict[str, float] | None = None
        self._unsaved: dict[str, float] = {}
        self._warned: set[str] = set()

    @classmethod
    def in_memory(cls) -> TuningCache:
        """One without a file, for times that come from elsewhere."""
        cache = cls({})
        cache.path = None
        return cache

    def __len__(self) -> int:
        with self._lock:
            return len(self._loaded())

    def get(self, key: str) -> float | None:
        """The seconds last put under ``key``, or None."""
        with self._lock:
            return self._loaded().get(key)

    def put(self, key: str, seconds: float) -> None:
        """Keep a time. Raises ``ValueError`` if ``seconds`` is not a number between 0 and an hour."""
        seconds = float(seconds)
        if not 0.0 <= seconds <= _MAX_SECONDS:
            raise ValueError(f"not a time that a step can take: {seconds} s for {key!r}")
        with self._lock:
            _append(self._loaded(), {key: seconds})
            _append(self._unsaved, {key: seconds})

    def save(self) -> None:
        """Write what was put since the last ``save``, together with what other processes wrote meanwhile.

        The file is replaced in one step, so readers see the old one or the new one whole. Two processes that save in the
        same instant may lose the entries of one: these are measured again. A folder that cannot be written to is warned
        about once.
        """
        with self._lock, _writing:
            if not self._unsaved or self.path is None:
                return
            merged = dict(self._loaded())
            _append(merged, self._read())
            _append(merged, self._unsaved)
            try:
                _replace(self.path, self._serialise(merged))
            except OSError as error:
                self._warn("write", f"The tuning cache {self.path} cannot be written ({error}): times will be measured again.")
                return
            self._seconds, self._unsaved = merged, {}

    def _loaded(self) -> dict[str, float]:
        if self._seconds is None:
            # Set first: the warning may be turned into an error, and must not come again at each call.
            self._seconds = {}
            self._seconds.update(self._read())
        return self._seconds

    def _read(self) -> dict[str, float]:
        """The entries on disk; none, with a warning, if the file is not one that ``save`` could have written."""
        if self.path is None:
            return {}
        try:
            return _parse(_read_regular_file(self.path), self.environment)
        except FileNotFoundError:
            return {}
        # json raises RecursionError for a deeply nested file.
        except (OSError, ValueError, RecursionError) as error:
            self._warn("read", f"The tuning cache {self.path} cannot be used ({error}): it is rebuilt.")
            return {}

    def _serialise(self, seconds: dict[str, float]) -> bytes:
        """The file's content. Drops the oldest entries, in ``seconds`` too, where there are more than a file may have."""
        keep = _MAX_ENTRIES
        while True:
            for key in list(seconds)[: max(0, len(seconds) - keep)]:
                del seconds[key]
            content = {"version": _VERSION, "environment": self.environment, "seconds": seconds}
            data = json.dumps(content, allow_nan=False).encode("ascii")
            if len(data) <= _MAX_FILE_BYTES or not seconds:
                return data
            keep = len(seconds) // 2

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warn(message)


def cache_folder(given: Path | None = None) -> Path | None:
    """Where tuning caches lie, or None where none are kept. ``given``: another place than the user's."""
    variable = os.environ.get("DRYSTONE_CACHE", "")
    if variable.lower() == "off":
        return None
    try:
        if given is not None or variable:
            return Path(given or variable).expanduser()
        # The XDG specification: a relative path there is to be ignored.
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (base if base.is_absolute() else Path.home() / ".cache") / "drystone"
    except RuntimeError:  # no home folder can be found
        return None


@dataclass(frozen=True)
class CacheFile:
    """A tuning cache on disk. ``environment`` and ``entries`` are empty where it can't be read."""

    path: Path
    environment: dict[str, str]
    entries: int
    bytes: int


def cache_files(folder: Path) -> list[CacheFile]:
    """The tuning caches in ``folder``, the last written first."""
    found = []
    for path in sorted(folder.glob("tuning-*.json"), key=lambda path: path.lstat().st_mtime, reverse=True):
        try:
            data = _read_regular_file(path)
            environment = json.loads(data)["environment"]
            entries = len(_parse(data, environment))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            environment, entries = {}, 0
        found.append(CacheFile(path, environment, entries, path.lstat().st_size))
    return found


def clear(folder: Path) -> list[Path]:
    """Remove the tuning caches in ``folder``, and what a killed process left of one; nothing else. Gives what was removed."""
    ours = [*folder.glob("tuning-*.json"), *folder.glob(".tuning-*.json.*.tmp")]
    for path in ours:
        path.unlink(missing_ok=True)
    return ours


def _digest(environment: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:16]


def _append(entries: dict[str, float], newer: dict[str, float]) -> None:
    """Update ``entries``, moving what is newer to the end: the order is the age."""
    for key, seconds in newer.items():
        entries.pop(key, None)
        entries[key] = seconds


def _read_regular_file(path: Path) -> bytes:
    """The content of a file that may be anything: a pipe, which would block, and an oversized file are refused."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_FILE_BYTES:
        raise ValueError(f"larger than {_MAX_FILE_BYTES} bytes")
    return data


def _parse(data: bytes, environment: dict[str, str]) -> dict[str, float]:
    """The entries of a file's content. Raises ``ValueError`` (or what json raises) unless all of it is as ``save`` writes it."""
    content: Any = json.loads(data)
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise ValueError(f"not a tuning cache of version {_VERSION}")
    if content.get("environment") != environment:
        raise ValueError("written for another environment")
    seconds = content.get("seconds")
    if not isinstance(seconds, dict) or len(seconds) > _MAX_ENTRIES:
        raise ValueError("no table of times, or one too long")
    for key, value in seconds.items():
        # A bool is an int to Python; NaN fails every comparison.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= _MAX_SECONDS:
            raise ValueError(f"the time of {key[:80]!r} is not a number of seconds")
    return {key: float(value) for key, value in seconds.items()}


def _replace(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it into place. Raises ``OSError``, and leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
