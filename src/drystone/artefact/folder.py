"""The folder of an artefact: written whole or not at all, and read with every file held against the manifest.

::

    model.drystone/
        artefact.json          what this is, and the size and checksum of the files beside it
        program.json           graphs, and how they are called
        plan.json              what was chosen for them on this machine, and the times that were measured
        weights.safetensors    constants
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from drystone.artefact import replace
from drystone.artefact.document import MAX_BYTES, entries, parse, require, serialise, text, whole
from drystone.errors import ArtefactError

VERSION = 6
MANIFEST, PROGRAM, PLAN, WEIGHTS = "artefact.json", "program.json", "plan.json", "weights.safetensors"
NAMES = (MANIFEST, PROGRAM, PLAN, WEIGHTS)
MAX_MANIFEST = 1 << 16
MAX_TRIES = 1000  # of a reader, while others replace what it reads
_KIND = "drystone artefact"
_EXPECTED = "an artefact is one, as drystone.save writes it"


def write(path: Path, program: Callable[[Path], Any], plan: Any) -> None:
    """Write the folder. ``program`` writes the weights to the path that it is given, and gives what program.json holds.

    The folder appears in one step, in the place of an older artefact if there is one. Raises ``OSError`` where it can't be written;
    then nothing of it is left behind.
    """
    path = replace.absolute(path)
    with replace.beside(path, NAMES) as fresh:
        content = {PROGRAM: serialise(program(fresh / WEIGHTS), PROGRAM), PLAN: serialise(plan, PLAN)}
        files: dict[str, Any] = {WEIGHTS: {"bytes": (fresh / WEIGHTS).stat().st_size}}
        for name, data in content.items():
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        content[MANIFEST] = serialise({"kind": _KIND, "version": VERSION, "files": files}, MANIFEST)
        for name, data in content.items():
            with open(fresh / name, "wb") as file:
                file.write(data)
                flush(file)
        replace.sync(fresh)
        replace.put(fresh, path, NAMES, check_replaceable)


def flush(file: BinaryIO) -> None:
    """Wait until it is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def check_replaceable(path: Path) -> None:
    """Raise ``ArtefactError`` unless ``path`` is free, an empty folder, or an artefact's and nothing else's."""
    while (before := _identity(path)) is not None:
        with suppress(FileNotFoundError):  # another saver has it aside for a moment
            problem = _problem(path)
            if problem is None:
                return
            if _identity(path) == before:  # nobody replaced it in the meantime
                raise ArtefactError(f"{path} {problem}: it is not replaced; give another path")


def _problem(path: Path) -> str | None:
    """Why what is there is not to be replaced, or None."""
    if path.is_symlink() or not path.is_dir():
        return "is there and no artefact"
    if os.listdir(path) and not (replace.holds_only(path, NAMES) and _is_artefact(path)):
        return "holds other files than an artefact's"
    return None


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _is_artefact(path: Path) -> bool:
    """Whether its manifest says so, in whatever version."""
    try:
        with open(path / MANIFEST, "rb") as file:
            manifest = parse(_content(file, MAX_MANIFEST), MANIFEST)
    except (ArtefactError, OSError):
        return False
    return type(manifest) is dict and manifest.get("kind") == _KIND


def read(path: Path) -> tuple[Any, Any, BinaryIO]:
    """What program.json and plan.json hold, and the weights. Raises ``ArtefactError``."""
    manifest, *documents, weights = _opened(path)
    kind, version, files = entries(parse(_content(manifest, MAX_MANIFEST), MANIFEST), MANIFEST, "kind", "version", "files")
    require(kind == _KIND, f"{manifest.name} is of another kind: {kind!r:.80}")
    require(
        type(version) is not int or version >= VERSION,
        f"{path} was made by an older version of drystone (format {version!r:.80}, this one reads {VERSION}): save it again",
    )
    require(
        version == VERSION and type(version) is int, f"the artefact is of version {version!r:.80}; this drystone reads {VERSION}"
    )
    program_entry, plan_entry, weights_entry = entries(files, MANIFEST, PROGRAM, PLAN, WEIGHTS)
    contents = []
    for name, entry, file in zip((PROGRAM, PLAN), (program_entry, plan_entry), documents, strict=True):
        size, sha256 = entries(entry, f"{MANIFEST}: {name}", "bytes", "sha256")
        data = _content(file, whole(size, name, 0, MAX_BYTES))
        same = len(data) == size and hashlib.sha256(data).hexdigest() == text(sha256, name)
        require(same, f"{file.name} is not the file that was saved: its size or checksum differs")
        contents.append(parse(data, name))
    (size,) = entries(weights_entry, f"{MANIFEST}: {WEIGHTS}", "bytes")
    found = os.fstat(weights.fileno()).st_size
    require(found == whole(size, WEIGHTS), f"{weights.name} has {found} bytes, and had {size} when it was saved")
    return contents[0], contents[1], weights


def _opened(path: Path) -> list[BinaryIO]:
    """The four files of one artefact, also where another takes its place in the meantime."""
    for tries_left in reversed(range(MAX_TRIES)):
        place = replace.aside(path) or path
        try:
            folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            between = isinstance(error, FileNotFoundError) and (path.exists() or replace.leftovers(path))
            if between and tries_left:
                continue
            require(not isinstance(error, (FileNotFoundError, NotADirectoryError)), f"{path} is no folder; {_EXPECTED}")
            raise ArtefactError(f"{path} can't be read: {error.strerror}") from None
        try:
            return [_regular(path / name, folder) for name in NAMES]
        except ArtefactError:
            # One that is aside may be on its way out: its files go before it does.
            if (place == path and replace.is_at(folder, path)) or not tries_left:
                raise
        finally:
            os.close(folder)
    raise AssertionError("the last try returns or raises")


def _regular(path: Path, folder: int) -> BinaryIO:
    """A regular file, open: a link leads out of the folder, and a pipe has no end."""
    try:
        status = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        require(stat.S_ISREG(status.st_mode), f"{path} is no regular file")
        flags = os.O_NOFOLLOW | os.O_NONBLOCK
        return open(path, "rb", opener=lambda _, mode: os.open(path.name, mode | flags, dir_fd=folder))
    except OSError as error:
        raise ArtefactError(f"{path} can't be read: {error.strerror}") from None


def _content(file: BinaryIO, limit: int) -> bytes:
    size = os.fstat(file.fileno()).st_size
    require(size <= limit, f"{file.name} has {size} bytes, more than the {limit} that it may have")
    try:
        with file:
            return file.read(limit + 1)
    except OSError as error:
        raise ArtefactError(f"{file.name} can't be read: {error.strerror}") from None
