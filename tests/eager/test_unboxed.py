"""Operators under torch's names that C++ calls with the arguments as they are: beside boxed calls, other kernels and other torches."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from operator_calls import CALLS, operand
from torch.utils import _pytree as pytree

import drystone
import fresh_process
from drystone import native

BOXED = {"convolution_backward"}  # takes a list of bools


def test_every_operator_is_called_unboxed() -> None:
    drystone.enable()
    found = native.unboxed_operators()
    if not found:
        pytest.skip("this system lets no process read its own memory by process_vm_readv")
    families = {"_softmax": "softmax", "native_layer_norm": "layer_norm", "max_pool3d_with_indices": "max_pool3d"}
    families |= {"native_batch_norm": "batch_norm", "_embedding_bag": "embedding_bag"}
    names = {families.get(name, name) for name in found}
    assert names >= set(native.operator_names()) and not names & BOXED


SMALL = {
    "silu": lambda: torch.ops.aten.silu(torch.arange(6.0)),
    "gelu": lambda: torch.ops.aten.gelu(torch.arange(6.0), approximate="tanh"),
    "cat": lambda: torch.ops.aten.cat([torch.ones(2, 3), torch.zeros(2, 1)], -1),
    "cat of many": lambda: torch.ops.aten.cat([torch.full((1,), float(i)) for i in range(100)], 0),
    "cat of none": lambda: torch.ops.aten.cat([torch.ones(0), torch.zeros(0)]),
    "layer_norm": lambda: torch.ops.aten.native_layer_norm(torch.arange(8.0).view(2, 4), [4], None, torch.ones(4), 1e-5),
    "batch_norm": lambda: torch.ops.aten.native_batch_norm(
        torch.arange(64.0).view(2, 2, 4, 4), None, None, None, None, True, 0.1, 1e-5
    ),
    "clone": lambda: torch.ops.aten.clone(torch.ones(1, 2, 2, 2, 2), memory_format=torch.channels_last_3d),
    "avg_pool3d": lambda: torch.ops.aten.avg_pool3d(torch.arange(64.0).view(1, 4, 4, 4), [2], divisor_override=3),
    "topk": lambda: torch.ops.aten.topk(torch.arange(64.0), 3),
    "index_select, out": lambda: torch.ops.aten.index_select.out(torch.arange(6.0), 0, torch.tensor([1, 0]), out=torch.empty(2)),
}


@pytest.mark.parametrize("name", SMALL)
def test_boxed_calls_give_the_same(name: str) -> None:
    """``torch.ops`` boxes its arguments; where no gradient is recorded, they come to the kernel so."""
    drystone.enable()
    unboxed = SMALL[name]()  # by way of autograd's kernel, which unboxes them
    with torch.inference_mode():
        boxed = SMALL[name]()
    for got, want in zip(pytree.tree_leaves(boxed), pytree.tree_leaves(unboxed), strict=True):
        assert got.stride() == want.stride() and torch.equal(got, want)


@pytest.mark.parametrize("name", CALLS)
def test_results_belong_to_the_caller(name: str) -> None:
    """Nobody else holds a result, and a call holds on to no argument."""
    drystone.enable()
    x = operand(name)
    before = x._use_count()
    for _ in range(3):
        results = [leaf for leaf in pytree.tree_leaves(CALLS[name][0](x)) if leaf._base is None and leaf is not x]
        assert all(result._use_count() == 1 for result in results)
    del results
    assert x._use_count() == before


OTHER_KERNEL = """
import torch, drystone
import torch.nn.functional as F
drystone.enable()
x, small = torch.randn(100, 100), torch.randn(3)
ours, want = F.silu(x), F.silu(small)
library = torch.library.Library("aten", "IMPL")
library.impl("silu", lambda x: x + 42, "CPU", allow_override=True)
with torch.no_grad():
    assert torch.equal(F.silu(x), x + 42)
    library._destroy()
    before = drystone.native.calls_served()
    assert torch.equal(F.silu(x), ours) and torch.equal(F.silu(small), want)
    assert drystone.native.calls_served() == before + 2
drystone.disable()
torch.testing.assert_close(F.silu(x), ours)
"""


def test_another_kernel_over_ours() -> None:
    """It is called while it is there, and ours afterwards."""
    fresh_process.run(OTHER_KERNEL, filter="ignore")


OTHER_TABLE = """
import ctypes, sys
from pathlib import Path
import torch, drystone
import torch.nn.functional as F
path = sys.argv[1]
x = torch.randn(100, 100)
want = F.silu(x)
ctypes.CDLL(path)
torch.__file__ = str(Path(path).parents[1] / "__init__.py")
drystone.enable()
before = drystone.native.calls_served()
torch.testing.assert_close(F.silu(x), want)
torch.testing.assert_close(torch.cat([x, x]), torch.stack([x, x]).flatten(0, 1))
assert drystone.native.calls_served() > before
assert drystone.native.unboxed_operators() == []
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
@pytest.mark.parametrize("table", ["NOWHERE", "NO_LIST"])
def test_a_table_that_is_laid_out_otherwise(table: str, tmp_path: Path) -> None:
    """Calls are boxed, and served."""
    torchs = Path(torch.__file__).parent / "lib"
    path = tmp_path / "lib" / "libtorch_cpu.so"
    path.parent.mkdir()
    needed = ["-Wl,--no-as-needed", str(torchs / "libtorch_cpu.so"), f"-Wl,-rpath,{torchs}"]
    source = Path(__file__).with_name("other_tables.cpp")
    subprocess.run(["c++", "-std=c++20", f"-D{table}", "-shared", "-fPIC", str(source), *needed, "-o", str(path)], check=True)
    fresh_process.run(OTHER_TABLE, str(path), filter="ignore")
