"""Whole networks against eager: those of transformers in few layers, and the benchmark zoo on small images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import Reference, assert_close, leaves, program_of
from drystone import native
from drystone.tools.bench import zoo
from drystone.tools.bench.zoo.from_transformers import Logits
from drystone.tools.bench.zoo.inputs import images
from drystone.tools.bench.zoo.weights import initialise

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.usefixtures("shared_captures"),
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
]

SMALL: dict[str, tuple[str, dict[str, Any], int]] = {
    # name: (class and configuration in transformers, the configuration, image size)
    "resnet-bottleneck": ("ResNet", {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 1]}, 40),
    "resnet-basic": ("ResNet", {"embedding_size": 16, "hidden_sizes": [16, 40], "depths": [1, 2], "layer_type": "basic"}, 33),
    "regnet-x": (
        "RegNet",
        {"embedding_size": 16, "hidden_sizes": [24, 48], "depths": [1, 2], "groups_width": 8, "layer_type": "x"},
        40,
    ),
    "regnet-y": (
        "RegNet",
        {"embedding_size": 16, "hidden_sizes": [24, 48], "depths": [2, 1], "groups_width": 24, "layer_type": "y"},
        40,
    ),
    "mobilenet-v2": ("MobileNetV2", {"depth_multiplier": 0.35}, 48),
    "efficientnet": ("EfficientNet", {"width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 640, "image_size": 48}, 48),
    "convnext": ("ConvNext", {"hidden_sizes": [16, 24, 40, 64], "depths": [1, 1, 3, 1]}, 64),
}


def small(name: str) -> nn.Module:
    family, options, _ = SMALL[name]
    config = getattr(transformers, f"{family}Config")(num_labels=100, **options)
    return Logits(getattr(transformers, f"{family}ForImageClassification")(config))


@cache
def reference(name: str, batch: int) -> Reference:
    if name in SMALL:
        size = (SMALL[name][2],) * 2
        module = small(name).eval()
        generator = torch.Generator().manual_seed(0)
        initialise(module, *images(1, size, generator), generator)
        return Reference(module, images(batch, size, generator), name=name)
    # Inception's strides leave nothing of less than 75 pixels.
    size: tuple[int, ...] = (75, 75) if name == "inception_v3" else (64, 64)
    if name in zoo.VOLUMES:
        size = (4, 32, 32) if zoo.ZOO[name].size[0] == 16 else (16, 16, 32)
    return Reference(*zoo.load(name, batch=batch, size=size), name=name)


def optimize(name: str, batch: int = 1, **options: Any) -> tuple[Any, Reference]:
    expected = reference(name, batch)
    return drystone.optimize(expected.model, expected.inputs, strict=True, **options), expected


def check(fast: Any, expected: Reference, agrees: Callable[[Any], None]) -> None:
    result = fast(*expected.inputs)
    agrees(result)
    assert not fast.explain().segments
    for a, b in zip(leaves(result), leaves(fast(*expected.inputs)), strict=True):
        assert torch.equal(a, b), "two calls with the same inputs differ"


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", SMALL)
def test_small_float32(name: str, batch: int, no_tuning_cache: None) -> None:
    fast, expected = optimize(name, batch, tuning="estimate")
    check(fast, expected, expected.check_float32)


@pytest.mark.parametrize("formats", ["plain", "channels_last", native.blocked().name])
@pytest.mark.parametrize("name", SMALL)
def test_small_in_each_format(name: str, formats: str, no_tuning_cache: None) -> None:
    fast, expected = optimize(name, tuning="estimate", formats=formats)
    check(fast, expected, expected.check_float32)


@pytest.mark.parametrize("name", SMALL)
def test_small_bfloat16(name: str, no_tuning_cache: None) -> None:
    fast, expected = optimize(name, tuning="estimate", dtype=torch.bfloat16)
    check(fast, expected, expected.check_bfloat16)


@pytest.mark.parametrize("name", ["resnet-basic", "convnext"])
def test_small_planned_by_measuring(name: str) -> None:
    fast, expected = optimize(name)
    expected.check_float32(program_of(fast)(list(expected.inputs)))
    expected.check_float32(fast(*expected.inputs))


@pytest.mark.parametrize("name", zoo.CNNS | zoo.VOLUMES)
def test_zoo_float32(name: str, no_tuning_cache: None) -> None:
    fast, expected = optimize(name, tuning="estimate")
    check(fast, expected, expected.check_float32)


@pytest.mark.parametrize("name", zoo.CNNS | zoo.VOLUMES)
def test_zoo_bfloat16(name: str, no_tuning_cache: None) -> None:
    fast, expected = optimize(name, tuning="estimate", dtype=torch.bfloat16)
    check(fast, expected, expected.check_bfloat16)


def test_outputs_keep_the_structure_of_transformers() -> None:
    """A ModelOutput comes back as a ModelOutput, by name and by position, with hidden states where they are asked for."""
    model = small("resnet-basic").classifier.eval()
    image = torch.randn(1, 3, 33, 33)
    with warnings.catch_warnings():
        warnings.simplefilter("error", drystone.DrystoneWarning)
        fast = drystone.optimize(
            model, example_kwargs={"pixel_values": image, "output_hidden_states": True}, tuning="estimate", strict=True
        )
    with torch.no_grad():
        want = model(pixel_values=image, output_hidden_states=True)
    got = fast(pixel_values=image, output_hidden_states=True)
    assert type(got) is type(want) and list(got) == list(want)
    assert len(got.hidden_states) == len(want.hidden_states)
    for a, b in zip(leaves(dict(got)), leaves(dict(want)), strict=True):
        assert_close(a, b)
    assert fast.config is model.config
