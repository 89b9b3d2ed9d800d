"""Models whose weights torchao has quantised keep the codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import float32_limit, prepared_of, program_of, relative_error
from drystone.graph.interpreter import run
from drystone.graph.ops import QuantisedLinear

pytest.importorskip("torchao")
from torchao.quantization import (
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerAxis,
    PerGroup,
    quantize_,
)

CONFIGS: dict[str, tuple[Any, tuple[int, int, bool]]] = {
    "int8 a row": (Int8WeightOnlyConfig(), (8, 128, False)),
    "int8 groups": (Int8WeightOnlyConfig(granularity=PerGroup(32)), (8, 32, False)),
    "int4 groups": (IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)), (4, 32, False)),
    "int4 asymmetric": (
        IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerAxis(0), mapping_type=MappingType.ASYMMETRIC),
        (4, 128, True),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_codes_are_kept(name: str) -> None:
    config, kind = CONFIGS[name]
    model, x = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64)).eval(), torch.randn(3, 128)
    quantize_(model, config)
    fast = drystone.optimize(model, x, tuning="estimate")
    graph, got = prepared_of(fast).graph, program_of(fast)([x])[0]
    assert [(node.op.bits, node.op.group, node.op.has_minima) for node in graph if isinstance(node.op, QuantisedLinear)] == [
        kind
    ] * 2
    dequantised = [layer.weight.dequantize().double() for layer in (model[0], model[2])]
    hidden = torch.relu(torch.nn.functional.linear(x.double(), dequantised[0], model[0].bias.double()))
    want = torch.nn.functional.linear(hidden, dequantised[1], model[2].bias.double())
    assert relative_error(got, want) <= float32_limit(relative_error(run(graph, [x])[0], want))
    assert type(model[0].weight).__module__.startswith("torchao"), "the model itself stays as it is"


def test_kept_modules_are_found_in_the_twin() -> None:
    model, x = nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 64)).eval(), torch.randn(3, 128)
    quantize_(model, Int8WeightOnlyConfig())
    fast = drystone.optimize(model, x, tuning="estimate", keep=[model[1]])
    assert "Not quantised: 1." in str(fast.explain())
