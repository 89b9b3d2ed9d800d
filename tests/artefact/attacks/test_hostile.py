"""Whole artefacts whose checksums are right and whose content is not, beside those of one fault each (test_document_checks.py)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

import drystone
from artefacts import change, copied, header, read, refused, write_header

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen")
HUGE = (2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**64, -1, -(2**63), 10**40)


def all_shapes(program: Any) -> list[list[Any]]:
    graph = program["programs"][0]["graph"]
    return [*graph["inputs"], *(output for entry in graph["nodes"] for output in entry["outputs"])]


OF_ATEN = "the result is"
OTHER_SIZE = f"is not the result of|does not fit the output|does not expand to|do not broadcast|differ in their elements|{OF_ATEN}"


def message_of_size(size: int) -> str:
    if size in (0, 3):
        return OTHER_SIZE if size else f"has no empty tensors|{OF_ATEN}"
    return f"this machine has|{OTHER_SIZE}" if size == HUGE[0] else f"{size} is no integer from 0 to {HUGE[0]}"


def test_each_size_of_each_shape(path: Path, original: Path) -> None:
    """Every size is that of its operands: changed alone, none passes."""
    count = len(all_shapes(read(original, "program.json")))
    for index in range(0, count, 3):
        rank = len(all_shapes(read(original, "program.json"))[index][2])
        for axis, size in ((index % rank, HUGE[index % len(HUGE)]), (-1, 3), (0, 0)):
            copied(original, path)
            change(path, "program.json", lambda p, i=index, a=axis, s=size: all_shapes(p)[i][2].__setitem__(a, s))  # type: ignore[misc]
            refused(path, message_of_size(size))


def test_a_dtype_that_is_none(path: Path) -> None:
    for dtype in ("float8_e4m3fn", "torch.float32", "object", 5, None, "Tensor"):
        change(path, "program.json", lambda program, dtype=dtype: all_shapes(program)[1].__setitem__(1, dtype))  # type: ignore[misc]
        refused(path, f"{dtype!r} is none of float32, ")


def test_more_memory_than_there_is(path: Path) -> None:
    """A shape that fits its neighbours but not the machine."""

    sizes = [1 << 22, 1 << 22, 2, 3, 8, 8]

    def huge(program: Any) -> None:
        graph = program["programs"][0]["graph"]
        graph["nodes"] = [
            {
                "name": "huge",
                "op": "expand",
                "attributes": {"sizes": sizes},
                "epilogue": [],
                "inputs": [["value", 0]],
                "outputs": [["huge", "float32", sizes, None]],
            }
        ]
        graph["outputs"] = [["value", 2]] * 3

    change(path, "program.json", huge)
    refused(path, "this machine has")


def test_more_memory_together_than_there_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = max(drystone.load(path).explain().arena_bytes, (path / "weights.safetensors").stat().st_size)  # for each alone
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=enough))
    refused(path, "this machine has")


def test_constants_that_index_beyond(path: Path) -> None:
    content, data = header(path)
    program = read(path, "program.json")
    indexing = next(entry for entry in program["programs"][0]["graph"]["nodes"] if entry.get("target") == "index.Tensor")
    number = next(index for kind, index in indexing["inputs"] if kind == "constant")
    start, stop = content[str(number)]["data_offsets"]
    beyond = torch.tensor([3, 0, 5]).numpy().tobytes()
    assert len(beyond) == stop - start
    write_header(path, content, data[:start] + beyond + data[stop:])
    program["constants"][number]["sha256"] = hashlib.sha256(beyond).hexdigest()
    change(path, "program.json", lambda old: old.update(program))
    refused(path, "an index beyond")


def test_no_code_is_imported_by_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attacker.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def named(program: Any) -> None:
        program["programs"][0]["result"]["structure"] = {"fields": ["attacker.Output", ["a", "b", "c", "d"], [None] * 4]}

    change(path, "program.json", named)
    result = drystone.load(path)(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, dtype=torch.int64))
    assert list(result) == ["a", "b", "c", "d"]
