"""Weights that become codes: which, how well, and what is the same afterwards."""

from __future__ import annotations

import pytest
import torch
from small_graphs import Small, ops

import drystone
from drystone.graph.graph import Value, constant
from drystone.graph.groups import Kind, dequantised, grouped, quantised
from drystone.graph.interpreter import run
from drystone.graph.ops import Linear, QuantisedLinear
from drystone.passes.quantise_weights import FLOAT, quantise_weights


def floats(weight: torch.Tensor, kind: Kind) -> torch.Tensor:
    return dequantised(
        kind.bits, *(part.double() if part.is_floating_point() else part for part in quantised(weight, kind).tensors())
    )


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize(("bits", "codes"), [(8, range(-128, 128)), (4, range(-8, 8))])
def test_what_codes_hold_exactly_stays(bits: int, codes: range, group: int) -> None:
    some = torch.Generator().manual_seed(0)
    numbers = torch.randint(codes[0], codes[-1] + 1, (4, 128 // group, group), generator=some)
    numbers[..., 0] = codes[0]
    weight = (numbers * torch.tensor([0.5, 2.0**-9, 3.0, 0.0]).view(4, 1, 1)).flatten(1)
    assert torch.equal(floats(weight, Kind(bits, group)), weight.double())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_the_scale_errs_less_than_that_of_the_largest_number(bits: int, group: int) -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    grouped, most = weight.unflatten(1, (-1, group)), 2 ** (bits - 1) - 1
    step = grouped.abs().amax(-1, keepdim=True) / most
    plain = ((grouped / step).round().clamp(-most - 1, most) * step).flatten(1)
    kind = Kind(bits, group)
    squares, others = ((floats(weight, kind) - weight) ** 2).sum(), ((plain - weight) ** 2).sum()
    assert squares < (0.8 if bits == 4 else 1.0) * others


def test_linear_layers_become_quantised_and_the_rest_stays() -> None:
    s = Small((2, 64))
    first = s.linear(s.x[0], 96, bias=True)
    kept = s.linear(s.unary("relu", first), 32)
    kept.producer.stored = FLOAT  # type: ignore[union-attr]
    last = s.linear(kept, 8)
    graph = s.returns(last)
    before = run(graph, [torch.ones(2, 64)])[0]
    quantise_weights(graph, "int8", 32)
    graph.check()
    assert ops(graph) == ["quantised_linear", "pointwise", "linear", "quantised_linear"]
    op = graph.nodes[0].of(QuantisedLinear)
    assert (op.has_bias, op.bits, op.group, op.has_minima) == (True, 8, 32, False)
    assert torch.allclose(run(graph, [torch.ones(2, 64)])[0], before, rtol=0.1, atol=0.1)


def test_a_tied_weight_is_coded_once() -> None:
    s = Small((2, 64))
    first = s.linear(s.x[0], 64)
    second = s.linear(first, 64)
    second.producer.inputs[1] = first.producer.inputs[1]  # type: ignore[union-attr]
    graph = quantise_weights(s.returns(second), "int4", 64)
    assert [value.key for value in graph.nodes[0].inputs[1:]] == [value.key for value in graph.nodes[1].inputs[1:]]


def test_codes_are_made_once_a_reading_and_not_kept() -> None:
    made: list[int] = []

    def data() -> torch.Tensor:
        made.append(1)
        return torch.randn(4, 32)

    codes, scales = grouped(Value((4, 32), torch.float32, "w", data=data, identity="w"), Kind(4, 32)).values()
    held, other = codes.constant, scales.constant
    assert made == [1] and held.shape == (4, 16) and other.shape == (4, 1)
    assert codes.constant.dtype is torch.uint8 and made == [1, 1]


@pytest.mark.parametrize(
    ("weight", "group", "says"),
    [
        (torch.zeros(4, 96), 64, r"'a.b' has 96 inputs.*group_size=32 does; or leave it out with keep=\['a.b'\]"),
        (torch.zeros(4, 30), 32, r"30 inputs.*do not divide; leave it out"),
        (torch.full((4, 64), float("nan")), 32, "not finite"),
        (torch.full((4, 64), -1e6), 32, "beyond 65504"),
    ],
)
def test_what_can_not_be_quantised_says_why(weight: torch.Tensor, group: int, says: str) -> None:
    s = Small((2, weight.shape[1]))
    y = s.add(Linear(has_bias=False), [s.x[0], constant(weight)])
    y.producer.module = "a.b"  # type: ignore[union-attr]
    with pytest.raises(drystone.InputError, match=says):
        quantise_weights(s.returns(y), "int4", group)
