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
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drystone.artefact.document import MAX_BYTES, entries, parse, require, serialise, text, whole
from drystone.errors import ArtefactError

VERSION = 2
MANIFEST, PROGRAM, PLAN, WEIGHTS = "artefact.json", "program.json", "plan.json", "weights.safetensors"
_FILES = (PROGRAM, PLAN, WEIGHTS)
_KIND = "drystone artefact"


def write(path: Path, program: Callable[[Path], Any], plan: Any) -> None:
    """Write the folder. ``program`` writes the weights to the path that it is given, and gives what program.json holds.

    The folder appears in one step, in the place of an older artefact if there is one. Raises ``OSError`` where it can't be written;
    then nothing of it is left behind.
    """
    path = Path(os.path.abspath(path))
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    fresh.mkdir(parents=True)
    try:
        content = {PROGRAM: serialise(program(fresh / WEIGHTS), PROGRAM), PLAN: serialise(plan, PLAN)}
        (fresh / WEIGHTS).chmod((fresh.stat().st_mode | 0o600) & 0o666)  # safetensors lets only the owner read
        files: dict[str, Any] = {WEIGHTS: {"bytes": (fresh / WEIGHTS).stat().st_size}}
        for name, data in content.items():
            (fresh / name).write_bytes(data)
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (fresh / MANIFEST).write_bytes(serialise({"kind": _KIND, "version": VERSION, "files": files}, MANIFEST))
        _replace(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Raise ``ArtefactError`` unless ``path`` is free, or holds an artefact."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ArtefactError(f"{path} is there and no artefact: it is not replaced; give another path")
    if path.is_dir():
        names = set(os.listdir(path))
        if names and not (MANIFEST in names and names <= {MANIFEST, *_FILES}):
            raise ArtefactError(f"{path} holds other files than an artefact's: it is not replaced; give another path")


def _replace(fresh: Path, path: Path) -> None:
    """POSIX replaces only an empty folder: a full one steps aside, and goes once the new one is there."""
    if not path.is_dir():
        os.rename(fresh, path)
        return
    old = fresh.with_suffix(".old")
    os.rename(path, old)
    try:
        os.rename(fresh, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read(path: Path) -> tuple[Any, Any, Path]:
    """What program.json and plan.json hold, and where the weights are. Raises ``ArtefactError``."""
    require(path.is_dir(), f"{path} is no folder; an artefact is one, as drystone.save writes it")
    kind, version, files = entries(parse(_content(path / MANIFEST, 1 << 16), MANIFEST), MANIFEST, "kind", "version", "files")
    require(kind == _KIND, f"{path / MANIFEST} is of another kind: {kind!r:.80}")
    require(
        type(version) is not int or version >= VERSION,
        f"{path} was made by an older version of drystone (format {version!r:.80}, this one reads {VERSION}): save it again",
    )
    require(
        version == VERSION and type(version) is int, f"the artefact is of version {version!r:.80}; this drystone reads {VERSION}"
    )
    listed = dict(zip(_FILES, entries(files, MANIFEST, *_FILES), strict=True))
    documents = []
    for name in (PROGRAM, PLAN):
        size, sha256 = entries(listed[name], f"{MANIFEST}: {name}", "bytes", "sha256")
        data = _content(path / name, whole(size, name, 0, MAX_BYTES))
        same = len(data) == size and hashlib.sha256(data).hexdigest() == text(sha256, name)
        require(same, f"{path / name} is not the file that was saved: its size or checksum differs")
        documents.append(parse(data, name))
    (size,) = entries(listed[WEIGHTS], f"{MANIFEST}: {WEIGHTS}", "bytes")
    found = _regular(path / WEIGHTS)
    require(found == whole(size, WEIGHTS), f"{path / WEIGHTS} has {found} bytes, and had {size} when it was saved")
    return documents[0], documents[1], path / WEIGHTS


def _regular(path: Path) -> int:
    """The size of a regular file: a link leads out of the folder, and a pipe has no end."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise ArtefactError(f"{path} can't be read: {error.strerror}") from None
    require(stat.S_ISREG(status.st_mode), f"{path} is no regular file")
    return status.st_size


def _content(path: Path, limit: int) -> bytes:
    size = _regular(path)
    require(size <= limit, f"{path} has {size} bytes, more than the {limit} that it may have")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path} can't be read: {error.strerror}") from None
