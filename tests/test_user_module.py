"""The user's module is left exactly as it is, and the optimised one stands in for it."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import drystone


class Block(nn.Module):
    """Weights in both memory formats, tied weights, buffers, hooks, attributes, a part that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.third = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.third.weight = self.second.weight
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(16, 5)
        self.config = {"classes": 5}
        self.first.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.first(x)))
        y = self.third(torch.relu_(self.second(y))) + y
        return self.last(self.drop(y.mean((2, 3))))

    def classes(self) -> int:
        return self.config["classes"]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All of a module that a user could see change."""
    tensors = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        place = (tensor.data_ptr(), tensor.untyped_storage().nbytes(), tensor.shape, tensor.stride(), tensor.dtype)
        tensors[name] = (id(tensor), place, tensor.requires_grad, tensor.grad is None, tensor._version)
    modules = {}
    for name, module in model.named_modules():
        hooks = {key: list(value) for key, value in vars(module).items() if "hooks" in key}
        own = {key: id(value) for key, value in vars(module).items() if not key.startswith("_")}
        modules[name] = (id(module), type(module), module.training, hooks, sorted(vars(module)), own, module.forward.__func__)
    return {"tensors": tensors, "modules": modules, "keys": list(model.state_dict())}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tuning", ["estimate", "measure"])
@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_nothing_of_the_module_changes(dtype: torch.dtype | None, tuning: Any) -> None:
    model = Block().eval()
    calls = []
    handles = [model.register_forward_hook(lambda *a: calls.append("after")), model.norm.register_forward_pre_hook(lambda *a: None)]
    model.last.weight.register_hook(lambda grad: grad)
    x = torch.randn(2, 3, 9, 8)
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = snapshot(model)

    fast = drystone.optimize(model, (x,), dtype=dtype, tuning=tuning)
    fast(x)
    fast.explain()

    after = snapshot(model)
    for part in before:
        assert after[part] == before[part], f"the module's {part} have changed"
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert calls, "a forward hook of the module is part of it"
    for handle in handles:
        handle.remove()


def test_module_still_trains_and_pickles() -> None:
    model = Block().eval()
    x = torch.randn(2, 3, 9, 8)
    fast = drystone.optimize(model, (x,), tuning="estimate")
    want = fast(x)
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied(x), model(x))
    copy.deepcopy(model)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()
    assert model.second.weight.grad is not None
    assert not fast.training
    with pytest.raises(drystone.WeightsChangedError):
        fast(x)
    model.eval()
    fast.refresh()
    assert torch.allclose(fast(x), model(x), atol=1e-5) and not torch.allclose(fast(x), want, atol=1e-5)


def test_random_state_is_untouched() -> None:
    model, x = Block().eval(), torch.randn(2, 3, 9, 8)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    fast = drystone.optimize(model, (x,))
    fast(x)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_global_settings_are_untouched() -> None:
    def settings() -> tuple[Any, ...]:
        return (
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.backends.mkldnn.flags,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_anomaly_enabled(),
        )

    before = settings()
    model, x = Block().eval(), torch.randn(2, 3, 9, 8)
    drystone.optimize(model, (x,))(x)
    assert settings() == before


def test_parameters_are_the_models_own() -> None:
    model = Block().eval()
    fast = drystone.optimize(model, (torch.randn(2, 3, 9, 8),), tuning="estimate")
    assert list(map(id, fast.parameters())) == list(map(id, model.parameters()))
    outer = nn.ModuleList([model, fast])
    assert len(list(outer.parameters())) == len(list(model.parameters())), "listed twice"
    assert list(outer.state_dict()) == [f"{i}.{name}" for i in (0, 1) for name in model.state_dict()]


def test_attributes_are_the_models() -> None:
    model = Block().eval()
    fast = drystone.optimize(model, (torch.randn(2, 3, 9, 8),), tuning="estimate")
    assert fast.config is model.config
    assert fast.classes() == 5
    assert fast.first is model.first
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = fast.nothing_of_the_kind


def test_hooks_on_the_optimised_module_run() -> None:
    x = torch.randn(2, 3, 9, 8)
    fast = drystone.optimize(Block().eval(), (x,), tuning="estimate")
    want = fast(x)
    seen = []
    with fast.register_forward_hook(lambda module, inputs, output: seen.append(output)):
        assert torch.equal(fast(x), want)
    assert len(seen) == 1
    fast(x)
    assert len(seen) == 1


def test_prepared_under_any_grad_mode() -> None:
    model, x = Block().eval(), torch.randn(2, 3, 9, 8)
    want = drystone.optimize(model, (x,), tuning="estimate")(x)
    with torch.inference_mode():
        fast = drystone.optimize(model, (x,), tuning="estimate")
        assert torch.equal(fast(x), want)
    assert torch.equal(fast(x), want)
    with torch.no_grad():
        assert torch.equal(drystone.optimize(model, (x,), tuning="estimate")(x), want)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = drystone.optimize(model, (x,), tuning="estimate")
        assert torch.equal(fast(x), want), "precision is reduced only where dtype= asks for it"


def test_import_changes_nothing() -> None:
    """``import drystone`` loads no library of ours; the face works however its modules were imported before."""
    import subprocess
    import sys

    code = (
        "import drystone, sys\n"
        "assert set(drystone.__all__) <= set(dir(drystone)), 'listing loads nothing either'\n"
        "assert 'drystone.native' not in sys.modules and 'torch' not in sys.modules\n"
        "import torch\n"
        "first, second = drystone.optimize, drystone.optimize\n"
        "for optimize in (first, second, drystone.optimize):\n"
        "    optimize(torch.nn.Linear(2, 2).eval(), torch.zeros(1, 2), tuning='estimate')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
