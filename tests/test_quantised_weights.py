"""``optimize(…, weights=…)`` from end to end: the same quantised weight in float64 is what results are held against."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import float32_limit, prepared_of, program_of, relative_error
from drystone import native
from drystone.graph.groups import Kind, dequantised, rounded
from drystone.graph.groups import quantised as quantised_parts
from drystone.graph.interpreter import run
from drystone.graph.ops import QuantisedLinear
from small_models import Decides


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.gate, self.up, self.down = nn.Linear(64, 160, bias=False), nn.Linear(64, 160, bias=False), nn.Linear(160, 64)
        self.head = nn.Linear(64, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x + self.down(nn.functional.silu(self.gate(x)) * self.up(x)))


def quantised(fast: nn.Module) -> set[str]:
    return {node.module for node in prepared_of(fast).graph if isinstance(node.op, QuantisedLinear)}


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_results_are_those_of_the_quantised_weights(weights: str, rows: int) -> None:
    model, x = Block().eval(), torch.randn(1, rows, 64)
    fast = drystone.optimize(model, x, weights=weights, tuning="estimate")
    graph, got = prepared_of(fast).graph, program_of(fast)([x])[0]
    want, plain = run(graph, [x], torch.float64)[0], run(graph, [x])[0]
    assert relative_error(got, want) <= float32_limit(relative_error(plain, want))
    assert relative_error(got, model(x)) < (0.02 if weights == "int8" else 0.25)
    assert len(quantised(fast)) >= 5
    lines = str(fast.explain())
    assert f"weights are {weights} in groups of 32" in lines
    if native.isa() != "none":
        assert not fast.explain().segments and f"_{weights}" in lines


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")  # on some CPUs: bfloat16 is only stored
def test_bfloat16_rounds_what_it_rounds_without() -> None:
    model, x = Block().eval(), torch.randn(1, 40, 64)
    exact = run(prepared_of(drystone.optimize(model, x, weights="int8", tuning="estimate")).graph, [x], torch.float64)[0]
    fast = drystone.optimize(model, x, weights="int8", tuning="estimate", dtype=torch.bfloat16)
    assert relative_error(program_of(fast)([x])[0], exact) < 0.02


def with_rounded_x(model: nn.Linear, x: torch.Tensor, kind: Kind) -> torch.Tensor:
    codes, scales = quantised_parts(model.weight, kind).tensors()
    weight = dequantised(kind.bits, codes, scales.double())
    return nn.functional.linear(rounded(x, kind.group).double(), weight, model.bias.double())


needs_kernels = pytest.mark.skipif(native.isa() == "none", reason="no native kernels")


@needs_kernels
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rounded_activations_are_multiplied_exactly(weights: Any, group: Any) -> None:
    model, kind = nn.Linear(256, 50).eval(), Kind(int(weights[3:]), group)
    for rows in (1, 3, 40):
        x = torch.randn(rows, 256)
        fast = drystone.optimize(model, x, weights=weights, group_size=group, activations="int8", tuning="estimate")
        assert "drystone_gemm_rounded" in fast.explain().steps[0].implementation
        assert relative_error(program_of(fast)([x])[0], with_rounded_x(model, x, kind)) < 1e-6


@needs_kernels
@pytest.mark.parametrize("tuning", ["estimate", "measure"])
def test_explain_says_what_rounded_activations_cost(tuning: Any) -> None:
    model, x = Block().eval(), torch.randn(1, 3, 64)
    fast, exact = (drystone.optimize(model, x, weights="int8", activations=how, tuning=tuning) for how in ("int8", None))
    assert exact.explain().rounding is None and "rounded" not in str(exact.explain())
    found, steps = fast.explain().rounding, [step for step in fast.explain().steps if "rounded" in step.implementation]
    if found is None:
        assert tuning == "measure" and not steps  # where floats are faster
        return
    assert 1 <= len(steps) == found.rounded <= found.products
    assert 1e-4 < found.error < 0.02
    got, want = (program_of(each)([x])[0] for each in (fast, exact))
    assert relative_error(got, want) == pytest.approx(found.error, rel=1e-3)
    assert f"{found.rounded} of {found.products} products with them round x to int8" in str(fast.explain())
    other = torch.randn(1, 17, 64)
    fast(other)
    assert torch.equal(fast(x), copy.deepcopy(fast)(x))


@needs_kernels
def test_activations_are_rounded_after_loading_too(tmp_path: Path) -> None:
    model, x = Block().eval(), torch.randn(1, 3, 64)
    fast = drystone.optimize(model, x, weights="int4", activations="int8", tuning="estimate")
    drystone.save(fast, tmp_path / "saved")
    assert torch.equal(program_of(drystone.load(tmp_path / "saved"))([x])[0], program_of(fast)([x])[0])


def test_kept_modules_keep_their_weights() -> None:
    model, x = Block().eval(), torch.randn(1, 3, 64)
    fast = drystone.optimize(model, x, weights="int4", keep=["head", model.attention], tuning="estimate")
    assert quantised(fast) == {"gate", "up", "down"}
    assert "Not quantised: attention, head." in str(fast.explain())
    assert prepared_of(copy.deepcopy(fast)).graph.nodes[0].op == prepared_of(fast).graph.nodes[0].op


def test_saved_and_loaded_bit_by_bit(tmp_path: Path) -> None:
    model, x = Block().eval(), torch.randn(1, 3, 64)
    fast = drystone.optimize(model, x, weights="int4", group_size=32, tuning="estimate")
    drystone.save(fast, tmp_path / "saved")
    loaded = drystone.load(tmp_path / "saved")
    assert torch.equal(program_of(loaded)([x])[0], program_of(fast)([x])[0])
    whole = drystone.optimize(model, x, tuning="estimate")
    drystone.save(whole, tmp_path / "whole")
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors")) for name in ("saved", "whole")]
    assert sizes[0] < 0.3 * sizes[1]


class Tied(nn.Module):
    """Tokens in, scores of tokens out, by one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.middle, self.scores = nn.Embedding(100, 64), nn.Linear(64, 64), nn.Linear(64, 100, bias=False)
        self.scores.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.scores(torch.relu(self.middle(self.tokens(tokens))))


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_an_embedding_and_the_last_layer_share_their_codes(weights: str) -> None:
    model, tokens = Tied().eval(), torch.tensor([[3, 99, 0, 3]])
    fast = drystone.optimize(model, tokens, weights=weights, tuning="estimate")
    graph, got = prepared_of(fast).graph, program_of(fast)([tokens])[0]
    want, plain = run(graph, [tokens], torch.float64)[0], run(graph, [tokens])[0]
    assert [node.op.name for node in graph if node.op.name.startswith("quantised")] == ["quantised_rows", *["quantised_linear"] * 2]
    assert relative_error(got, want) <= float32_limit(relative_error(plain, want))
    bits = 8 if weights == "int8" else 4
    if native.isa() != "none":  # 100 rows fill strips of vectors, with a float16 scale for 32 numbers
        assert fast.explain().weights_bytes < 1.2 * (100 + 64) * 64 * (bits + 0.5) / 8 + 64 * 4
    with pytest.raises(IndexError, match="out of range"):
        program_of(fast)([torch.tensor([[0, 1, 2, 100]])])


