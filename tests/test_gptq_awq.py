"""Layers of GPTQ and AWQ checkpoints keep their codes: modules with tensors packed as these are published."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import float32_limit, prepared_of, program_of, relative_error
from drystone.graph.interpreter import run
from drystone.graph.ops import QuantisedLinear

Tensor = torch.Tensor
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def packed(codes: Tensor, bits: int, dim: int, order: list[int] | None = None) -> Tensor:
    """int32, of so many neighbours along ``dim`` one number, the first (in ``order``) in the lowest bits."""
    count = 32 // bits
    apart = codes.long().unflatten(dim, (-1, count))
    total = sum(apart.select(dim + 1, (order or range(count))[place]) << bits * place for place in range(count))
    assert isinstance(total, Tensor)
    return torch.where(total >= 2**31, total - 2**32, total).to(torch.int32)


class Packed(nn.Module):
    """Of random codes. ``one`` is taken from zeros where they are stored, as GPTQ's first form has it."""

    def __init__(
        self, k: int, n: int, bits: int = 4, awq: bool = False, one: int = 0, acts: bool = False, symmetric: bool = False
    ) -> None:
        super().__init__()
        group = 32
        codes, zeros = torch.randint(0, 2**bits, (k, n)), torch.randint(1, 2**bits, (k // group, n))
        if symmetric:
            zeros.fill_(2 ** (bits - 1))
        scales = (torch.rand(k // group, n) + 0.5).half() / 2**bits
        index = torch.arange(k) // group
        index = index[torch.randperm(k)] if acts else index
        self.in_features, self.out_features = k, n
        self.register_buffer("qweight", packed(codes, 4, 1, AWQ_ORDER) if awq else packed(codes, bits, 0))
        self.register_buffer("qzeros", packed(zeros, 4, 1, AWQ_ORDER) if awq else packed(zeros - one, bits, 1))
        self.register_buffer("scales", scales)
        self.register_buffer("bias", torch.randn(n).half())
        if not awq:
            self.register_buffer("g_idx", index.int())
        self.exact = (scales.double()[index] * (codes - zeros[index])).t()  # for this test alone

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.exact.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


FORMS: dict[str, dict[str, Any]] = {
    "gptq": {"one": 1},
    "gptq, second form": {},
    "gptq, symmetric": {"symmetric": True},
    "gptq, groups by activations": {"acts": True},
    "gptq, 8 bits": {"bits": 8, "one": 1},
    "awq": {"awq": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_codes_are_kept(form: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Packed(64, 96, **FORMS[form]), nn.ReLU(), Packed(96, 32, **FORMS[form])).eval(), torch.randn(3, 64)
    fast = drystone.optimize(model, x, tuning="estimate")
    graph, got, want = prepared_of(fast).graph, program_of(fast)([x])[0], model(x.double())
    found = [(node.op.bits, node.op.group, node.op.has_minima) for node in graph if isinstance(node.op, QuantisedLinear)]
    assert found == [(FORMS[form].get("bits", 4), 32, not FORMS[form].get("symmetric"))] * 2
    assert relative_error(got, want) <= float32_limit(relative_error(run(graph, [x])[0], want))
    assert not any(parameter.isnan().any() for parameter in model.parameters()), "the model itself stays as it is"


def test_kept_layers_become_floats() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Packed(64, 96, acts=True), Packed(96, 32, awq=True)).eval(), torch.randn(3, 64)
    fast = drystone.optimize(model, x, tuning="estimate", keep=["0"])
    assert "Not quantised: 0." in str(fast.explain())
    torch.testing.assert_close(fast(x), model(x))


def test_what_is_packed_otherwise_is_refused() -> None:
    layer, x = Packed(64, 96), torch.randn(3, 64)
    layer.exact = layer.exact.flip(0)
    with pytest.raises(drystone.UnsupportedError, match=r"^0 computes something else .* weights=\"int4\""):
        drystone.optimize(nn.Sequential(layer).eval(), x)
    layer = Packed(64, 96)
    layer.qweight = layer.qweight[:6]
    with pytest.raises(drystone.UnsupportedError, match="packed in another way"):
        drystone.optimize(nn.Sequential(layer).eval(), x)


@pytest.mark.parametrize("form", ["gptq", "awq"])
def test_a_language_model_generates_on_codes(form: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, eos_token_id=None, pad_token_id=0)).eval()
    floats = copy.deepcopy(model)
    for layer, same in zip(model.model.layers, floats.model.layers, strict=True):
        for part in ("self_attn", "mlp"):
            for name, linear in list(getattr(layer, part).named_children()):
                if isinstance(linear, nn.Linear):
                    made = Packed(linear.in_features, linear.out_features, **FORMS[form])
                    made.bias = None
                    made.scales, made.exact = made.scales / 8, made.exact / 8
                    setattr(getattr(layer, part), name, made)
                    getattr(getattr(same, part), name).weight.data = made.exact.float()
    fast, ids = drystone.optimize(model, tuning="estimate", strict=True), torch.randint(0, 100, (2, 9))
    assert sum(step.op == "quantised_linear" for step in fast.explain().steps) >= 8
    want, got = (each.generate(ids, max_new_tokens=8, do_sample=False) for each in (floats, fast))
    assert got.tolist() == want.tolist()
