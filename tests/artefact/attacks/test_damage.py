"""Artefacts that are cut, changed or put together by someone else: none is loaded, none ends the process."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import drystone
from artefacts import DOCUMENTS, FILES, change, header, read, refused, write, write_header
from drystone.preparer import programs_of

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen")


# What is said of each file: the manifest is read, documents are held against their checksums, and weights are checked one by one.
SHORTER = {name: "size or checksum differs" for name in FILES} | {
    "artefact.json": "can't be read",
    "weights.safetensors": "bytes, and had",
}
CHANGED = {name: "size or checksum differs" for name in FILES} | {
    "artefact.json": "can't be read|of another kind|version|must have|bytes, and had|size or checksum differs",
    "weights.safetensors": "its checksum differs|the weights' ",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_empty(path: Path, name: str) -> None:
    (path / name).write_bytes(b"")
    refused(path, SHORTER[name])
    os.remove(path / name)
    refused(path, "can't be read")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    for length in {1, 7, 8, 9, len(data) // 2, len(data) - 1}:
        (path / name).write_bytes(data[:length])
        refused(path, SHORTER[name])


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
            refused(path, CHANGED[name])


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
    programs_of(fast).clear()
    with pytest.raises(drystone.ArtefactError, match="the weights end within"):  # packed anew
        fast(x, tokens)


def test_other_things_than_artefacts(tmp_path: Path, path: Path) -> None:
    refused(tmp_path / "nothing", "no folder")
    refused(path / "program.json", "no folder")
    refused(tmp_path, "artefact.json can't be read")
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
    change(path, "artefact.json", lambda manifest: manifest.update(version=7))
    refused(path, "version 7")


def test_versions_of_the_past(path: Path) -> None:
    change(path, "artefact.json", lambda manifest: manifest.update(version=5))
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


DOCUMENT_ATTACKS: dict[str, tuple[bytes, str]] = {
    "deep lists": (b"[" * 200_000 + b"]" * 200_000, "can't be read: maximum recursion depth"),
    "deep objects": (b'{"a":' * 100_000 + b"0" + b"}" * 100_000, "can't be read: maximum recursion depth"),
    "NaN": (b'{"a": NaN}', "can't be read: NaN is no JSON"),
    "Infinity": (b"[-Infinity]", "can't be read: -Infinity is no JSON"),
    "a long number": (b"1" * 100_000, "can't be read: Exceeds the limit|is no object"),
    "a great exponent": (b"[1e999999]", "is no object"),
    "no UTF-8": (b'{"\xff": 1}', "can't be read: 'utf-8' codec"),
    "half a surrogate": (b'{"call": "\\ud800"}', "must have .*, and has 'call'"),
    "a zero byte": (b"{}\x00", "can't be read: Extra data"),
    "nothing": (b"", "can't be read: Expecting value"),
    "null": (b"null", "is no object"),
    "two documents": (b"{}{}", "can't be read: Extra data"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "can't be read: Unexpected UTF-8 BOM"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("attack", DOCUMENT_ATTACKS)
def test_documents_that_are_no_documents(path: Path, name: str, attack: str) -> None:
    data, message = DOCUMENT_ATTACKS[attack]
    write(path, name, data)
    refused(path, message)


def test_documents_beyond_the_limit(path: Path) -> None:
    write(path, "plan.json", b" " * ((32 << 20) + 1))
    refused(path, "33554433 is no integer from 0 to 33554432")


# -- the weights' header -------------------------------------------------------------------------------------------------


def by(step: int, which: int) -> Callable[[Any], None]:
    def move(content: Any) -> None:
        content["1"]["data_offsets"][which] += step

    return move


def swapped(content: Any) -> None:
    content["0"]["data_offsets"], content["1"]["data_offsets"] = content["1"]["data_offsets"], content["0"]["data_offsets"]


HEADER_ATTACKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "overlapping": (by(-4, 0), "the weights' 1 has 68 bytes"),
    "a gap": (by(4, 0), "the weights' 1 has 60 bytes"),
    "shifted": (lambda content: (by(4, 0)(content), by(4, 1)(content)), "the weights overlap or leave a gap before"),
    "negative": (lambda content: content["0"].update(data_offsets=[-4, 0]), "the weights' 0: -4 is no integer"),
    "beyond the end": (by(1 << 40, 1), "the weights' 1 has 1099511627840 bytes"),
    "beyond 64 bits": (by(1 << 64, 1), "the weights' 1: 18446744073709553408 is no integer"),
    "backwards": (lambda content: content["1"]["data_offsets"].reverse(), "the weights' 1 has -64 bytes"),
    "those of another": (swapped, "the weights' 0 has 64 bytes"),
    "the same twice": (lambda content: content.update({"1": content["0"]}), "the weights' 1 is F32 [16, 3, 3, 3], and constant 1"),
    "one more": (lambda content: content.update({"1000": content["0"]}), "the weights hold tensors that no constant names"),
    "one less": (lambda content: content.pop("0"), "the weights lack constant 0"),
    "a huge shape": (
        lambda content: content["0"].update(shape=[1 << 62, 4]),
        "the weights' 0 is F32 [4611686018427387904, 4], and constant 0",
    ),
    "a shape that overflows to its size": (
        lambda content: content["0"].update(shape=[1 << 32, 1 << 32, *content["0"]["shape"]]),
        "the weights' 0 is F32 [4294967296, 4294967296, 16, 3, 3, 3], and constant 0",
    ),
    "no shape": (lambda content: content["0"].pop("shape"), "the weights' 0 must have dtype, shape, data_offsets"),
    "another dtype": (lambda content: content["0"].update(dtype="I32"), "the weights' 0 is I32 [16, 3, 3, 3], and constant 0"),
    "no dtype": (lambda content: content["0"].update(dtype="F4"), "the weights' 0 is F4 [16, 3, 3, 3], and constant 0"),
    "metadata": (lambda content: content.update(__metadata__={"run": "me"}), "the weights' header has metadata"),
    "a float": (lambda content: content["0"].update(data_offsets=[0.0, 4.0]), "the weights' 0: 0.0 is no integer"),
}


@pytest.mark.parametrize("attack", HEADER_ATTACKS)
def test_headers(path: Path, attack: str) -> None:
    content, data = header(path)
    how, message = HEADER_ATTACKS[attack]
    how(content)
    write_header(path, content, data)
    refused(path, re.escape(message))


@pytest.mark.parametrize("length", [0, 1, 7, 1 << 20, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_lengths_of_the_header(path: Path, length: int) -> None:
    data = (path / "weights.safetensors").read_bytes()
    write(path, "weights.safetensors", length.to_bytes(8, "little") + data[8:])
    refused(path, "header can't be read" if length < 8 else "header is longer than the file")
