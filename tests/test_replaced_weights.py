"""Other tensors in the place of the model's weights, for a call or for good: results are the model's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrize

import drystone
from drystone import DrystoneWarning, WeightsChangedError
from drystone.runtime import stamps
from small_models import Decides

X = torch.randn(3, 8)
pytestmark = pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.scale, self.shift = nn.Parameter(torch.rand(4)), torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).relu()) * self.scale + self.shift


def optimised(model: nn.Module) -> nn.Module:
    return drystone.optimize(model, X, tuning="estimate")


def in_place(model: nn.Module) -> nn.Module:
    return drystone.optimize_(model, X, tuning="estimate")


def eagerly(model: nn.Module) -> nn.Module:
    return drystone.optimize(model, X, tuning="estimate", capture="eager")


# How it is prepared, and the Net inside of what is.
WAYS: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[Net], nn.Module]]] = {
    "optimize": (optimised, lambda net: net),
    "in place": (in_place, lambda net: net),
    "parts": (optimised, Decides),
    "parts in place": (in_place, Decides),
    "packed layers": (eagerly, lambda net: net),
}


@pytest.fixture(params=WAYS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A model and its equal, which was prepared, and what gives its results."""
    prepare, around = WAYS[request.param]
    model = around(Net().eval().requires_grad_(False))
    equal = copy.deepcopy(model)
    return model, equal, prepare(equal)


def net_of(model: nn.Module) -> Any:
    return getattr(model, "inner", model)


def assert_equal_in_calls(model: nn.Module, fast: nn.Module, calls: int = 3) -> None:
    for _ in range(calls):
        torch.testing.assert_close(fast(X), model(X))


def test_functional_calls(pair: tuple[nn.Module, nn.Module, nn.Module]) -> None:
    model, _, fast = pair
    given = {name: 1.5 * tensor + 0.1 for name, tensor in model.named_parameters()}
    assert_equal_in_calls(model, fast, 1)
    for _ in range(3):
        torch.testing.assert_close(functional_call(fast, given, (X,)), functional_call(model, given, (X,)))
    assert_equal_in_calls(model, fast)


def test_functional_calls_that_are_transformed(pair: tuple[nn.Module, nn.Module, nn.Module]) -> None:
    model, _, fast = pair
    if isinstance(model, Decides):
        pytest.skip("vmap follows no decision")
    given = {name: torch.stack([tensor, 2 * tensor]) for name, tensor in model.named_parameters()}
    got, want = (vmap(lambda one, module=module: functional_call(module, one, (X,)))(given) for module in (fast, model))
    torch.testing.assert_close(got, want)
    one = {name: tensor[1] for name, tensor in given.items()}
    got, want = (grad(lambda one, module=module: functional_call(module, one, (X,)).sum())(one) for module in (fast, model))
    torch.testing.assert_close(got, want)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def set_parameter(net: Any) -> None:
    net.first.weight = nn.Parameter(torch.ones(8, 8), requires_grad=False)


def load_assigned(net: Any) -> None:
    net.load_state_dict({name: value + 1 for name, value in net.state_dict().items()}, assign=True)


REPLACEMENTS: dict[str, Callable[[Any], Any]] = {
    "a parameter": set_parameter,
    "one of the model": lambda net: setattr(net, "scale", nn.Parameter(torch.ones(4), requires_grad=False)),
    "a buffer": lambda net: setattr(net.norm, "running_mean", torch.ones(8)),
    "a plain tensor": lambda net: setattr(net, "shift", torch.zeros(4)),
    "a submodule": lambda net: setattr(net, "last", nn.Linear(8, 4, bias=False).requires_grad_(False)),
    "load_state_dict": load_assigned,
    "parametrize": lambda net: parametrize.register_parametrization(net.first, "weight", Doubled()),
}


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("way", ["optimize", "in place", "packed layers"])
def test_replacements(way: str, replacement: str) -> None:
    prepare, _ = WAYS[way]
    model = Net().eval().requires_grad_(False)
    equal = copy.deepcopy(model)
    fast = prepare(equal)
    for net in (model, equal):
        torch.manual_seed(0)
        REPLACEMENTS[replacement](net)
    assert_equal_in_calls(model, fast)
    if way != "in place":
        fast.refresh()
        assert_equal_in_calls(model, fast, 1)


def test_replacements_in_parts() -> None:
    model = Decides(Net().eval())
    fast = optimised(model)
    set_parameter(model.inner)
    with pytest.warns(DrystoneWarning, match=r"inner\.first\.weight.*optimise the model again"):
        assert_equal_in_calls(model, fast)


def test_a_replacement_is_warned_of_once_and_taken_over_by_refresh() -> None:
    model = nn.Linear(8, 4).eval().requires_grad_(False)
    fast, calls = optimised(model), list[int]()
    fast.bias = nn.Parameter(torch.ones(4), requires_grad=False)
    model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(DrystoneWarning, match=r"\(bias\); call refresh\(\)") as given:
        assert torch.equal(fast(X), fast(X))
    assert len([warning for warning in given if "bias" in str(warning.message)]) == 1
    assert len(calls) == 2, "hooks run once a call"
    fast.refresh()
    torch.testing.assert_close(fast(X), model(X))


MOVES: dict[str, Callable[[Any], Any]] = {
    "data": lambda net: setattr(net.first.weight, "data", torch.ones(8, 8)),
    "another dtype and back": lambda net: net.first.bfloat16().float(),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("known", [True, False], ids=["layout known", "layout unknown"])
def test_other_memory_is_refused_until_refresh(move: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not known:
        monkeypatch.setattr(stamps, "layout", lambda: None)
    model = Net().eval().requires_grad_(False)
    fast = optimised(model)
    assert_equal_in_calls(model, fast, 1)
    MOVES[move](model)
    with pytest.raises(WeightsChangedError, match=r"first\.weight"):
        fast(X)
    fast.refresh()
    assert_equal_in_calls(model, fast, 1)


def test_the_layout_of_this_torch_is_known() -> None:
    assert stamps.layout() is not None


@pytest.mark.parametrize("move", MOVES)
def test_other_memory_is_taken_over_in_place(move: str) -> None:
    model = Net().eval().requires_grad_(False)
    equal = copy.deepcopy(model)
    fast = in_place(equal)
    for net in (model, equal):
        MOVES[move](net)
    assert_equal_in_calls(model, fast)


def test_the_same_numbers_in_other_memory_are_no_change() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).eval().requires_grad_(False), torch.randn(1, 3, 8, 8)
    fast = drystone.optimize(model, x, tuning="estimate")
    want = fast(x)
    model.to(memory_format=torch.channels_last)
    assert torch.equal(fast(x), want)
    model[0].weight.mul_(2)
    with pytest.raises(WeightsChangedError):
        fast(x)


def test_packed_sequences_in_place() -> None:
    sequence = nn.utils.rnn.pack_sequence([torch.randn(4, 8), torch.randn(2, 8)])
    model = nn.LSTM(8, 8).eval().requires_grad_(False)
    equal = copy.deepcopy(model)
    drystone.optimize_(equal, sequence, tuning="estimate")
    for change in (
        lambda module: setattr(module, "weight_ih_l0", nn.Parameter(torch.full((32, 8), 0.1), requires_grad=False)),
        lambda module: setattr(module.weight_hh_l0, "data", torch.full((32, 8), 0.2)),
    ):
        change(model), change(equal)
        for _ in range(3):
            torch.testing.assert_close(equal(sequence)[0].data, model(sequence)[0].data)
