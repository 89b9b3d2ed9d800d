"""Saving over what is there: the old one whole or the new one, whoever is killed, and nothing of anybody else's is lost."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from artefacts import FILES
from drystone.artefact import folder


@pytest.fixture(params=["exchange", "two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system's exchange of two names, and as on a file system that has none."""
    if request.param == "two steps":
        exchange_by(monkeypatch, None)
    return str(request.param)


def exchange_by(monkeypatch: pytest.MonkeyPatch, renameat2: Callable[..., int] | None) -> None:
    """The C library's function that exchanges two names is this one, or there is none."""
    library = ctypes.CDLL
    own = SimpleNamespace(**({"renameat2": renameat2} if renameat2 else {}))
    monkeypatch.setattr(ctypes, "CDLL", lambda name, **options: own if name is None else library(name, **options))


def write(path: Path, number: int) -> None:
    """An artefact that says one number in each of its files."""

    def program(weights: Path) -> Any:
        weights.write_text(str(number) * 100)
        return number

    folder.write(path, program, number)


def held(path: Path) -> int:
    program, plan, weights = folder.read(path)
    with weights:
        assert weights.read() == (str(program) * 100).encode() and plan == program, "of two artefacts"
    return int(program)


CHANGES = ("rename", "get_errno", "mkdir", "unlink", "rmdir", "write", "flush", "fsync", "flock", "close")


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Do it in a child that is killed before or after a call that changes something. Whether it was: there are so many steps."""
    child = os.fork()
    if child == 0:
        left = step

        def profile(frame: Any, event: str, called: Any) -> None:
            nonlocal left
            if event in ("c_call", "c_return") and called.__name__ in CHANGES:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(profile)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_killed_at_any_step(tmp_path: Path, way: str) -> None:
    path = tmp_path / "m.drystone"
    write(path, 1)
    step, seen = 0, []
    while killed_at(step, lambda: write(path, 2)):
        seen.append(held(path))
        if step % 4 == 0:  # over what the last ones left
            write(path, 1)
            assert held(path) == 1 and os.listdir(tmp_path) == [path.name], f"left over after step {step}"
            assert sorted(os.listdir(path)) == sorted(FILES)
        step += 1
    assert step > 40 and {1, 2} == set(seen)


def test_the_first_one_killed_at_any_step(tmp_path: Path) -> None:
    path, step = tmp_path / "m.drystone", 0
    while killed_at(step, lambda: write(path, 2)):
        if path.exists():
            assert held(path) == 2
            break
        step += 1
    write(path, 1)
    assert held(path) == 1 and os.listdir(tmp_path) == [path.name]


def test_four_savers_and_a_loader(tmp_path: Path, way: str) -> None:
    path, problems, done = tmp_path / "m.drystone", list[BaseException](), threading.Event()
    write(path, 9)

    def noting(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            problems.append(error)

    def savers(number: int) -> None:
        for _ in range(15):
            write(path, number)

    def loader() -> None:
        while not done.is_set():
            held(path)

    saving = [threading.Thread(target=noting, args=(lambda n=n: savers(n),)) for n in range(1, 5)]  # type: ignore[misc]
    loading = threading.Thread(target=noting, args=(loader,))
    for thread in (loading, *saving):
        thread.start()
    for thread in saving:
        thread.join()
    done.set()
    loading.join()
    assert not problems, problems[0]
    assert held(path) in range(1, 5) and os.listdir(tmp_path) == [path.name]


@pytest.fixture(scope="module")
def fast() -> nn.Module:
    return drystone.optimize(nn.Linear(4, 2).eval(), torch.zeros(1, 4), tuning="estimate")


def test_whole_modules_beside_each_other(tmp_path: Path, fast: nn.Module) -> None:
    path, x, problems = tmp_path / "m.drystone", torch.ones(1, 4), list[BaseException]()
    drystone.save(fast, path)

    def repeat(work: Callable[[], object]) -> None:
        try:
            for _ in range(4):
                work()
        except BaseException as error:
            problems.append(error)

    def loaded() -> None:
        assert torch.equal(drystone.load(path)(x), fast(x))

    works = [*[lambda: drystone.save(fast, path)] * 4, loaded]
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]
    assert os.listdir(tmp_path) == [path.name]


# -- leftovers -----------------------------------------------------------------------------------------------------------


def test_only_our_leftovers_are_swept(tmp_path: Path) -> None:
    path, some = tmp_path / "m", "0123456789abcdef" * 2
    others = (f".m.{some[:-1]}.tmp", f".m.x.{some}.tmp", f".n.{some}.tmp", f"m.{some}.tmp", f".m.{some}.tmp2")
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / f".m.{some[::-1]}.tmp").mkdir()
    (tmp_path / f".m.{some[::-1]}.tmp" / "thesis.txt").write_text("mine")
    (tmp_path / f".m.{'1' * 32}.tmp").write_text("mine")
    (tmp_path / f".m.{'2' * 32}.tmp").symlink_to(tmp_path / others[0])
    write(path, 0)
    kept = set(os.listdir(tmp_path))
    for ending in ("tmp", "old"):
        (tmp_path / f".m.{some}.{ending}").mkdir()
        (tmp_path / f".m.{some}.{ending}" / "weights.safetensors").write_text("half")
    write(path, 1)
    assert set(os.listdir(tmp_path)) == kept


def test_a_save_that_runs_is_not_swept(tmp_path: Path) -> None:
    path = tmp_path / "m"

    def program(weights: Path) -> int:
        weights.write_text("1" * 100)
        write(path, 2)
        assert held(path) == 2
        return 1

    folder.write(path, program, 1)
    assert held(path) == 1 and os.listdir(tmp_path) == ["m"]


def test_long_and_odd_names(tmp_path: Path) -> None:
    for name in ("n" * 250, "é" * 120, "a\nb", ".m.", "[0-9]*", os.fsdecode(b"\xff" * 240)):
        write(tmp_path / name, 1)
        write(tmp_path / name, 2)
        assert held(tmp_path / name) == 2 and os.listdir(tmp_path) == [name]
        for file in FILES:
            os.remove(tmp_path / name / file)
        os.rmdir(tmp_path / name)


# -- what is not ours ----------------------------------------------------------------------------------------------------


def tree(path: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}


def folders_in_the_place_of_files(path: Path) -> None:
    for name in FILES[1:]:
        (path / name).mkdir(parents=True)
        (path / name / "thesis.txt").write_text("mine")
    (path / FILES[0]).write_text("{}")


def changed(how: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        write(path, 1)
        how(path)

    return change


def replaced(path: Path, name: str, by: Callable[[Path], object]) -> None:
    os.remove(path / name)
    by(path / name)


NOT_OURS: dict[str, Callable[[Path], object]] = {
    "folders in the place of files": folders_in_the_place_of_files,
    "one folder in the place of a file": changed(
        lambda path: replaced(path, "plan.json", lambda p: (p / "mine").mkdir(parents=True))
    ),
    "a link in the place of a file": changed(lambda path: replaced(path, "plan.json", lambda p: p.symlink_to("artefact.json"))),
    "a pipe in the place of a file": changed(lambda path: replaced(path, "plan.json", os.mkfifo)),
    "another manifest": changed(lambda path: (path / "artefact.json").write_text('{"kind": "sculpture"}')),
    "a manifest that is none": changed(lambda path: (path / "artefact.json").write_text("[1]")),
    "a manifest of bytes": changed(lambda path: (path / "artefact.json").write_bytes(b"\xff")),
    "no manifest": changed(lambda path: os.remove(path / "artefact.json")),
    "one file more": changed(lambda path: (path / "notes.txt").write_text("mine")),
    "one folder more": changed(lambda path: (path / "mine").mkdir()),
    "a file": lambda path: path.write_text("mine"),
    "a link to an artefact": lambda path: (write(path.parent / "real", 1), path.symlink_to("real")),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("what", NOT_OURS)
def test_what_is_not_ours_is_kept(tmp_path: Path, fast: nn.Module, what: str) -> None:
    path = tmp_path / "m"
    NOT_OURS[what](path)
    pipes = [p for p in path.iterdir() if p.is_fifo()] if path.is_dir() else []
    before = tree(tmp_path) if not pipes else sorted(os.listdir(path))
    with pytest.raises(drystone.ArtefactError, match="not replaced"):
        drystone.save(fast, path)
    assert before == (tree(tmp_path) if not pipes else sorted(os.listdir(path)))


def test_a_file_that_comes_while_saving(tmp_path: Path, way: str) -> None:
    path = tmp_path / "m"
    write(path, 1)

    def program(weights: Path) -> int:
        weights.write_text("")
        (path / "notes.txt").write_text("mine")
        return 2

    with pytest.raises(drystone.ArtefactError, match=f"{path} holds other files"):
        folder.write(path, program, 2)
    assert (path / "notes.txt").read_text() == "mine" and held(path) == 1 and os.listdir(tmp_path) == ["m"]


def test_a_file_that_comes_at_the_last_moment(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, renameat2 = tmp_path / "m", getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    write(path, 1)

    def late(*arguments: Any) -> int:
        (path / "notes.txt").write_text("mine")
        if renameat2 is None:
            ctypes.set_errno(errno.ENOSYS)
            return -1
        return int(renameat2(*arguments))

    exchange_by(monkeypatch, late)
    write(path, 2)
    assert (path / "notes.txt").read_text() == "mine" and held(path) == 2 and os.listdir(tmp_path) == ["m"]


def test_artefacts_of_other_versions_and_empty_folders_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.mkdir()
    write(path, 1)
    manifest = json.loads((path / "artefact.json").read_text())
    (path / "artefact.json").write_text(json.dumps(manifest | {"version": 99}))
    write(path, 2)
    assert held(path) == 2


# -- places that can't be written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", range(5))
def test_a_full_disk_keeps_the_old_one(tmp_path: Path, fast: nn.Module, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    """No room after so many files. (The fifth is the name of the folder, when the new one is whole.)"""
    path, left, fsync = tmp_path / "m", [files], os.fsync
    write(path, 1)

    def failing(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        if files < len(FILES):
            with pytest.raises(drystone.ArtefactError, match="No space left on device; what was there is as it was"):
                drystone.save(fast, path)
            assert held(path) == 1
        else:
            drystone.save(fast, path)
    assert os.listdir(tmp_path) == ["m"]


def test_a_file_in_the_place_of_a_parent(tmp_path: Path, fast: nn.Module) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(drystone.ArtefactError, match="can't be written"):
        drystone.save(fast, tmp_path / "file" / "m")
    assert os.listdir(tmp_path) == ["file"]


def test_a_step_that_fails_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "m", os.rename
    write(path, 1)

    def failing(a: Path, b: Path) -> None:
        if a.suffix == ".tmp" and not b.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(a, b)

    exchange_by(monkeypatch, None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="Input/output"):
            write(path, 2)
    assert held(path) == 1 and os.listdir(tmp_path) == ["m"]


def test_relative_paths_stay_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/deep")
    monkeypatch.chdir(tmp_path)

    def program(weights: Path) -> int:
        weights.write_text("1" * 100)
        os.chdir("/")
        return 1

    folder.write(Path("m"), program, 1)
    os.chdir(tmp_path)
    write(Path("link/../m"), 1)  # beside what the link leads to
    write(Path("new/folders/m"), 1)
    (tmp_path / "here").mkdir()
    os.chdir("here")
    write(Path("."), 1)
    assert all(held(tmp_path / place) == 1 for place in ("m", "a/m", "new/folders/m", "here"))
