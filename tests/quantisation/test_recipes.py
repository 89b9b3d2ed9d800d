"""Recipes: scales from histograms that one pass over the calibration data records."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from drystone.capture.export import capture
from drystone.errors import CaptureError
from drystone.quantisation import recipes
from drystone.quantisation.noise import module_of
from drystone.quantisation.recipes import STATIC, quantise
from drystone.quantisation.samples import Call

pytest.importorskip("torchao")

SAMPLES: list[Call] = [((torch.randn(4, 8, generator=torch.Generator().manual_seed(i)),), {}) for i in range(5)]


def layers(count: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(count) for layer in (nn.Linear(8, 8), nn.Tanh()))).eval()


def observer_of(*values: torch.Tensor) -> object:
    observer = recipes._torchao().histogram(dtype=torch.uint8, eps=2**-12)
    for value in values:
        observer(value)
    observer.count()
    return observer


def test_infinities_are_left_out() -> None:
    infinite = torch.tensor([float("inf"), -float("inf")])
    seen: Any = observer_of(infinite, torch.cat([torch.linspace(-1, 2, 100), infinite]), torch.empty(0))
    assert (float(seen.min_val), float(seen.max_val), float(seen.histogram.sum())) == (-1.0, 2.0, 100.0)


def test_ranges_of_one_histogram() -> None:
    torch.manual_seed(0)
    seen = observer_of(*torch.rand(20, 100_000), torch.tensor([-0.5, 100.0]))
    ends = {recipe.name: tuple(float(end) for end in recipe.chosen(seen)) for recipe in STATIC if recipe.chosen}
    assert ends["range"] == (-0.5, 100.0)
    assert -0.5 <= ends["percentile"][0] < 0.1 and 0.9 < ends["percentile"][1] < 1.2
    assert ends["histogram"][1] < 100


@pytest.mark.parametrize("columns", [7, 56, 112, 1000])
def test_a_part_of_a_large_tensor_is_counted(columns: int) -> None:
    """With its least and its greatest number, and of each column alike: here the column is the number."""
    rows = 6 * recipes.COUNTED // columns
    numbers = torch.arange(columns).float().expand(rows, columns).clone()
    numbers[rows // 2, 0], numbers[rows // 3, -1] = -1.0, columns + 1.0
    seen: Any = observer_of(numbers)
    assert recipes.COUNTED <= float(seen.histogram.sum()) < 2 * recipes.COUNTED
    assert (float(seen.min_val), float(seen.max_val)) == (-1.0, columns + 1.0)
    tenths = torch.histc(numbers, 10, -1, columns + 1) / numbers.numel()
    width = (columns + 2) / seen.bins
    middles = -1 + width * (torch.arange(seen.bins) + 0.5)
    counted = torch.zeros(10).index_add_(0, ((middles + 1) / (columns + 2) * 10).long(), seen.histogram)
    torch.testing.assert_close(counted / counted.sum(), tenths, atol=0.02, rtol=0)


@pytest.mark.parametrize("value", [torch.zeros(5), torch.full((5,), 3.0)])
def test_a_range_of_one_number(value: torch.Tensor) -> None:
    for recipe in STATIC:
        assert recipe.chosen is not None
        assert [float(end) for end in recipe.chosen(observer_of(value))] == [float(value[0])] * 2


def test_samples_run_once() -> None:
    """What is said counts: once for static recipes together, and the measured ones for the dynamic one."""
    said: list[str] = []
    found = quantise(capture(layers(2), SAMPLES[0][0]), SAMPLES, (), None, lambda text, *_: said.append(text))
    assert sum(text.startswith("calibrating") for text in said) == 2 * len(SAMPLES)
    assert found.recipe in ("histogram", "range", "percentile", "dynamic")
    (x,) = SAMPLES[0][0]
    expected = layers(2)(x)
    error = (found.module(x) - expected).norm() / expected.norm()
    assert error < 3 * found.error + 1e-6 and error < 0.05


def test_the_error_is_that_of_the_converted_graph() -> None:
    """Trials round as quantize and dequantize of the result do."""
    for recipe in (*STATIC, recipes.DYNAMIC):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recipes, "STATIC", (recipe,) if recipe.chosen else ())
            patch.setattr(recipes, "DYNAMIC", recipe)
            found = quantise(capture(layers(3), SAMPLES[0][0]), SAMPLES, (), None, lambda *_: None)
        expected = [layers(3)(*args) for args, _ in SAMPLES]
        given = [found.module(*args) for args, _ in SAMPLES]
        assert found.error == pytest.approx(recipes.relative_error([given], [expected]), rel=1e-3), recipe.name


@pytest.mark.parametrize("recipe", [recipes.STATIC[0], recipes.DYNAMIC], ids=lambda recipe: recipe.name)
def test_first_and_last_layer_stay_floats_where_it_helps(monkeypatch: pytest.MonkeyPatch, recipe: recipes.Recipe) -> None:
    model, found = layers(recipes.ENDS_OF), {}
    monkeypatch.setattr(recipes, "STATIC", (recipe,) if recipe.chosen else ())
    monkeypatch.setattr(recipes, "DYNAMIC", recipe)
    for gain in (0.0, 1e9):
        monkeypatch.setattr(recipes, "ENDS_GAIN", gain)
        found[gain] = quantise(capture(model, SAMPLES[0][0]), SAMPLES, (), None, lambda *_: None)
    assert found[1e9].recipe == f"{found[0.0].recipe}, first and last layer kept"
    expected = [model(*args) for args, _ in SAMPLES]
    for each in found.values():
        assert each.error == pytest.approx(
            recipes.relative_error([[each.module(*args) for args, _ in SAMPLES]], [expected]), rel=1e-3
        )
    assert len(codes_in(found[0.0].module)) == recipes.ENDS_OF
    kept = set(codes_in(found[0.0].module)) - set(codes_in(found[1e9].module))
    assert kept == {"0", str(2 * recipes.ENDS_OF - 2)}


def codes_in(module: torch.fx.GraphModule) -> list[str]:
    """Paths of the modules whose weights are codes."""
    layers = (node for node in module.graph.nodes if node.target == torch.ops.aten.linear.default)
    return [module_of(layer) for layer in layers if "dequantize_per_channel" in str(layer.args[1].target)]


def test_weights_that_are_all_equal() -> None:
    model = layers(2)
    for layer, value in zip((model[0], model[2]), (0.25, 0.0), strict=True):
        torch.nn.init.constant_(layer.weight, value)
    found = quantise(capture(model, SAMPLES[0][0]), SAMPLES, (), None, lambda *_: None)
    (x,) = SAMPLES[0][0]
    torch.testing.assert_close(found.module(x), model(x), rtol=0.02, atol=0.01)


def test_what_can_not_be_prepared_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason, and the place in the model that torch's note tells."""

    def refuse(*_: object) -> None:
        raise RuntimeError("no such shape\n\nWhile executing %linear : call_function[target=aten.linear](0.weight)")

    monkeypatch.setattr(recipes._torchao(), "prepare", refuse)
    with pytest.raises(
        CaptureError, match=r"can't prepare the model: While executing %linear .*0\.weight.*RuntimeError: no such shape"
    ):
        quantise(capture(layers(2), SAMPLES[0][0]), SAMPLES, (), None, lambda *_: None)
