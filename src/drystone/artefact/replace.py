"""A folder that takes another's place in one step: whoever is killed, at ``path`` is the old one whole or the new one.

The new one is made beside it, under a name that is recognised and with a lock that ends with its process. What killed processes
leave is swept by the next; what holds anything but an artefact's files is left as it is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# A name in a folder takes 255 bytes at most, and these are longer than the artefact's.
_LONGEST = 200


def absolute(path: Path) -> Path:
    """``path`` from the root: the same place whatever becomes of the working directory. A link at its end stays one."""
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def holds_only(folder: Path, names: tuple[str, ...]) -> bool:
    """Whether it is a folder, no link to one, of regular files of these names or of none."""
    with suppress(OSError):
        found = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(folder)}
        return stat.S_ISDIR(os.lstat(folder).st_mode) and found.keys() <= set(names) and all(found.values())
    return False


@contextmanager
def beside(path: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """A new folder beside ``path``, to be filled with files of these names and ``put`` there. What is left of it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path, names)
    fresh, lock = _locked(path)
    try:
        yield fresh
    finally:
        _remove(fresh, names)
        os.close(lock)


def put(fresh: Path, path: Path, names: tuple[str, ...], check: Callable[[Path], None]) -> None:
    """Move ``fresh`` to ``path``, and what is there to ``fresh``. ``check`` raises where ``path`` is not to be replaced."""
    old = fresh.with_suffix(".old")
    try:
        while not _moved(fresh, path):
            check(path)
            with suppress(FileNotFoundError):  # gone in between
                if _exchange(fresh, path):
                    _keep_others(fresh, path, names)
                    break
                # Two steps are needed. Between them the old folder is aside, where readers look for it.
                _remove(old, names)
                os.rename(path, old)
    finally:
        with suppress(OSError):
            _moved(old, path)  # where the second step failed
        _keep_others(old, path, names)
        _remove(old, names)
    sync(path.parent)


def _keep_others(folder: Path, path: Path, names: tuple[str, ...]) -> None:
    """Move to ``path`` what somebody put in at the last moment."""
    with suppress(OSError):
        for name in set(os.listdir(folder)) - set(names):
            os.rename(folder / name, path / name)


def _moved(folder: Path, path: Path) -> bool:
    """Move it to a free place, or over an empty folder. False where there is something."""
    try:
        os.rename(folder, path)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False


def sync(folder: Path) -> None:
    """Wait until the names in it are on the disk, where the file system can say so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def aside(path: Path) -> Path | None:
    """Where the old folder is, if it has stepped aside and the new one has not taken its place."""
    if os.path.lexists(path):
        return None
    return next((folder for folder in leftovers(path) if _stepped_aside(folder)), None)


def leftovers(path: Path) -> list[Path]:
    """Ours by their names: the new folders of saves, and old ones that have stepped aside."""
    pattern = re.compile(re.escape(_prefix(path)) + r"[0-9a-f]{32}\.(tmp|old)", re.DOTALL)
    with suppress(OSError):
        return [path.with_name(name) for name in sorted(os.listdir(path.parent)) if pattern.fullmatch(name)]
    return []


def is_at(folder: int, path: Path) -> bool:
    """Whether the open folder is the one at ``path``."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(folder), os.stat(path))
    return False


def sweep(path: Path, names: tuple[str, ...]) -> None:
    """Remove what killed processes left beside ``path``, and put back what had stepped aside."""
    for folder in leftovers(path):
        fresh = folder.with_suffix(".tmp")
        lock = _lock(fresh)
        if lock is None and os.path.lexists(fresh):
            continue  # in use
        if _stepped_aside(folder):
            with suppress(OSError):
                _moved(folder, path)
        if holds_only(folder, names):
            _remove(folder, names)
        if lock is not None:
            os.close(lock)


def _stepped_aside(folder: Path) -> bool:
    return folder.suffix == ".old" and os.path.lexists(folder.with_suffix(".tmp"))


def _prefix(path: Path) -> str:
    return f".{os.fsdecode(os.fsencode(path.name)[:_LONGEST])}."


def _locked(path: Path) -> tuple[Path, int]:
    """A new folder and its lock. Another process may take it for a leftover until it is locked: then another is made."""
    while True:
        fresh = path.with_name(f"{_prefix(path)}{uuid.uuid4().hex}.tmp")
        fresh.mkdir()
        with suppress(FileNotFoundError):
            lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # some file systems have no locks: nothing is swept there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.lexists(fresh):
                return fresh, lock
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """The lock of a folder that nobody has."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            os.close(handle)
    return None


def _remove(folder: Path, names: tuple[str, ...]) -> None:
    """Only files of these names, and the folder where nothing else is in it."""
    for name in names:
        with suppress(OSError):
            os.unlink(folder / name)
    with suppress(OSError):
        os.rmdir(folder)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step. False where the system or the file system can't."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))