def test_other_shapes_share_the_packed_weights() -> None:
    model, x = Block().eval(), torch.randn(1, 3, 64)
    fast = drystone.optimize(model, x, weights="int8", tuning="estimate")
    packed = fast.explain().weights_bytes
    fast(torch.randn(1, 17, 64))
    assert fast.explain().weights_bytes == packed


def test_refresh_takes_new_weights_over() -> None:
    model, x = nn.Linear(64, 8).eval(), torch.randn(2, 64)
    fast = drystone.optimize(model, x, weights="int8", tuning="estimate")
    before = fast(x)
    with torch.no_grad():
        model.weight.mul_(2)
        model.bias.mul_(2)
    fast.refresh()
    fast(x)
    assert relative_error(program_of(fast)([x])[0], 2 * before) < 1e-6


def test_released_originals_leave_the_packed_ones() -> None:
    model, x = Block().eval(), torch.randn(1, 3, 64)
    fast = drystone.optimize(model, x, weights="int8", tuning="estimate", release_originals=True)
    if fast.explain().runs == "drystone":
        assert model.head.weight.numel() == 0 and fast(x).shape == (1, 3, 20)


def test_a_model_that_is_not_captured_whole_is_refused() -> None:
    model, x = Decides(nn.Linear(64, 64)), torch.randn(2, 64)
    with pytest.raises(drystone.CaptureError):
        drystone.optimize(model, x, weights="int8", tuning="estimate")


def test_options_out_of_range() -> None:
    model, x = nn.Linear(64, 8).eval(), torch.randn(2, 64)
    for wrong in (
        {"weights": "int2"},
        {"weights": "int4", "group_size": 48},
        {"group_size": 64},
        {"weights": "int8", "keep": ["head"]},
    ):
        with pytest.raises(drystone.InputError, match=r"weights|group_size|keep"):
            drystone.optimize(model, x, **wrong)  # type: ignore[arg-type]
    with pytest.raises(drystone.InputError, match="activations: expected one of None, 'int8'"):
        drystone.optimize(model, x, weights="int8", activations="int4")  # type: ignore[arg-type]
    with pytest.raises(drystone.InputError, match='give weights="int8" or "int4" too'):
        drystone.optimize(model, x, activations="int8")
    with pytest.raises(drystone.UnsupportedError, match="weights"):
        drystone.optimize(model, x, weights="int4", capture="eager")
    with pytest.raises(drystone.InputError, match="48 inputs"):
        drystone.optimize(nn.Linear(48, 8).eval(), torch.zeros(1, 48), weights="int4")
