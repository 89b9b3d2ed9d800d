"""The tuning cache: what is put is got again, in the next process too, and no file can make it fail."""

import json
import math
import os
import threading
import warnings
from pathlib import Path

import pytest

from drystone.errors import DrystoneWarning
from drystone.plan.tuning_cache import TuningCache

ENVIRONMENT = {"cpu": "Some CPU", "threads": "2", "isa": "avx512", "torch": "2.13.0"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    monkeypatch.delenv("DRYSTONE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DrystoneWarning)
        yield


def saved(folder: Path, **seconds: float) -> Path:
    cache = TuningCache(ENVIRONMENT, folder)
    for key, value in seconds.items():
        cache.put(key, value)
    cache.save()
    assert cache.path is not None
    return cache.path


def test_what_is_saved_is_got_again(tmp_path):
    path = saved(tmp_path / "not" / "yet", a=1e-3, b=0.0)
    cache = TuningCache(dict(reversed(ENVIRONMENT.items())), tmp_path / "not" / "yet")
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1e-3, 0.0, None, 2)
    assert os.listdir(path.parent) == [path.name]  # no temporary file is left


def test_nothing_touches_the_disk_before_it_must(tmp_path):
    folder = tmp_path / "cache"
    cache = TuningCache(ENVIRONMENT, folder)
    assert cache.get("a") is None
    cache.save()
    cache.put("a", 1.0)
    assert not folder.exists()
    assert TuningCache(ENVIRONMENT, folder).get("a") is None
    cache.save()
    before = cache.path.stat().st_mtime_ns, cache.path.stat().st_ino
    cache.save()
    assert (cache.path.stat().st_mtime_ns, cache.path.stat().st_ino) == before


def test_the_file_is_read_at_the_first_use_not_before(tmp_path):
    cache = TuningCache(ENVIRONMENT, tmp_path)
    saved(tmp_path, a=1.0)
    assert cache.get("a") == 1.0


def test_environments_are_kept_apart(tmp_path):
    path = saved(tmp_path, a=1.0)
    other = TuningCache({**ENVIRONMENT, "threads": "4"}, tmp_path)
    assert other.path != path
    assert other.get("a") is None


def test_processes_that_write_in_turn_lose_nothing(tmp_path):
    first, second = TuningCache(ENVIRONMENT, tmp_path), TuningCache(ENVIRONMENT, tmp_path)
    for cache in (first, second):
        assert len(cache) == 0
    first.put("a", 1.0)
    first.put("both", 1.0)
    second.put("b", 2.0)
    second.put("both", 2.0)
    first.save()
    second.save()
    assert second.get("a") == 1.0  # it learns what the other wrote
    third = TuningCache(ENVIRONMENT, tmp_path)
    assert (third.get("a"), third.get("b"), third.get("both")) == (1.0, 2.0, 2.0)
    first.put("c", 3.0)
    first.save()
    assert TuningCache(ENVIRONMENT, tmp_path).get("both") == 2.0  # not put back to what it was


MOST_ENTRIES, MOST_BYTES = 200_000, 64 << 20  # of a file


def test_the_oldest_entries_are_dropped(tmp_path):
    others = {str(i): 1.0 for i in range(MOST_ENTRIES - 3)}
    saved(tmp_path, a=1.0).write_bytes(document(seconds={"a": 1.0, "b": 2.0, "c": 3.0} | others))
    saved(tmp_path, a=4.0, d=5.0)
    cache = TuningCache(ENVIRONMENT, tmp_path)
    assert [cache.get(key) for key in "abcd"] == [4.0, None, 3.0, 5.0] and len(cache) == MOST_ENTRIES


def test_a_file_never_outgrows_what_is_read(tmp_path):
    path = saved(tmp_path, **{f"{i:0100000}": 1.0 for i in range(700)})
    assert 1 << 20 < path.stat().st_size <= MOST_BYTES
    cache = TuningCache(ENVIRONMENT, tmp_path)
    assert cache.get(f"{699:0100000}") == 1.0
    assert cache.get(f"{0:0100000}") is None


def document(**changes) -> bytes:
    return json.dumps({"version": 1, "environment": ENVIRONMENT, "seconds": {"a": 1.0}, **changes}).encode()


HOSTILE = {
    "empty": b"",
    "truncated": document()[:-5],
    "binary": bytes(range(256)),
    "not an object": b"[1, 2]",
    "a number": b"1",
    "nested too deep": b"[" * 1_000_000,
    "another version": document(version=2),
    "no version": b"{}",
    "another environment": document(environment={}),
    "a list of times": document(seconds=[1.0]),
    "no times": document(seconds=None),
    "a string": document(seconds={"a": "1.0"}),
    "a bool": document(seconds={"a": True}),
    "a null": document(seconds={"a": None}),
    "a list": document(seconds={"a": [1.0]}),
    "NaN": document(seconds={"a": math.nan}),
    "infinite": document(seconds={"a": math.inf}),
    "negative": document(seconds={"a": -1e-9}),
    "huge": document(seconds={"a": 1e30}),
    "a huge integer": document(seconds={"a": 10**4000}),
    "an integer of too many digits": b'{"version": 1' + b"0" * 10_000 + b"}",
    "one bad among good": document(seconds={"a": 1.0, "b": -1.0}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_cannot_be_used_is_warned_about_once_and_rebuilt(tmp_path, content):
    path = saved(tmp_path, a=1.0)
    path.write_bytes(content)
    cache = TuningCache(ENVIRONMENT, tmp_path)
    with pytest.warns(DrystoneWarning, match="it is rebuilt") as record:
        assert cache.get("a") is None
    assert len(record) == 1
    assert str(path) in str(record[0].message)
    cache.put("c", 2.0)
    cache.save()  # reads the file again, and says nothing again
    assert cache.get("c") == 2.0
    rebuilt = TuningCache(ENVIRONMENT, tmp_path)
    assert (rebuilt.get("c"), len(rebuilt)) == (2.0, 1)


def test_the_well_formed_document_is_read(tmp_path):
    """The hostile files above differ from one that is read by their fault only."""
    saved(tmp_path, a=3.0).write_bytes(document())
    assert TuningCache(ENVIRONMENT, tmp_path).get("a") == 1.0


def test_too_large_a_file_is_not_read(tmp_path):
    os.truncate(saved(tmp_path, a=1.0), MOST_BYTES + 1)
    with pytest.warns(DrystoneWarning, match=f"larger than {MOST_BYTES} bytes"):
        assert TuningCache(ENVIRONMENT, tmp_path).get("a") is None


def test_too_many_entries_are_not_read(tmp_path):
    saved(tmp_path, a=1.0).write_bytes(document(seconds={"a": 1.0} | {str(i): 1.0 for i in range(MOST_ENTRIES)}))
    with pytest.warns(DrystoneWarning, match="rebuilt"):
        assert TuningCache(ENVIRONMENT, tmp_path).get("a") is None


def test_a_pipe_in_place_of_the_file_does_not_block(tmp_path):
    path = saved(tmp_path, a=1.0)
    path.unlink()
    os.mkfifo(path)
    with pytest.warns(DrystoneWarning, match="not a regular file"):
        assert TuningCache(ENVIRONMENT, tmp_path).get("a") is None


def test_a_folder_in_place_of_the_file(tmp_path):
    path = saved(tmp_path, a=1.0)
    path.unlink()
    path.mkdir()
    cache = TuningCache(ENVIRONMENT, tmp_path)
    with pytest.warns(DrystoneWarning, match="not a regular file"):
        cache.put("a", 1.0)
    with pytest.warns(DrystoneWarning, match="cannot be written"):
        cache.save()
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_cannot_be_written_to_is_warned_about_once(tmp_path):
    """A file in place of the folder: this holds for root as well, whom permissions do not stop."""
    (tmp_path / "file").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = TuningCache(ENVIRONMENT, tmp_path / "file")
        cache.put("a", 1.0)
    with pytest.warns(DrystoneWarning, match="cannot be written") as record:
        cache.save()
        cache.save()
    assert len(record) == 1
    assert cache.get("a") == 1.0


def test_a_failed_write_leaves_the_old_file_and_is_made_good_later(tmp_path, monkeypatch):
    path = saved(tmp_path, a=1.0)
    cache = TuningCache(ENVIRONMENT, tmp_path)
    cache.put("b", 2.0)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.warns(DrystoneWarning, match="disk full"):
            cache.save()
    assert os.listdir(tmp_path) == [path.name]
    assert TuningCache(ENVIRONMENT, tmp_path).get("a") == 1.0
    cache.save()
    assert TuningCache(ENVIRONMENT, tmp_path).get("b") == 2.0


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e30])
def test_what_is_no_time_is_refused(tmp_path, seconds):
    with pytest.raises(ValueError, match="not a time"):
        TuningCache(ENVIRONMENT, tmp_path).put("a", seconds)


def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert TuningCache(ENVIRONMENT).path.parent == tmp_path / "home" / ".cache" / "drystone"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert TuningCache(ENVIRONMENT).path.parent == tmp_path / "home" / ".cache" / "drystone"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert TuningCache(ENVIRONMENT).path.parent == tmp_path / "xdg" / "drystone"
    monkeypatch.setenv("DRYSTONE_CACHE", str(tmp_path / "own"))
    assert TuningCache(ENVIRONMENT).path.parent == tmp_path / "own"
    assert TuningCache(ENVIRONMENT, tmp_path / "given").path.parent == tmp_path / "given"


@pytest.mark.parametrize("given", [True, False])
def test_off_keeps_it_in_memory(tmp_path, monkeypatch, given):
    monkeypatch.setenv("DRYSTONE_CACHE", "off")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cache = TuningCache(ENVIRONMENT, tmp_path if given else None)
    cache.put("a", 1.0)
    cache.save()
    assert cache.path is None
    assert cache.get("a") == 1.0
    assert not os.listdir(tmp_path)


def test_threads_share_it(tmp_path):
    cache = TuningCache(ENVIRONMENT, tmp_path)
    start = threading.Barrier(8)
    faults = []

    def work(thread: int) -> None:
        start.wait()
        try:
            for i in range(50):
                cache.put(f"{thread} {i}", i * 1e-6)
                assert cache.get(f"{thread} {i}") == i * 1e-6
                if i % 10 == 9:
                    cache.save()
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(TuningCache(ENVIRONMENT, tmp_path)) == 8 * 50
