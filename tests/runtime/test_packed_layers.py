"""``capture="eager"``: layers packed, tensors lazy between them, and the model's Python as it is."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import drystone
from agreement import Reference, relative_error
from drystone import CaptureError, InputError, UnsupportedError, WeightsChangedError, native
from drystone.runtime.lazy import LazyTensor
from drystone.runtime.programs import MAX_PROGRAMS

FORMATS = ["plain", "channels_last", native.blocked().name]
packs = pytest.mark.skipif(native.isa() == "none", reason="nothing is packed below AVX2")


class OneConv(nn.Module):
    """The layer of models that differ in ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)


def conv(inputs: int, outputs: int, kernel: int = 3, **more: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **more), _norm(outputs))


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv(inputs, outputs, stride=stride)
        self.second = conv(outputs, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = conv(inputs, outputs, 1, stride=stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.first(x))
        y = self.second(y)
        y += self.shortcut(x)
        return self.relu(y)


class PreActivation(nn.Module):
    """Reads the sum twice: as the residual, and below the next activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = _norm(channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(functional.relu(self.norm(x)))


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = functional.adaptive_avg_pool2d(x, 1)
        return x * self.excite(functional.silu(self.squeeze(scale))).sigmoid()


class Network(nn.Module):
    """Nothing that torch.export takes: it counts, prints nothing but looks at numbers, and decides on them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 5, stride=2, padding=2), _norm(24), nn.SiLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.ModuleList([Block(24, 24, 1), Block(24, 40, 2), Block(40, 40, 1)])
        self.before = nn.Sequential(PreActivation(40), PreActivation(40))
        self.gate = Gate(40)
        self.wide, self.narrow = nn.Conv2d(40, 16, 1), nn.Conv2d(56, 32, 3, padding=1, groups=2)
        self.head = nn.Sequential(nn.Linear(32, 20), nn.GELU(), nn.LayerNorm(20), nn.Linear(20, 7))
        self.taken: list[str] = []

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.gate(self.before(x))
        if x.mean() > 0:  # data decides
            x = torch.cat([functional.gelu(self.wide(x)), x], dim=1)
            self.taken.append("cat")
        else:
            x = torch.cat([x, self.wide(-x)], dim=1)
            self.taken.append("neg")
        features = functional.relu(self.narrow(x), inplace=True)
        pooled = features.mean([2, 3])
        return {"logits": self.head(pooled), "features": features, "parts": features.chunk(2, dim=1)}


def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def optimized(model: nn.Module, x: Any, **options: Any) -> Any:
    return drystone.optimize(model, x, **{"capture": "eager", "tuning": "estimate", **options})


def packed_layers_of(fast: Any) -> list[str]:
    return [layer.name for layer in fast.explain().layers if layer.runs == "packed"]


@packs
@pytest.mark.parametrize("format", FORMATS)
def test_python_control_flow_residuals_and_concatenations(format: str) -> None:
    model, x = network(), torch.randn(2, 3, 45, 51)
    fast = optimized(model, x, formats=format)
    for sign in (1, -1):
        fast(sign * x)
        Reference(model, (sign * x,), format).check_float32(fast(sign * x))
    explained = fast.explain()
    assert explained.runs == "drystone"
    assert explained.format == format
    assert {"stem.0", "blocks.1.first.0", "blocks.1.first.1", "gate.squeeze", "head.0", "head.2"} <= set(packed_layers_of(fast))
    assert "chunk" in explained.asked


@packs
def test_batch_norm_activation_and_residual_run_inside_the_convolution() -> None:
    model, x = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1)).eval(), torch.randn(1, 16, 12, 12)
    fast = optimized(model, x, formats=FORMATS[2])
    fast(x)
    Reference(model, (x,)).check_float32(fast(x))
    (table,) = fast.tables
    programs = [program for structure in table.structures.values() for program in structure.programs.values()]
    computed = [p.implementations for p in programs]
    assert computed, "no program"
    assert all(len(names) == 1 for names in computed), "each convolution takes in what follows it"
    assert fast.explain().asked == {"the model's result": 1}


