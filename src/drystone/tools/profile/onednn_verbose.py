"""What torch's oneDNN says of each primitive that it runs, put between marks of ours.

oneDNN prints to C's standard output, and so do the marks: both come in the order in which things happened.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

# What the lines of oneDNN, and those with marks, begin with.
_ONEDNN, _MARK = "onednn_verbose", "drystone_mark"
# Where a line says nothing of its fields: those of oneDNN 3.
_FIELDS = ["operation", "engine", "primitive", "implementation", "prop_kind", "memory_descriptors", "attributes", "auxiliary"]
_FIELDS += ["problem_desc", "exec_time"]
_SHAPE = re.compile(r"\d+(x\d+)*")


@dataclass(frozen=True)
class Primitive:
    """A primitive that was run. ``formats``: memory format by operand, as in ``{"src": "abcd", "dst": "aBcd16b"}``; ``shape``: of
    a reorder."""

    kind: str
    implementation: str
    formats: dict[str, str]
    shape: list[int]
    microseconds: float

    @property
    def is_reference(self) -> bool:
        """Whether it ran oneDNN's plain loops, which are there for what no kernel takes."""
        return "ref" in re.split(r"[:_+]", self.implementation)


@dataclass
class Verbose:
    """``between[n]``: the primitives after the mark ``n`` and before the next one."""

    between: dict[int, list[Primitive]] = field(default_factory=dict)


def mark(number: int) -> None:
    """What is run from here on, belongs to ``number``."""
    _c().puts(f"{_MARK},{number}".encode())


@contextmanager
def verbose() -> Iterator[Verbose]:
    """oneDNN's output is caught meanwhile, and there to be read afterwards. What else was printed, is printed at the end."""
    found = Verbose()
    sys.stdout.flush()
    _c().fflush(None)
    saved = os.dup(1)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                yield found
        finally:
            sys.stdout.flush()
            _c().fflush(None)
            os.dup2(saved, 1)
            os.close(saved)
            caught.seek(0)
            for line in parse(caught.read().decode(errors="replace"), found):
                print(line)


def parse(text: str, found: Verbose) -> list[str]:
    """The lines that are not oneDNN's; what these say goes into ``found``."""
    others, fields, number = [], _FIELDS, -1
    for line in text.splitlines():
        if line.startswith(_MARK):
            number = int(line.partition(",")[2])
        elif not line.startswith(_ONEDNN):
            others.append(line)
        elif ",primitive,info,template:" in line:
            fields = line.partition("template:")[2].split(",")
        elif ",exec," in line and ",graph,exec," not in line:
            primitive = _primitive(line, fields)
            found.between.setdefault(number, []).append(primitive)
    return others


def _primitive(line: str, fields: list[str]) -> Primitive:
    values = dict(zip(fields, ["exec", *line.partition(",exec,")[2].split(",")], strict=False))
    return Primitive(
        kind=values["primitive"],
        implementation=values["implementation"],
        formats=dict(_format(words) for words in values["memory_descriptors"].split()),
        shape=[int(size) for size in values["problem_desc"].split("x")] if _SHAPE.fullmatch(values["problem_desc"]) else [],
        microseconds=1e3 * float(values["exec_time"]),
    )


def _format(described: str) -> tuple[str, str]:
    """``src:f32:a:blocked:abcd::f0``: the operand, and its tag, which oneDNN's releases have at the same place from the kind on."""
    parts = described.split(":")
    after = next((place for place, part in enumerate(parts) if part in ("blocked", "any", "undef")), len(parts) - 1)
    return parts[0].partition("_")[0], parts[after + 1] if after + 1 < len(parts) else ""


def _c() -> ctypes.CDLL:
    return ctypes.CDLL(None)
