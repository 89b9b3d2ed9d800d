"""Tensors without memory: an error of ours, never a read of it. In a process of its own, which would end with a signal."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import torch, drystone
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
torch.set_num_threads(1)
torch.set_grad_enabled(False)
m, x = {model}.eval(), torch.randn({shape})
fast = drystone.optimize(m, x, tuning="estimate", capture={capture!r})
want = fast(x)

def freed(bytes=0):
    y = x.clone()
    y.untyped_storage().resize_(bytes)
    return fast(y)

def freed_view():
    y = torch.cat([x, x])
    view = y[len(x):]
    y.untyped_storage().resize_(0)
    return fast(view)

def fake():
    with FakeTensorMode() as mode:
        return fast(mode.from_tensor(x))

def mixed():
    with FakeTensorMode(allow_non_fake_inputs=True):
        return fast(x)

def wrapped():
    kind = type("Wrapper", (torch.Tensor,), {{"__torch_dispatch__": classmethod(lambda *a, **k: NotImplemented)}})
    return fast(torch.Tensor._make_wrapper_subclass(kind, x.shape))

calls = [freed, lambda: freed(64), freed_view, fake, mixed, wrapped, lambda: fast(torch._efficientzerotensor(*x.shape)),
    lambda: torch.func.functionalize(fast)(x), lambda: fast(x.to_sparse()), lambda: fast(x.to("meta")), lambda: fast(x.to_mkldnn())]
for call in calls:
    try:
        call()
    except Exception as error:
        print(type(error).__name__, str(error)[:100])
assert torch.equal(fast(x), want)
"""
MODELS = {"linear": ("nn.Linear(64, 64)", "8, 64"), "convolution": ("nn.Conv2d(3, 8, 3)", "2, 3, 8, 8")}


@pytest.mark.parametrize("capture", ["whole", "auto", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_programs(name: str, capture: str) -> None:
    model, shape = MODELS[name]
    code = PROGRAM.format(model=model, shape=shape, capture=capture)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(" has no memory for its elements") >= 3, done.stdout


def test_weights_and_examples() -> None:
    code = """
import torch, drystone
m = torch.nn.Linear(64, 64).eval().requires_grad_(False)
gone = torch.randn(8, 64)
gone.untyped_storage().resize_(0)
for act in (lambda: drystone.optimize(m, gone, tuning="estimate"), lambda: drystone.optimize(m, torch.randn(8, 64), tuning="estimate")):
    try:
        act()
    except drystone.DrystoneError as error:
        print(error)
    m.weight.untyped_storage().resize_(0)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "example input [0] has no memory" in done.stdout and "model's 'weight' has no memory" in done.stdout
