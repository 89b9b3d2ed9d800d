"""Calls that are traced, transformed or watched are of the model, whatever kind of module optimize gave."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_proxy import model_of, optimize
from torch import nn
from torch.autograd import forward_ad
from torch.func import functionalize, grad, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import drystone
from agreement import assert_close
from drystone import UnsupportedError
from drystone.runtime import module as runtime_module
from drystone.runtime.traced_calls import is_traced

pytestmark = [
    pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
X, Z = torch.randn(4, 8), torch.randn(4, 8)


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def dual(f: Any) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(Z, torch.ones_like(Z)))).tangent


def flops(f: Any) -> Any:
    with FlopCounterMode(display=False) as counter:
        f(Z)
    assert counter.get_total_flops()
    return torch.tensor(counter.get_total_flops())


def watched(f: Any) -> Any:
    with Counting() as mode:
        result = f(Z)
    assert mode.calls
    return result


def compiled(f: Any, **options: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(f, backend="eager", **options)(Z)


def exported_to_onnx(f: Any) -> Any:
    file = io.BytesIO()
    torch.onnx.export(f, (X,), file, dynamo=False)
    return torch.tensor(len(file.getvalue()) // 100)


ANY: dict[str, Callable[[Any], Any]] = {
    "trace": lambda f: torch.jit.trace(f, X)(Z),
    "trace inside": lambda f: torch.jit.trace(nn.Sequential(f, nn.ReLU()), X)(Z),
    "forward mode": dual,
    "grad": lambda f: grad(lambda x: f(x).sum())(Z),
    "jacrev": lambda f: jacrev(f)(Z),
    "jvp": lambda f: jvp(f, (Z,), (torch.ones_like(Z),))[1],
    "functionalize": lambda f: functionalize(f)(Z),
    "flops": flops,
    "mode": watched,
    "compile": compiled,
    "onnx": exported_to_onnx,
}
WHOLE: dict[str, Callable[[Any], Any]] = {
    "make_fx": lambda f: make_fx(f)(X)(Z),
    "script": lambda f: torch.jit.script(f)(Z),
    "vmap": lambda f: vmap(f)(Z.reshape(2, 2, 8)),
    "export": lambda f: torch.export.export(f, (X,)).module()(Z),
    "export inside": lambda f: torch.export.export(nn.Sequential(f).eval(), (X,)).module()(Z),
    "compile whole": lambda f: compiled(nn.Sequential(f, nn.ReLU()), fullgraph=True),
}


@pytest.fixture(scope="module", params=["whole", "parts", "eager"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = model_of(request.param)
    return model, optimize(model, request.param)


@pytest.mark.parametrize("way", ANY.values(), ids=ANY)
def test_as_of_the_model(way: Callable[[Any], Any], pair: tuple[nn.Module, Any]) -> None:
    model, fast = pair
    assert_close(way(fast), way(model))


@pytest.mark.parametrize("kind", ["whole", "eager"])
@pytest.mark.parametrize("way", WHOLE.values(), ids=WHOLE)
def test_as_of_a_model_that_can_be_captured(way: Callable[[Any], Any], kind: str) -> None:
    model = model_of(kind)
    assert_close(way(optimize(model, kind)), way(model))


@pytest.mark.parametrize("way", [way for name, way in {**ANY, **WHOLE}.items() if name not in ("compile whole",)])
def test_a_loaded_module_says_that_it_has_no_model(way: Callable[[Any], Any], tmp_path: Path) -> None:
    drystone.save(optimize(model_of("whole"), "whole"), tmp_path / "m")
    with pytest.raises(UnsupportedError, match="take the model itself"):
        way(drystone.load(tmp_path / "m"))


def test_torchscript_is_not_traced_again() -> None:
    fast = optimize(model_of("script"), "script")
    with pytest.raises(UnsupportedError, match="TorchScript"):
        torch.jit.trace(fast, X)


def test_other_calls_run_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = optimize(model_of("whole"), "whole")
    monkeypatch.setattr(type(fast), "call_original", lambda *_: pytest.fail("the model was run"))
    fast(X)
    with torch.no_grad(), torch.autocast("cpu"), torch.device("cpu"):
        fast(X)
    with torch.inference_mode():
        fast(X)
    with torch.profiler.profile():
        fast(X)


def test_the_question_is_asked_of_this_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    assert not is_traced() and runtime_module.is_traced is is_traced
    with ThreadPoolExecutor(1) as other, Counting():
        assert is_traced() and not other.submit(is_traced).result()
