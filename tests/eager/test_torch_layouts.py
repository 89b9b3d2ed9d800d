"""Where torch's structures are not laid out as the native core has them, its operators stay torch's own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import fresh_process

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler"),
]

TOLD = {
    "TENSOR_PER_REFERENCE": "a tensor",
    "ARRAY_SWAPPED": "an array",
    "ARRAY_LARGER": "an array",
    "TENSOR_LARGER": "a list of tensors",
    "LIST_OF_REFERENCES": "a list of tensors",
    "LIST_REFUSED": "a list of tensors",
}

# In a process of its own, as what was found is kept. The last library is taken for this torch's.
PROGRAM = """
import ctypes, json, sys, warnings
from pathlib import Path
import torch, drystone
from drystone import native
from torch.utils._python_dispatch import TorchDispatchMode

told = {}
for path in sys.argv[1:]:
    ctypes.CDLL(path)
    try:
        told[path] = native.find_libtorch(path)
    except RuntimeError as error:
        told[path] = str(error)

right, torch.__file__ = torch.__file__, str(Path(sys.argv[-1]).parents[1] / "__init__.py")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    drystone.enable()
assert torch.cat([torch.ones(2), torch.zeros(1)]).tolist() == [1, 1, 0]
assert drystone.ops.topk(torch.arange(5), 1).indices.item() == 4

class Refuses(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called")

with Refuses():  # the check dispatches nothing that a mode could see
    native.find_libtorch(str(Path(right).parent / "lib" / "libtorch_cpu.so"))
print(json.dumps([told, [f"{w.category.__name__}: {w.message}" for w in caught]]))
"""


def test_structures_laid_out_otherwise(tmp_path: Path) -> None:
    torchs = Path(torch.__file__).parent / "lib"
    paths = {}
    for layout in TOLD:
        path = tmp_path / layout / "lib" / "libtorch_cpu.so"
        path.parent.mkdir(parents=True)
        source = Path(__file__).with_name("other_layouts.cpp")
        needed = ["-Wl,--no-as-needed", str(torchs / "libtorch_cpu.so"), f"-Wl,-rpath,{torchs}"]
        subprocess.run(
            ["c++", "-std=c++20", "-w", f"-D{layout}", "-shared", "-fPIC", str(source), *needed, "-o", str(path)], check=True
        )
        paths[layout] = str(path)
    told, warned = json.loads(fresh_process.run(PROGRAM, *paths.values()).stdout)
    assert told == {paths[layout]: f"this torch lays out {what} otherwise than drystone knows" for layout, what in TOLD.items()}
    assert warned == [
        "DrystoneWarning: torch's own operators stay: this torch lays out a list of tensors otherwise than drystone knows"
    ]
