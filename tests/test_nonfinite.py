"""NaN and infinity, whether given, born inside or in a weight, come out where eager has them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import drystone
from drystone import native
from small_models import Calls, Decides

NAN, INF = math.nan, math.inf
FORMATS = [None, "plain", "channels_last", native.blocked().name]


def check_same(got: Tensor, want: Tensor, tolerance: float = 1e-4, more_nan: bool = False) -> None:
    """``more_nan``: a NaN in a weight meets the padding too in some kernels, and not in others."""
    hidden = want.isnan() & ~got.isnan()
    assert not hidden.any(), f"{int(hidden.sum())} of {int(want.isnan().sum())} NaN became numbers"
    assert more_nan or torch.equal(got.isnan(), want.isnan()), f"{int((got.isnan() & ~want.isnan()).sum())} numbers became NaN"
    both = ~got.isnan()
    infinite = want[both].isinf()
    assert torch.equal(got[both].isinf(), infinite) and torch.equal(got[both][infinite].sign(), want[both][infinite].sign())
    got, want = got[both][~infinite].double(), want[both][~infinite].double()
    assert (got - want).norm() <= tolerance * max(want.norm(), 1.0)


def check(model: nn.Module, *x: Tensor, tolerance: float = 1e-4, more_nan: bool = False, **options: Any) -> None:
    with torch.no_grad():
        want = model(*x)
    got = drystone.optimize(model, x, tuning="estimate", **options)(*x)
    check_same(got, want, tolerance, more_nan)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "clamp": lambda y: y.clamp(-0.5, 0.5),
    "clamp from below": lambda y: y.clamp(min=0.25),
    "clamp from above": lambda y: y.clamp(max=0.25),
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "mish": F.mish,
    "gelu tanh": lambda y: F.gelu(y, approximate="tanh"),
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "square": torch.square,
    "sign": torch.sign,
    "floor": torch.floor,
    "cube": lambda y: y**3,
    "root": lambda y: y**0.5,
    "maximum": lambda y: torch.maximum(y, torch.tensor(0.1)),
    "two": lambda y: F.relu(torch.exp(y)),
    "shifted": lambda y: F.relu6(y * 0.5 + 1),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(16, 16, 3, padding=1), (2, 16, 9, 9)),
    "1x1": (lambda: nn.Conv2d(16, 32, 1), (2, 16, 9, 9)),
    "strided": (lambda: nn.Conv2d(16, 16, 3, 2, 1), (2, 16, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16), (2, 16, 9, 9)),
    "grouped": (lambda: nn.Conv2d(32, 32, 3, padding=1, groups=2), (2, 32, 9, 9)),
    "of a picture": (lambda: nn.Conv2d(3, 16, 3, padding=1), (2, 3, 9, 9)),
    "odd channels": (lambda: nn.Conv2d(5, 7, 3, padding=1), (2, 5, 9, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(16, 16, 2, 2), (2, 16, 9, 9)),
    "1-d": (lambda: nn.Conv1d(16, 16, 3, padding=1), (2, 16, 19)),
    "3-d": (lambda: nn.Conv3d(16, 16, 3, padding=1), (1, 16, 5, 5, 5)),
    "winograd": (lambda: nn.Conv2d(32, 32, 3, padding=1), (1, 32, 20, 20)),
    "linear": (lambda: nn.Linear(16, 48), (12, 16)),
    "one row": (lambda: nn.Linear(16, 48), (1, 16)),
}


def special(*shape: int) -> Tensor:
    """Numbers, among which logarithms and divisions find what makes NaN and both infinities."""
    torch.manual_seed(3)
    x = torch.rand(shape) + 0.1
    flat = x.view(-1)
    flat[3::97], flat[50::101] = -1.0, 0.0
    return x


def born(x: Tensor) -> Tensor:
    return torch.log(x)


PAIRS = [(layer, activation) for layer in ("conv", "1x1", "linear") for activation in ACTIVATIONS]
PAIRS += [
    (layer, activation)
    for layer in LAYERS
    for activation in ("relu", "relu6", "sigmoid", "cube")
    if (layer, activation) not in PAIRS
]


@pytest.mark.parametrize(("layer", "activation"), PAIRS)
def test_every_activation_after_every_product(layer: str, activation: str) -> None:
    make, shape = LAYERS[layer]
    torch.manual_seed(1)
    after = ACTIVATIONS[activation]
    check(Calls(lambda c, x: after(c(born(x))), make()), special(*shape))


@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize("activation", ["relu", "relu6", "hardsigmoid", "maximum"])
@pytest.mark.parametrize("layer", ["conv", "1x1", "depthwise", "grouped", "transposed", "3-d", "linear"])
def test_every_format(layer: str, activation: str, formats: str | None) -> None:
    make, shape = LAYERS[layer]
    after = ACTIVATIONS[activation]
    check(Calls(lambda c, x: after(c(born(x))), make()), special(*shape), formats=formats)


BIRTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "log": torch.log,
    "root": lambda x: torch.sqrt(x - 0.5),
    "quotient": lambda x: x / (x - x.round()).clamp(min=0),
    "inf - inf": lambda x: 1 / x.clamp(min=0) - 1 / x.clamp(min=0),
    "inf * 0": lambda x: (1 / x.clamp(min=0)) * x.clamp(min=0),
    "overflow of a sum": lambda x: x * 3e38 + x * 3e38,
    "overflow of a product": lambda x: (x * 1e30) * (x * 1e30),
    "overflow of exp": lambda x: torch.exp(x * 200),
    "power": lambda x: (x - 0.5) ** 0.5,
    "softmax": lambda x: torch.softmax(1 / x.clamp(min=0), 1),
    "mean": lambda x: x + (x * 3e38).sum(1, keepdim=True),
    "layer norm": lambda x: F.layer_norm(1 / x.clamp(min=0), x.shape[1:]),
    "pool": lambda x: F.max_pool2d(1 / x, 3, 1, 1),
    "only torch has it": lambda x: torch.special.digamma(x),
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("birth", BIRTHS)
@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_born_inside(birth: str, dtype: torch.dtype | None) -> None:
    start = BIRTHS[birth]
    model = Calls(lambda a, b, x: F.relu6(b(F.relu(a(start(x))))), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1))
    x = special(2, 16, 9, 9)
    if dtype is None:
        return check(model, x)
    with torch.no_grad():
        got = drystone.optimize(model, x, tuning="estimate", dtype=dtype)(x)
        want = model(x)
    assert torch.equal(got.isnan(), want.isnan())
    return None


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["weight", "bias"])
@pytest.mark.parametrize("activation", ["relu6", "sigmoid"])
@pytest.mark.parametrize("layer", ["conv", "1x1", "depthwise", "grouped", "transposed", "1-d", "3-d", "winograd", "linear"])
def test_in_a_weight(layer: str, activation: str, where: str, value: float) -> None:
    make, shape = LAYERS[layer]
    after = ACTIVATIONS[activation]
    model = Calls(lambda c, x: after(c(x)), make())
    getattr(model.layers[0], where).view(-1)[5] = value
    x = torch.rand(shape) + 0.1  # no zero meets an infinity but in the padding
    check(model, x, more_nan=where == "weight")


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_in_a_batch_norm(name: str, value: float) -> None:
    norm = nn.BatchNorm2d(16)
    model = Calls(lambda c, n, x: F.relu6(n(c(x))), nn.Conv2d(16, 16, 3, padding=1), norm)
    getattr(norm, name).data[3] = value
    check(model, torch.randn(2, 16, 9, 9), more_nan=True)


def test_weights_so_large_that_sums_overflow() -> None:
    for scale in (1e20, 1e36, 3e38):
        model = Calls(lambda a, b, x: F.relu6(b(F.relu(a(x)))), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1))
        for layer in model.layers:
            layer.weight.data = layer.weight[:, :1].sign().expand(-1, 16, 1, 1) * scale  # no sum hangs on its order
        check(model, torch.rand(2, 16, 9, 9) + 1)


def deep(activation: Callable[[Tensor], Tensor] = F.relu) -> nn.Module:
    """Thirty convolutions, residuals among them, whose bound grows beyond float32."""
    convs = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(30)]

    def forward(*given: Any) -> Tensor:
        *layers, x = given
        for i in range(0, len(layers), 2):
            x = activation(layers[i + 1](activation(layers[i](x))) + x)
        return x

    return Calls(forward, *convs)


@pytest.mark.parametrize("formats", FORMATS)
def test_deep_in_a_network(formats: str | None) -> None:
    """In the input, in one weight in the middle, and where numbers grow until they overflow."""
    torch.manual_seed(0)
    model, x = deep(), torch.randn(1, 16, 9, 9)
    fast = drystone.optimize(model, x, tuning="estimate", formats=formats)
    for value in (0.5, NAN, INF, -INF, 3e38, 1e12):
        x[0, 3, 4, 4] = value
        check_same(fast(x), model(x))
    middle = copy.deepcopy(model)
    middle.layers[14].weight[2, 3, 1, 1] = NAN
    check(middle, torch.randn(1, 16, 9, 9), more_nan=True, formats=formats)
    for layer in model.layers:
        layer.weight *= 60
    x = torch.rand(1, 16, 9, 9)
    got, want = drystone.optimize(model, x, tuning="estimate", formats=formats)(x), model(x)
    assert want.isnan().sum() > 1000
    assert (got.isnan() ^ want.isnan()).sum() < 200  # which sums overflow hangs on their order


@pytest.mark.skipif(native.isa() == "none", reason="eager runs")
def test_guards_are_few() -> None:
    fast = drystone.optimize(deep(), torch.randn(1, 16, 9, 9), tuning="estimate")
    guards = [step for step in fast.explain().steps if step.kind == "guard"]
    assert len(guards) <= 5
    calm = drystone.optimize(deep(torch.tanh), torch.randn(1, 16, 9, 9), tuning="estimate")
    assert not [step for step in calm.explain().steps if step.kind == "guard"]


def test_residuals_and_concatenations() -> None:
    def forward(a: nn.Module, b: nn.Module, c: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(a(x))
        z = torch.cat([F.relu6(b(torch.log(y))), y / x], 1)
        return F.relu(c(z) + x)

    model = Calls(forward, nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(32, 16, 1))
    for formats in FORMATS:
        check(model, special(2, 16, 9, 9), formats=formats)


def test_squeeze_and_excitation() -> None:
    def forward(a: nn.Module, b: nn.Module, x: Tensor) -> Tensor:
        y = F.hardswish(a(torch.sqrt(x)))
        return y * F.hardsigmoid(b(F.relu(y.mean((2, 3), keepdim=True))))

    check(Calls(forward, nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)), special(2, 16, 9, 9))


@pytest.mark.parametrize("activation", [F.relu, torch.tanh, F.hardswish])
def test_attention_blocks(activation: Callable[[Tensor], Tensor]) -> None:
    def forward(norm: nn.Module, q: nn.Module, k: nn.Module, v: nn.Module, up: nn.Module, down: nn.Module, x: Tensor) -> Tensor:
        h = norm(torch.log(x))
        heads = [y.unflatten(-1, (4, 8)).transpose(1, 2) for y in (q(h), k(h), v(h))]
        h = x + F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return h + down(activation(up(h)))

    layers = [nn.LayerNorm(32), *(nn.Linear(32, 32) for _ in range(3)), nn.Linear(32, 64), nn.Linear(64, 32)]
    model = Calls(forward, *layers)
    x = torch.rand(3, 6, 32) + 0.1
    fast = drystone.optimize(model, x, tuning="estimate")
    for value in (1.0, -1.0, 0.0, NAN, INF):
        x[1, 2, 5] = value
        check_same(fast(x), model(x), 1e-3)


def network() -> nn.Module:
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1),
    ]
    return nn.Sequential(*layers, nn.Hardtanh(), nn.Flatten(), nn.Linear(16 * 16, 8), nn.ReLU()).eval().requires_grad_(False)


SPOILT = [NAN, INF, -INF, 3e38]


def spoilt(value: float) -> Tensor:
    torch.manual_seed(2)
    x = torch.randn(1, 3, 8, 8)
    x[0, 1, 4, 5] = value
    return x


@pytest.mark.parametrize("options", [{"capture": "eager"}, {"release_originals": True}, {"dtype": torch.bfloat16}], ids=str)
def test_other_entries(options: dict[str, Any]) -> None:
    model = network()
    twin = copy.deepcopy(model)
    fast = drystone.optimize(model, torch.randn(1, 3, 8, 8), tuning="estimate", **options)
    for value in SPOILT:
        got, want = fast(spoilt(value)), twin(spoilt(value))
        assert torch.equal(got.isnan(), want.isnan())
        if options.get("dtype") is None:
            check_same(got, want)


@pytest.mark.parametrize("capture", ["auto", "eager"])
def test_born_in_weights_of_other_entries(capture: str) -> None:
    model = network()
    model[3].weight[2, 3, 1, 1] = NAN
    model[5].bias[1] = -INF
    check(model, torch.randn(1, 3, 8, 8), capture=capture, more_nan=True)


def test_artefacts(tmp_path: Path) -> None:
    model = network()
    drystone.save(drystone.optimize(model, torch.randn(1, 3, 8, 8), tuning="estimate"), tmp_path / "m.drystone")
    again = drystone.load(tmp_path / "m.drystone")
    for value in SPOILT:
        check_same(again(spoilt(value)), model(spoilt(value)))
    model[3].weight[2, 3, 1, 1] = NAN
    drystone.save(drystone.optimize(model, torch.randn(1, 3, 8, 8), tuning="estimate"), tmp_path / "n.drystone")
    check_same(drystone.load(tmp_path / "n.drystone")(spoilt(1.0)), model(spoilt(1.0)), more_nan=True)


def test_compiled() -> None:
    model = network()
    compiled = torch.compile(model, backend="drystone")
    with torch.no_grad():
        for value in (1.0, *SPOILT):
            check_same(compiled(spoilt(value)), model(spoilt(value)))


def test_torchscript() -> None:
    model = network()
    fast = drystone.optimize(torch.jit.trace(model, spoilt(1.0)), spoilt(1.0), tuning="estimate")
    for value in SPOILT:
        check_same(fast(spoilt(value)), model(spoilt(value)))


def test_parts() -> None:
    model = Decides(network())
    with pytest.warns(drystone.DrystoneWarning):
        fast = drystone.optimize(model, spoilt(1.0), tuning="estimate")
    for value in SPOILT:
        check_same(fast(spoilt(value)), model(spoilt(value)))


def test_a_call_after_one_with_nan_is_as_before() -> None:
    model = network()
    fast = drystone.optimize(model, spoilt(1.0), tuning="estimate")
    before = fast(spoilt(1.0))
    fast(spoilt(NAN))
    assert torch.equal(fast(spoilt(1.0)), before)


def test_other_batches_and_threads() -> None:
    model = network()
    fast = drystone.optimize(model, spoilt(1.0), tuning="estimate")
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for value in SPOILT:
            x = torch.cat([spoilt(1.0), spoilt(value), spoilt(2.0)])
            check_same(fast(x), model(x))
