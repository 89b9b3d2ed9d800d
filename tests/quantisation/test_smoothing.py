"""SmoothQuant: in floats the same model, in codes one that errs less where channels differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from drystone.capture.export import capture
from drystone.quantisation import recipes
from drystone.quantisation.recipes import quantise
from drystone.quantisation.samples import Call
from drystone.quantisation.smoothing import smooth_channels

WIDTH = 16


class Layers(nn.Module):
    """A norm of which some channels are a hundred times as large, and linear layers that take little of these."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(WIDTH)
        self.first, self.second, self.third = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        with torch.no_grad():
            self.norm.weight[::5] *= 100
            self.norm.bias.normal_()
            for layer in (self.first, self.second, self.third):
                layer.weight[:, ::5] /= 100
        self.eval()


class Shared(Layers):
    """Three layers, and nothing else, read what the norm makes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(self.norm(x), 0.1, training=False)
        return self.first(x) * self.second(x) + self.third(x)


class Residual(Layers):
    """The norm's result is read by others too: BERT's order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return x + self.second(F.gelu(self.first(x)))


class Shown(Layers):
    """It is a result."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(x)
        return self.first(x), x


class Bare(Layers):
    """A norm without numbers to fold into."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(F.layer_norm(x, (WIDTH,)))


class Dead(Layers):
    """A channel that is 0 throughout, and a weight that serves two layers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.norm.weight[3], self.norm.bias[3] = 0, 0
            self.first.weight[:, 4] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.gelu(self.first(self.norm(x))), self.first.weight)


def samples(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, WIDTH, generator=generator) for _ in range(count)]


def calls() -> list[Call]:
    return [((x,), {}) for x in samples()]


def smoothed(model: nn.Module) -> fx.GraphModule:
    module: fx.GraphModule = capture(model, (samples()[0],)).program.module()
    with torch.no_grad():
        smooth_channels(module, calls())
    return module


def count(module: fx.GraphModule, name: str) -> int:
    return sum(node.op == "call_function" and name in str(node.target) for node in module.graph.nodes)


@pytest.mark.parametrize(
    ("model", "multiplied"),
    [(Shared, 0), (Residual, 2), (Shown, 1), (Bare, 1), (Dead, 1)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_in_floats_the_same(model: Callable[[], nn.Module], multiplied: int) -> None:
    floats = model()
    before = {name: value.clone() for name, value in floats.state_dict().items()}
    plain = capture(floats, (samples()[0],)).program.module()
    module = smoothed(floats)
    assert any("_smoothed" in name for name, _ in module.named_buffers())
    for x in samples():
        torch.testing.assert_close(module(x), floats(x), rtol=1e-4, atol=1e-3)
    assert count(module, "aten.mul") - count(plain, "aten.mul") == multiplied
    assert all(torch.equal(value, before[name]) for name, value in floats.state_dict().items())


@pytest.mark.parametrize("model", [Shared, Residual])
def test_codes_err_less(model: Callable[[], nn.Module]) -> None:
    floats = model()
    found = quantise(capture(floats, (samples()[0],)), calls(), (), None, lambda *_: None)
    assert "smoothed" in found.recipe
    (x, *_) = samples()
    error = (found.module(x) - floats(x)).norm() / floats(x).norm()
    assert error < 3 * found.error + 1e-6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "groups_of", lambda *_: [])
        rough = quantise(capture(floats, (samples()[0],)), calls(), (), None, lambda *_: None)
    assert "smoothed" not in rough.recipe and found.error < 0.5 * rough.error


def test_what_can_not_gain_is_not_tried() -> None:
    """Calibration data is run once more for models with norms before linear layers alone."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)).eval()
    for floats, kept, tried in ((model, (), False), (Shared(), (), True), (Shared(), ("first", "second", "third"), False)):
        said: list[str] = []
        quantise(capture(floats, (samples()[0],)), calls(), kept, None, lambda text, *_, said=said: said.append(text))
        assert ("smoothing" in said) == tried