@packs
@pytest.mark.parametrize("format", FORMATS)
def test_transposed_convolutions(format: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = conv(16, 32, stride=2), nn.ConvTranspose2d(32, 16, 2, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, functional.relu(self.up(self.down(x)))], dim=1)

    model, x = Model().eval(), torch.randn(2, 16, 8, 8)
    fast = optimized(model, x, formats=format)
    Reference(model, (x,)).check_float32(fast(x))
    assert "up" in packed_layers_of(fast)


@packs
def test_what_is_read_twice_is_computed_once() -> None:
    model, x = nn.Sequential(nn.Conv2d(16, 16, 1), PreActivation(16), PreActivation(16)).eval(), torch.randn(1, 16, 8, 8)
    fast = optimized(model, x, formats=FORMATS[2])
    table = fast.tables[0]
    ran: list[str] = []
    run = table.run

    def counted(structure: Any, leaves: Any, format: str) -> Any:
        memory, program = run(structure, leaves, format)
        ran.extend(name for name in program.implementations if "pointwise" not in name)
        return memory, program

    table.run = counted  # type: ignore[method-assign]
    Reference(model, (x,)).check_float32(fast(x))
    assert len(ran) == 3, f"three convolutions, ran {ran}"


def test_the_result_is_of_ordinary_tensors_wherever_they_are() -> None:
    @dataclass
    class Held:
        inner: Any

    class Model(OneConv):
        def forward(self, x: torch.Tensor) -> Any:
            y = self.conv(x)
            return Held([{"y": y, "z": (y.relu(), x)}])

    x = torch.randn(1, 16, 3, 3)
    result = optimized(Model().eval(), x)(x).inner[0]
    assert all(type(tensor) is torch.Tensor for tensor in (result["y"], *result["z"]))
    assert torch.equal(result["y"].relu(), result["z"][0])
    assert torch.equal(result["z"][1], x)


def test_the_users_model_is_untouched() -> None:
    model, x = network(), torch.randn(1, 3, 40, 40)
    before = copy.deepcopy(model.state_dict())
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    given = x.clone()
    fast = optimized(model, x)
    fast(x)
    fast(-x)
    assert torch.equal(x, given)
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == pointers
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            assert value is attributes[name][attribute], f"{name}.{attribute}"
    assert fast.blocks is model.blocks


def test_a_call_that_changes_its_input_does_so() -> None:
    class Model(OneConv):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            x.mul_(2)
            return y + self.conv(x)

    model, x, other = Model().eval(), torch.randn(1, 16, 4, 4), torch.randn(1, 16, 4, 4)
    fast = optimized(model, x.clone())
    want_x, got_x = other.clone(), other.clone()
    with torch.no_grad():
        want = model(want_x)
    assert relative_error(fast(got_x), want) < 1e-5
    assert torch.equal(got_x, want_x)


def _hooked(model: nn.Module, seen: list[Any]) -> None:
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.sum().item()))


def _hooked_before(model: nn.Module, seen: list[Any]) -> None:
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def _patched(model: nn.Module, seen: list[Any]) -> None:
    own = model[0].forward
    model[0].forward = lambda x: own(x) + 1


def _subclassed(model: nn.Module, seen: list[Any]) -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model[0].__class__ = Doubled


def _parametrized(model: nn.Module, seen: list[Any]) -> None:
    nn.utils.parametrizations.weight_norm(model[0])


def _spectral(model: nn.Module, seen: list[Any]) -> None:
    nn.utils.spectral_norm(model[0])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("change", [_hooked, _hooked_before, _patched, _subclassed, _parametrized, _spectral])
def test_layers_that_are_more_than_their_class_run_as_they_are(change: Callable[[nn.Module, list[Any]], None]) -> None:
    seen: list[Any] = []
    model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1))
    change(model, seen)
    model.eval()
    x = torch.randn(1, 16, 5, 5)
    fast = optimized(model, x)
    seen.clear()
    with torch.no_grad():
        want = model(x)
    expected = list(seen)
    seen.clear()
    assert relative_error(fast(x), want) < 1e-5
    assert seen == pytest.approx(expected, rel=1e-4)
    layer = next(layer for layer in fast.explain().layers if layer.name == "0")
    assert layer.runs == "eager"
    assert layer.reason


