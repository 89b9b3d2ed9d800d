"""Submodules that stay float32 in a bfloat16 model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import drystone
from agreement import prepared_of, program_of, relative_error
from drystone import native
from drystone.capture.kept_modules import chosen_modules, names_of
from small_models import Decides

pytestmark = pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")  # on some CPUs: bfloat16 is only stored
lowers = pytest.mark.skipif(native.isa() == "none", reason="all stays float32 below AVX2")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.mlp(x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(32, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def products(fast) -> dict[str, set[torch.dtype]]:
    """Submodule → the dtypes from which its products are computed; in which its weights are stored, where that is all."""
    graph = prepared_of(fast).graph
    ops, factors = (("linear", "attention"), slice(2)) if native.multiplies_bfloat16() else (("linear",), slice(1, 2))
    return {node.module: {value.dtype for value in node.inputs[factors]} for node in graph if node.op in ops}


@lowers
def test_named_modules_stay_float32() -> None:
    model, x = Model().eval(), torch.randn(2, 5, 32)
    fast = drystone.optimize(model, x, dtype=torch.bfloat16, keep_fp32=["blocks.0", model.head], tuning="estimate")
    for module, dtypes in products(fast).items():
        kept = module.startswith("blocks.0") or module == "head"
        assert dtypes == {torch.float32 if kept else torch.bfloat16}, module


@lowers
def test_all_kept_is_as_exact_as_float32() -> None:
    model, x = Model().eval(), torch.randn(2, 5, 32)
    errors = {}
    for name, choice in {"none": None, "all": [""], "linears": lambda name, module: isinstance(module, nn.Linear)}.items():
        fast = drystone.optimize(model, x, dtype=torch.bfloat16, keep_fp32=choice, tuning="estimate")
        with torch.no_grad():
            errors[name] = relative_error(program_of(fast)([x])[0], model(x))
    assert errors["all"] < 1e-6 < errors["linears"] < errors["none"]


def test_other_shapes_keep_them_too() -> None:
    model = Model().eval()
    fast = drystone.optimize(model, torch.randn(2, 5, 32), dtype=torch.bfloat16, keep_fp32="", tuning="estimate")
    x = torch.randn(3, 5, 32)
    with torch.no_grad():
        assert relative_error(fast(x), model(x)) < 1e-6


def test_parts_know_their_modules() -> None:
    model, x = Decides(Model()), torch.rand(2, 5, 32)
    fast = drystone.optimize(model, x, dtype=torch.bfloat16, keep_fp32=["inner"], tuning="estimate")
    with torch.no_grad():
        assert relative_error(fast(x), model(x)) < 1e-6


def test_a_module_at_two_places_is_kept_at_both() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.append(model[0])
    chosen = chosen_modules(model, lambda name, module: isinstance(module, nn.Linear))
    assert names_of(model, chosen) == {"0", "2"}


def test_what_is_not_there_is_refused() -> None:
    model, x = Model().eval(), torch.randn(2, 5, 32)
    with pytest.raises(drystone.InputError, match=r"no submodule 'block\.0'; there is 'blocks\.0'"):
        drystone.optimize(model, x, dtype=torch.bfloat16, keep_fp32=["block.0"])
    with pytest.raises(drystone.InputError, match="their names"):
        drystone.optimize(model, x, dtype=torch.bfloat16, keep_fp32=[3])
    with pytest.raises(drystone.InputError, match="Linear that is given is no submodule"):
        drystone.optimize(model, x, dtype=torch.bfloat16, keep_fp32=nn.Linear(1, 1))
    with pytest.raises(drystone.InputError, match="TorchScript"):
        drystone.optimize(torch.jit.trace(model.head, x), x, dtype=torch.bfloat16, keep_fp32=["head"])
