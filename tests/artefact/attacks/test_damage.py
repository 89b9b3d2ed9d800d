"""Artefacts that are cut, changed or put together by someone else: none is loaded, none ends the process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import drystone
from artefacts import DOCUMENTS, FILES, change, header, read, refused, write, write_header

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_empty(path: Path, name: str) -> None:
    (path / name).write_bytes(b"")
    refused(path)
    os.remove(path / name)
    refused(path, "can't be read")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    for length in {1, 7, 8, 9, len(data) // 2, len(data) - 1}:
        (path / name).write_bytes(data[:length])
        refused(path)


def test_weights_that_are_cut_at_each_tensor(path: Path) -> None:
    content, data = header(path)
    for start, stop in (entry["data_offsets"] for entry in content.values()):
        for end in {start, stop - 1}:
            write_header(path, content, data[:end])
            refused(path, "weights")
    write_header(path, content, data + b"more")
    refused(path, "weights")


@pytest.mark.parametrize("name", FILES)
def test_a_bit_that_is_flipped(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    for at in range(0, len(data), max(1, len(data) // 25)):
        for bit in (0, 5):
            (path / name).write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            refused(path)


def test_a_bit_that_is_flipped_in_each_weight(path: Path) -> None:
    content, data = header(path)
    for index in range(len(content)):
        at = content[str(index)]["data_offsets"][0]
        write_header(path, content, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        refused(path, "checksum")


def test_weights_that_are_cut_while_they_are_in_use(path: Path) -> None:
    fast = drystone.load(path)
    x, tokens = torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, dtype=torch.int64)
    os.truncate(path / "weights.safetensors", 4000)
    fast(x, tokens)  # what is packed is in memory
    fast._programs.clear()
    fast._current = None
    with pytest.raises(drystone.ArtefactError):  # packed anew
        fast(x, tokens)


def test_other_things_than_artefacts(tmp_path: Path, path: Path) -> None:
    refused(tmp_path / "nothing", "no folder")
    refused(path / "program.json", "no folder")
    refused(tmp_path)
    os.remove(path / "plan.json")
    os.mkfifo(path / "plan.json")
    refused(path, "regular file")


@pytest.mark.parametrize("name", FILES)
def test_links_lead_out_of_the_folder(path: Path, tmp_path: Path, name: str) -> None:
    os.rename(path / name, tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    refused(path, "regular file")


def test_names_in_the_manifest_are_no_paths(path: Path) -> None:
    for name in ("../program.json", "/etc/passwd", "program.json/../program.json"):
        manifest = read(path, "artefact.json")
        manifest["files"][name] = manifest["files"].pop("program.json")
        write(path, "artefact.json", manifest)
        refused(path, "must have")
        manifest["files"]["program.json"] = manifest["files"].pop(name)
        write(path, "artefact.json", manifest)
    drystone.load(path)


def test_versions_to_come(path: Path) -> None:
    change(path, "artefact.json", lambda manifest: manifest.update(version=3))
    refused(path, "version 3")


def test_versions_of_the_past(path: Path) -> None:
    change(path, "artefact.json", lambda manifest: manifest.update(version=1))
    refused(path, "made by an older version.*save it again")


# -- JSON ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("artefact.json", *DOCUMENTS))
def test_keys_that_are_given_twice(path: Path, name: str) -> None:
    text = json.dumps(read(path, name))
    key = next(iter(read(path, name)))
    write(path, name, b'{"' + key.encode() + b'":0,' + text.encode()[1:])
    refused(path, "twice")


def test_keys_that_are_given_twice_deep_inside(path: Path) -> None:
    data = (path / "program.json").read_bytes()
    assert data.count(b'"groups":1,') > 0
    write(path, "program.json", data.replace(b'"groups":1,', b'"groups":1,"groups":2,', 1))
    refused(path, "twice")


def test_keys_that_are_given_twice_in_the_weights_header(path: Path) -> None:
    content, data = header(path)
    text = json.dumps(content)
    write_header(path, (text[:-1] + f', "0": {json.dumps(content["0"])}}}').encode(), data)
    refused(path, "twice")


DOCUMENT_ATTACKS: dict[str, bytes] = {
    "deep lists": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"0" + b"}" * 100_000,
    "NaN": b'{"a": NaN}',
    "Infinity": b"[-Infinity]",
    "a long number": b"1" * 100_000,
    "a great exponent": b"[1e999999]",
    "no UTF-8": b'{"\xff": 1}',
    "half a surrogate": b'{"call": "\\ud800"}',
    "a zero byte": b"{}\x00",
    "nothing": b"",
    "null": b"null",
    "two documents": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("attack", DOCUMENT_ATTACKS)
def test_documents_that_are_no_documents(path: Path, name: str, attack: str) -> None:
    write(path, name, DOCUMENT_ATTACKS[attack])
    refused(path)


def test_documents_beyond_the_limit(path: Path) -> None:
    write(path, "plan.json", b" " * ((32 << 20) + 1))
    refused(path)


# -- the weights' header -------------------------------------------------------------------------------------------------


def by(step: int, which: int) -> Callable[[Any], None]:
    def move(content: Any) -> None:
        content["1"]["data_offsets"][which] += step

    return move


def swapped(content: Any) -> None:
    content["0"]["data_offsets"], content["1"]["data_offsets"] = content["1"]["data_offsets"], content["0"]["data_offsets"]


HEADER_ATTACKS: dict[str, Callable[[Any], Any]] = {
    "overlapping": by(-4, 0),
    "a gap": by(4, 0),
    "shifted": lambda content: (by(4, 0)(content), by(4, 1)(content)),
    "negative": lambda content: content["0"].update(data_offsets=[-4, 0]),
    "beyond the end": by(1 << 40, 1),
    "beyond 64 bits": by(1 << 64, 1),
    "backwards": lambda content: content["1"]["data_offsets"].reverse(),
    "those of another": swapped,
    "the same twice": lambda content: content.update({"1": content["0"]}),
    "one more": lambda content: content.update({"1000": content["0"]}),
    "one less": lambda content: content.pop("0"),
    "a huge shape": lambda content: content["0"].update(shape=[1 << 62, 4]),
    "a shape that overflows to its size": lambda content: content["0"].update(shape=[1 << 32, 1 << 32, *content["0"]["shape"]]),
    "no shape": lambda content: content["0"].pop("shape"),
    "another dtype": lambda content: content["0"].update(dtype="I32"),
    "no dtype": lambda content: content["0"].update(dtype="F4"),
    "metadata": lambda content: content.update(__metadata__={"run": "me"}),
    "a float": lambda content: content["0"].update(data_offsets=[0.0, 4.0]),
}


@pytest.mark.parametrize("attack", HEADER_ATTACKS)
def test_headers(path: Path, attack: str) -> None:
    content, data = header(path)
    HEADER_ATTACKS[attack](content)
    write_header(path, content, data)
    refused(path)


@pytest.mark.parametrize("length", [0, 1, 7, 1 << 20, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_lengths_of_the_header(path: Path, length: int) -> None:
    data = (path / "weights.safetensors").read_bytes()
    write(path, "weights.safetensors", length.to_bytes(8, "little") + data[8:])
    refused(path)
