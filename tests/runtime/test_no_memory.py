"""Tensors without memory: an error of ours, never a read of it. In a process of its own, which would end with a signal."""

from __future__ import annotations

import fresh_process

PROGRAM = """
import torch, drystone
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
torch.set_num_threads(1)
torch.set_grad_enabled(False)
Wrapper = type("Wrapper", (torch.Tensor,), {"__torch_dispatch__": classmethod(lambda *a, **k: NotImplemented)})

def attack(fast, x):
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

    calls = [freed, lambda: freed(64), freed_view, fake, mixed, lambda: fast(torch.Tensor._make_wrapper_subclass(Wrapper, x.shape)),
        lambda: fast(torch._efficientzerotensor(*x.shape)), lambda: torch.func.functionalize(fast)(x), lambda: fast(x.to_sparse()),
        lambda: fast(x.to("meta")), lambda: fast(x.to_mkldnn())]
    refused = 0
    for call in calls:
        try:
            call()
        except Exception as error:
            refused += " has no memory for its elements" in str(error)
    assert refused >= 3, refused
    assert torch.equal(fast(x), want)

for model, x in (nn.Linear(64, 64), torch.randn(8, 64)), (nn.Conv2d(3, 8, 3), torch.randn(2, 3, 8, 8)):
    for capture in "whole", "auto", "eager":
        print(model, capture, flush=True)  # the last one is that which ended the process
        attack(drystone.optimize(model.eval(), x, tuning="estimate", capture=capture), x)
"""


def test_programs() -> None:
    fresh_process.run(PROGRAM, filter="ignore")


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
    done = fresh_process.run(code, filter="ignore")
    assert "example input [0] has no memory" in done.stdout and "model's 'weight' has no memory" in done.stdout