def test_global_hooks_see_ordinary_behaviour() -> None:
    model, x, sums = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU()).eval(), torch.randn(1, 16, 5, 5), []
    fast = optimized(model, x)
    with nn.modules.module.register_module_forward_hook(lambda module, args, output: sums.append(float(output.sum()))):
        fast(x)
    with torch.no_grad():
        want = model(x)
    assert relative_error(fast(x), want) < 1e-5
    assert sums[-1] == pytest.approx(want.sum().item(), rel=1e-4)


def test_gradients_autocast_and_training_inside_the_model_are_the_originals() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.conv(x)
            with torch.enable_grad():
                slope = torch.autograd.grad(self.conv(y.detach()).sum(), self.conv.weight)[0]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                low = self.conv(y)
            return y, slope, low, self.norm(y)

    model, x = Model().eval(), torch.randn(2, 16, 5, 5)
    fast = optimized(model, x)
    with torch.no_grad():
        want = model(x)
    for got, expected in zip(fast(x), want, strict=True):
        assert got.dtype == expected.dtype
        assert relative_error(got, expected) < (1e-2 if got.dtype is torch.bfloat16 else 1e-5)


def test_attributes_that_the_model_sets_at_a_call_are_followed() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3)

        def forward(self, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
            if stride != 1:
                self.conv.stride = (stride, stride)
            return self.conv(x)

    model, x = Model().eval(), torch.randn(1, 16, 9, 9)
    fast = optimized(model, x)
    with torch.no_grad():
        assert relative_error(fast(x), model(x)) < 1e-5
        got = fast(x, 2)
        assert relative_error(got, model(x, 2)) < 1e-5
    assert got.shape == (1, 16, 4, 4)


def test_other_shapes_and_a_bounded_number_of_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    fast = optimized(model, torch.randn(1, 3, 8, 8))
    for size in range(3, MAX_PROGRAMS + 8):
        x = torch.randn(size % 3 + 1, 3, size, size + 1)
        Reference(model, (x,)).check_float32(fast(x))
    assert len(fast.tables) == MAX_PROGRAMS


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads: int) -> None:
    model, x = network(), torch.randn(1, 3, 33, 33)
    fast = optimized(model, x)
    torch.set_num_threads(threads)
    Reference(model, (x,)).check_float32(fast(x))


def test_calls_from_several_threads() -> None:
    model = nn.Sequential(Block(16, 16, 1), Block(16, 24, 2)).eval()
    inputs = [torch.randn(1, 16, 10, 10) for _ in range(4)]
    fast = optimized(model, inputs[0])
    with torch.no_grad():
        wants = [model(x) for x in inputs]
    errors: list[float] = []

    def work(i: int) -> None:
        for _ in range(20):
            errors.append(relative_error(fast(inputs[i]), wants[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 80
    assert max(errors) < 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_go_where_eagers_go(bad: float) -> None:
    model, x = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1)).eval(), torch.randn(1, 16, 30, 30)
    fast = optimized(model, x)
    x[0, 3, 3, 3] = bad
    with torch.no_grad():
        want = model(x)
    got = fast(x)
    assert torch.equal(got.isnan(), want.isnan())
    finite = want.isfinite()
    assert torch.equal(got.isfinite(), finite)
    assert relative_error(got[finite], want[finite]) < 1e-5


@packs
def test_changed_weights_are_noticed() -> None:
    model, x = nn.Sequential(conv(16, 16), nn.ReLU()).eval(), torch.randn(1, 16, 5, 5)
    fast = optimized(model, x)
    fast(x)
    with torch.no_grad():
        model[0][0].weight.mul_(2)
        model[0][1].running_mean.add_(1)
    with pytest.raises(WeightsChangedError, match=r"0\.0\.weight"):
        fast(x)
    fast.refresh()
    Reference(model, (x,)).check_float32(fast(x))


def test_random_layers_draw_what_eager_draws() -> None:
    class Model(OneConv):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return functional.dropout(y, 0.5, training=True) + torch.randn_like(y)

    model, x = Model().eval(), torch.randn(1, 16, 5, 5)
    fast = optimized(model, x)
    torch.manual_seed(3)
    got = fast(x)
    torch.manual_seed(3)
    with torch.no_grad():
        assert relative_error(got, model(x)) < 1e-5


def test_tensors_kept_from_a_call_serve_the_next() -> None:
    class Model(OneConv):
        def __init__(self) -> None:
            super().__init__()
            self.kept: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            if self.kept is not None:
                y = y + functional.interpolate(self.kept, y.shape[2:]) + self.conv(self.kept).mean()
            self.kept = y
            return y * 1

    models = [Model().eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    shapes = [(6, 6), (6, 6), (9, 9), (6, 6)]
    fast = optimized(models[0], torch.randn(1, 16, 6, 6))
    assert models[0].kept is None
    for shape in shapes:
        x = torch.randn(1, 16, *shape)
        with torch.no_grad():
            assert relative_error(fast(x), models[1](x)) < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 2e-2), (torch.float64, 1e-12), (torch.float16, 1e-2)])
