"""What optimize gives is used as the model is: its parameters are asked for, it is converted, scripted, loaded, indexed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import assert_close
from drystone import InputError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
X = torch.randn(4, 8)
KINDS = ["whole", "parts", "eager", "script"]


class Branch(nn.Sequential):
    """Can't be captured whole: it decides on a number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
            if x.sum() > 1e9:
                return x
        return x


def model_of(kind: str) -> nn.Module:
    layers = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)
    model = (Branch if kind == "parts" else nn.Sequential)(*layers).eval()
    return torch.jit.script(model) if kind == "script" else model


def optimize(model: nn.Module, kind: str) -> Any:
    return drystone.optimize(model, X, tuning="estimate", capture="eager" if kind == "eager" else "auto")


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    model = model_of(request.param)
    return model, optimize(model, request.param)


def loaded(folder: Path) -> Any:
    drystone.save(optimize(model_of("whole"), "whole"), folder / "m")
    return drystone.load(folder / "m")


def test_state_and_modules_are_the_models(pair: tuple[nn.Module, Any]) -> None:
    model, fast = pair
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert [name for name, _ in fast.named_buffers()] == [name for name, _ in model.named_buffers()]
    assert next(fast.parameters()).dtype is torch.float32
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in model.named_modules()]
    assert len(list(fast.children())) == 4 and fast.get_submodule("3") is list(model.children())[3]
    assert len(fast) == 4 and [*fast][3] is fast[3] and fast
    assert fast.get_parameter("0.weight") is not None and repr(fast).count("Linear") == 2


def test_a_model_without_entries_has_none() -> None:
    fast = optimize(nn.Linear(8, 4).eval(), "whole")
    assert fast, "a module without a length is true"
    for ask in (len, iter, lambda module: module[0], lambda module: 1 in module):
        with pytest.raises(TypeError):
            ask(fast)
    assert "in_features=8" in repr(fast)


def test_conversions_to_what_it_is_are_taken(pair: tuple[nn.Module, Any]) -> None:
    model, fast = pair
    want = fast(X)
    for same in (
        fast.to("cpu"),
        fast.cpu(),
        fast.float(),
        fast.to(torch.float32),
        fast.eval(),
        fast.to(memory_format=torch.channels_last),
    ):
        assert same is fast and torch.equal(fast(X), want)
    fast.requires_grad_(False).zero_grad()
    assert not next(model.parameters()).requires_grad


@pytest.mark.parametrize(
    "convert",
    [
        lambda fast: fast.half(),
        lambda fast: fast.bfloat16(),
        lambda fast: fast.double(),
        lambda fast: fast.to(torch.float64),
        lambda fast: fast.to("meta"),
        lambda fast: fast.to_empty(device="cpu"),
        lambda fast: fast.cuda(),
        lambda fast: fast.train(),
        lambda fast: fast.share_memory(),
        lambda fast: fast.compile(),
        lambda fast: nn.Sequential(fast).half(),
        lambda fast: fast.load_state_dict({}, assign=True),
    ],
)
def test_other_conversions_are_refused(convert: Callable[[Any], Any]) -> None:
    model = model_of("whole")
    fast = optimize(model, "whole")
    want = fast(X)
    with pytest.raises(InputError):
        convert(fast)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(fast(X), want)


def test_weights_that_are_loaded_are_taken_over(pair: tuple[nn.Module, Any]) -> None:
    model, fast = pair
    other = {name: tensor * 2 for name, tensor in model.state_dict().items()}
    fast.load_state_dict(other)
    assert torch.equal(model.state_dict()["0.weight"], other["0.weight"])
    assert_close(fast(X), model(X).detach())
    with pytest.raises(RuntimeError, match="Missing key"):
        fast.load_state_dict({})


def test_weights_that_are_loaded_from_outside_are_seen() -> None:
    model = model_of("whole")
    outer = nn.Sequential(optimize(model, "whole"))
    outer.load_state_dict({name: tensor * 2 for name, tensor in outer.state_dict().items()})
    with pytest.raises(drystone.WeightsChangedError), torch.no_grad():
        outer(X)
    outer[0].refresh()
    assert_close(outer(X), model(X).detach())


def test_functions_are_applied_to_the_model_itself() -> None:
    model = nn.Linear(8, 4).eval()
    fast = optimize(model, "whole")
    assert fast.apply(lambda module: nn.init.zeros_(module.weight) if isinstance(module, nn.Linear) else None) is fast
    assert not model.weight.any()
    fast.refresh()
    torch.testing.assert_close(fast(X), model.bias.expand(4, 4).detach())


def test_a_loaded_module_has_no_parameters_and_says_so(tmp_path: Path) -> None:
    fast = loaded(tmp_path)
    assert list(fast.parameters()) == [] and fast.eval() is fast and fast.to("cpu") is fast
    for ask in (torch.jit.script, lambda module: module.load_state_dict({}), lambda module: drystone.optimize(module, X)):
        with pytest.raises(UnsupportedError, match="take the model itself"):
            ask(fast)
    with pytest.raises(InputError):
        fast.half()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("around", ["itself", "whole", "parts", "eager"])
def test_optimised_again(kind: str, around: str) -> None:
    model = model_of(kind)
    inner = optimize(model, kind)
    if around == "itself":
        outer = inner
    else:
        outer = (Branch if around == "parts" else nn.Sequential)(inner, nn.Linear(4, 4), nn.ReLU()).eval()
    if kind == "script" and around == "whole":
        pytest.skip("torch.export does not take TorchScript inside of a module")
    want = outer(X).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = optimize(outer, "eager" if around == "eager" else "whole")
    assert_close(again(X), want)
    assert torch.equal(outer(X), want), "the first one still runs"
    with torch.no_grad():
        dict(model.named_parameters())["3.bias"].add_(1)
    inner.refresh()
    if around != "itself":
        try:
            got = again(X)
        except drystone.WeightsChangedError:
            again.refresh()
            got = again(X)
        assert_close(got, outer(X).detach())