def test_models_of_other_precision(dtype: torch.dtype, limit: float) -> None:
    model = nn.Sequential(Block(16, 16, 1), nn.Conv2d(16, 8, 1)).eval().to(dtype)
    x = torch.randn(1, 16, 9, 9, dtype=dtype)
    got = optimized(model, x)(x)
    with torch.no_grad():
        want = model(x)
    assert got.dtype is dtype
    assert relative_error(got, want) < limit


def test_errors_are_eagers() -> None:
    model, x = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval(), torch.randn(1, 16, 5, 5)
    fast = optimized(model, x)
    for wrong in (torch.randn(1, 8, 5, 5), torch.randn(1, 16, 2, 2), torch.randn(1, 16, 5, 5, dtype=torch.float64)):
        with pytest.raises(RuntimeError) as eager:
            model(wrong)
        with pytest.raises(RuntimeError) as ours:
            fast(wrong)
        assert str(ours.value) == str(eager.value)


def test_bad_arguments_are_refused_with_advice() -> None:
    model, x = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval(), torch.randn(1, 16, 5, 5)
    with pytest.raises(CaptureError, match=r"model\.eval\(\)"):
        optimized(copy.deepcopy(model).train(), x)
    with pytest.raises(CaptureError, match="does not run on its example inputs"):
        optimized(model, torch.randn(2, 2))
    with pytest.raises(UnsupportedError, match=r"model\.to\(torch\.bfloat16\)"):
        optimized(model, x, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="leave out dynamic_shapes"):
        optimized(model, x, dynamic_shapes=({0: torch.export.Dim("n")},))
    with pytest.raises(UnsupportedError, match="strict"):
        optimized(model, x, strict=True)
    with pytest.raises(InputError, match="keeps its weights"):
        optimized(model, x, release_originals=True)
    fast = optimized(model, x)
    with pytest.raises(InputError, match=r"input \[0\] requires grad"):
        fast(x.requires_grad_())
    with pytest.raises(InputError, match="no training mode"):
        fast.train()


def test_it_can_not_be_saved(tmp_path: Any) -> None:
    fast = optimized(nn.Linear(4, 4).eval(), torch.zeros(1, 4))
    with pytest.raises(UnsupportedError, match="PackedLayersModule"):
        drystone.save(fast, tmp_path / "model.drystone")


@packs
def test_measured_preparation_takes_the_fastest_format_or_eager(no_tuning_cache: None) -> None:
    model, x = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2)).eval(), torch.randn(1, 16, 16, 16)
    fast = drystone.optimize(model, x, capture="eager")
    explained = fast.explain()
    assert set(explained.milliseconds) == set(FORMATS)
    assert explained.eager_milliseconds
    assert explained.runs in ("drystone", "eager")
    assert fast.eagerly == (explained.runs == "eager")
    Reference(model, (x,)).check_float32(fast(x))
    assert str(explained)
    assert explained.to_dict()["layers"]


def test_lazy_tensors_of_another_model_are_taken() -> None:
    """One optimised model inside another: what goes over is a plain tensor, or becomes one."""
    inner = optimized(nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU()).eval(), torch.randn(1, 16, 4, 4))

    class Outer(OneConv):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            z = inner(y)
            return y + z

    model, x = Outer().eval(), torch.randn(1, 16, 4, 4)
    got = optimized(model, x)(x)
    assert type(got) is not LazyTensor
    with torch.no_grad():
        assert relative_error(got, model(x)) < 1e-5
