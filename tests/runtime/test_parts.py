"""Models that can't be captured whole: their parts run programs, the rest runs eagerly, results are the model's."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import Reference, assert_close
from drystone import CaptureError, DrystoneWarning, InputError, UnsupportedError, native
from drystone.runtime.module import OptimizedModule
from drystone.runtime.parts import PartedModule, PartForward

pytestmark = [
    pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning"),
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
]
X = (2, 3, 9, 8)


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class EarlyExit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.drop = block(3, 16), block(16, 16), nn.Dropout()
        self.head = nn.Linear(16, 5)
        self.config = {"classes": 5}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        if y.mean() > 0.7:  # decided by the data
            return self.head(y.mean((2, 3)))
        return self.head(self.drop(self.deep(y)).mean((2, 3))) + 1


def optimize(model: nn.Module, *inputs: Any, **options: Any) -> Any:
    fast = drystone.optimize(model.eval(), inputs, **{"tuning": "estimate", **options})
    assert isinstance(fast, PartedModule)
    return fast


def running(fast: Any) -> dict[str, str]:
    return {part.name: part.runs for part in fast.explain().parts}


def native_parts(fast: Any) -> set[str]:
    return {name for name, runs in running(fast).items() if runs == "drystone"}


def reason(fast: Any, name: str) -> str:
    return next(part.reason for part in fast.explain().parts if part.name == name)


def check(fast: Any, model: nn.Module, *inputs: torch.Tensor) -> None:
    Reference(model, inputs).check_float32(fast(*inputs))


def test_control_flow_between_blocks() -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    fast = optimize(model, x)
    assert native_parts(fast) == {"stem", "deep", "head"}
    assert "test_parts.py" in reason(fast, "") and "if y.mean() > 0.7:  # decided by the data" in reason(fast, "")
    check(fast, model, x)
    brighter = x * 10
    with torch.no_grad():
        assert model.stem(x).mean() < 0.6 and model.stem(brighter).mean() > 0.8, "the inputs do not take both ways"
    check(fast, model, brighter)


def test_a_way_that_the_example_does_not_take_runs_eagerly() -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    fast = optimize(model, x * 10)
    assert native_parts(fast) == {"stem", "head"} and "no call of it is seen" in reason(fast, "deep")
    check(fast, model, x)


class Steps(nn.Module):
    """A loop over a list, as long as a number in a tensor says; two entries of the list are one module."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(16, 16)
        self.layers = nn.ModuleList([nn.Linear(8, 16), shared, nn.Sequential(nn.Linear(16, 16), nn.Tanh()), shared])

    def forward(self, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        for i in range(int(count.item())):
            x = self.layers[i](x)
        return x


def test_loop_over_a_list_and_tied_modules() -> None:
    model, x = Steps().eval(), torch.randn(4, 8)
    fast = optimize(model, x, torch.tensor(4))
    assert native_parts(fast) == {"layers.0", "layers.1", "layers.2"}, "the tied module is one part"
    assert fast._tree.layers[1] is fast._tree.layers[3]
    for count in (4, 1, 3):
        check(fast, model, x, torch.tensor(count))


class TwoShapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(8, 16), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e9:
            return x
        return self.layer(x).sum(0) + self.layer(x[:1]).sum(0)


def test_part_that_is_called_with_two_shapes() -> None:
    model, x = TwoShapes().eval(), torch.randn(4, 8)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        fast = optimize(model, x)
        check(fast, model, x)
    assert len([w for w in given if issubclass(w.category, DrystoneWarning)]) == 1
    (part,) = [part for part in fast.explain().parts if part.runs == "drystone"]
    assert [program.steps[-1].shape[0] for program in part.programs] == [4, 1]


def test_other_shapes_than_the_examples_run_eagerly_and_say_so() -> None:
    model = TwoShapes().eval()
    fast = optimize(model, torch.randn(4, 8))
    with pytest.warns(DrystoneWarning, match=r"'layer'.*\[4, 8\].*\[7, 8\]") as given:
        check(fast, model, torch.randn(7, 8))
        check(fast, model, torch.randn(7, 8))
    assert len(given) == 1, "once is enough"
    assert "[7, 8]" in reason(fast, "layer")


@dataclass
class Found:
    """pytree does not know it, so export can't have it."""

    score: torch.Tensor
    count: int


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, given: dict[str, torch.Tensor], *, scale: float = 1.0) -> Found:
        score = self.layer(given["x"]) * scale
        return Found(score, int((given["mask"] > 0).sum()))


def test_dict_in_dataclass_out() -> None:
    model = Structured().eval()
    given = {"x": torch.randn(3, 8), "mask": torch.tensor([1, 0, 1])}
    fast = drystone.optimize(model, (given,), example_kwargs={"scale": 2.0}, tuning="estimate")
    assert native_parts(fast) == {"layer"}
    got, want = fast(given, scale=3.0), model(given, scale=3.0)
    assert type(got) is Found and got.count == want.count == 2
    assert_close(got.score, want.score)


class ReadsChildren(nn.Module):
    """Parents know more of their children than how to call them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e9:
            return x
        y = self.encoder(x)
        assert isinstance(self.encoder, Encoder) and isinstance(self.encoder.layer, nn.Linear)
        assert "scale" in inspect.signature(self.encoder.forward).parameters
        assert next(self.parameters()).is_floating_point()
        return F.linear(y, self.encoder.layer.weight) + self.encoder.project(x) + self.encoder.width


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.width = nn.Linear(8, 8), 8

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.layer(x).relu() * scale

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * 2


def test_parent_that_reads_weights_and_calls_other_methods() -> None:
    model, x = ReadsChildren().eval(), torch.randn(3, 8)
    fast = optimize(model, x)
    assert native_parts(fast) == {"encoder"}
    check(fast, model, x)


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.below = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.below(self.own(x)) if x.sum() < 1e9 else x


def test_hooks_of_the_user_run_at_each_call() -> None:
    model, x = Hooked().eval(), torch.randn(3, 8)
    seen: list[str] = []

    def double(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            seen.append(name)
            return output * 2

        return hook

    model.own.register_forward_hook(double("own"))
    model.below[0].register_forward_hook(double("below"))
    fast = optimize(model, x)
    assert native_parts(fast) == {"own", "below.0"} and "hooks" in reason(fast, "below")
    with torch.no_grad():
        want = model(x)
    seen.clear()
    assert_close(fast(x), want)
    assert seen == ["own", "below"]


class OwnCall(nn.Linear):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) + 1


def test_class_with_a_call_of_its_own() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = OwnCall(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if x.sum() < 1e9 else x

    model, x = Model().eval(), torch.randn(3, 8)
    fast = optimize(model, x)
    assert native_parts(fast) == {"layer"}
    check(fast, model, x)


# -- modules that do more than return


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.relu_())


class GivesView(InPlace):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x[:, :4], self.layer(x)


class Keeps(InPlace):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.layer(x)
        return self.last * 2


class Counts(InPlace):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.layer(x) * self.count


class Appends(InPlace):
    def forward(self, x: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        features.append(self.layer(x))
        return features[-1]


class Around(nn.Module):
    """Sees each of those effects."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e9:
            return x
        x = x * 1
        features: list[torch.Tensor] = []
        y = self.inner(x, features) if isinstance(self.inner, Appends) else self.inner(x)
        if isinstance(y, tuple):
            y[0].zero_()
            y = y[1]
        return y + x + sum(features) + getattr(self.inner, "last", 0)


@pytest.mark.parametrize(
    "inner, word",
    [(InPlace, "in place"), (GivesView, "shares memory"), (Keeps, "'last'"), (Counts, "'count'"), (Appends, "container")],
)
def test_modules_with_effects_stay_eager_around_their_parts(inner: type[nn.Module], word: str) -> None:
    model, x = Around(inner()).eval(), torch.randn(3, 8)
    fast = optimize(copy.deepcopy(model), x)
    assert native_parts(fast) == {"inner.layer"} and word in reason(fast, "inner")
    for _ in range(3):
        with torch.no_grad():
            want = model(x)
        assert_close(fast(x), want)


class SetsFlag(nn.Module):
    """Tells a module below its child by an attribute what to do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Flagged())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inner[0].twice = bool(x.sum() > 0)
        return self.inner(x)


class Flagged(InPlace):
    def __init__(self) -> None:
        super().__init__()
        self.twice = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * 2 if self.twice else self.layer(x)


def test_part_whose_attribute_is_set_later_runs_eagerly_from_then_on() -> None:
    model, x = SetsFlag().eval(), -torch.rand(3, 8)
    fast = optimize(model, x)
    assert native_parts(fast) == {"inner"}
    check(fast, model, x)
    assert native_parts(fast) == {"inner"}, "the same value again changes nothing"
    with pytest.warns(DrystoneWarning, match="'inner' runs eagerly from here on.*'twice'"):
        got = fast(-x)
    assert not model.inner[0].twice, "the user's module is not touched"
    Reference(model, (-x,)).check_float32(got)
    check(fast, model, x)
    assert native_parts(fast) == set() and "'twice'" in reason(fast, "inner")


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Noise()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if x.sum() < 1e9 else x


class Noise(InPlace):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.randn_like(x)


def test_random_numbers_are_drawn_alike_where_results_are_compared() -> None:
    assert native_parts(optimize(Noisy(), torch.randn(3, 8), tuning="measure")) <= {"inner"}
    fast = optimize(Noisy(), torch.randn(3, 8))
    assert native_parts(fast) == {"inner"}
    assert not torch.equal(fast(torch.ones(3, 8)), fast(torch.ones(3, 8)))


def test_the_model_is_left_as_it_is() -> None:
    model, x = Around(Counts()).eval(), torch.randn(3, 8)
    model.inner.layer.register_forward_hook(lambda *_: None)
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    held = [{name: list(value) for name, value in vars(module).items() if "hooks" in name} for module in model.modules()]
    tensors = {name: (id(tensor), tensor._version, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    random = torch.get_rng_state()
    fast = optimize(model, x, tuning="measure")
    fast(x)
    for (module, before), hooks in zip(attributes, held, strict=True):
        assert list(vars(module)) == list(before) and all(vars(module)[name] is before[name] for name in before)
        assert {name: list(value) for name, value in vars(module).items() if "hooks" in name} == hooks
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert (id(tensor), tensor._version) == tensors[name][:2] and torch.equal(tensor, tensors[name][2])
    assert torch.equal(torch.get_rng_state(), random)


# -- the same manners as of a model that is one program


def test_manners() -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    fast = optimize(model, x)
    assert fast.config is model.config and fast.stem is model.stem and next(fast.parameters()) is model.stem[0].weight
    assert fast.eval() is fast and not fast.training
    with pytest.raises(InputError, match="training mode"):
        fast.train()
    x.requires_grad_()
    with pytest.raises(InputError, match=r"\[0\].*no_grad"):
        fast(x)
    with torch.no_grad():
        want = fast(x)
    with torch.inference_mode():
        assert torch.equal(fast(x), want)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(x.detach()), want)
    assert not fast(x.detach()).requires_grad
    with pytest.raises(InputError, match=r"\[0\].*CPU.*meta"):
        fast(x.to("meta"))


@pytest.mark.parametrize("options", [{"capture": "whole"}, {"strict": True}], ids=str)
def test_whole_and_strict_raise(options: dict[str, Any]) -> None:
    lines, first = inspect.getsourcelines(EarlyExit.forward)
    number = first + next(i for i, line in enumerate(lines) if "decided by the data" in line)
    with pytest.raises(CaptureError, match=re.escape(f"{Path(__file__).name}:{number}: if y.mean() > 0.7:")):
        drystone.optimize(EarlyExit().eval(), torch.randn(X), **options)


class NoPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([Chooses()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner[0](x)


class Chooses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0].exp() * self.weight.sum()


def test_no_part_at_all() -> None:
    with pytest.raises(UnsupportedError, match=r"(?s)x\[x > 0\].*None of its submodules.*inner\.0 \(Chooses\)"):
        drystone.optimize(NoPart().eval(), torch.randn(8), tuning="estimate")


def test_a_model_that_does_not_run_raises_its_error() -> None:
    with pytest.raises(CaptureError, match=r"stem|channels"):
        drystone.optimize(EarlyExit().eval(), torch.randn(2, 5, 9, 8), tuning="estimate")


def test_warning_and_explanation_name_the_parts() -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    with pytest.warns(DrystoneWarning) as given:
        fast = drystone.optimize(model, x * 10, tuning="estimate")
    (warning,) = [w for w in given if issubclass(w.category, DrystoneWarning)]
    assert warning.filename == __file__
    for words in ("EarlyExit", "if y.mean() > 0.7", "'stem' (Sequential)", "'deep' (Sequential): no call of it is seen"):
        assert words in str(warning.message)
    text = str(fast.explain())
    for words in ("EarlyExit", "decided by the data", "stem", "no call of it is seen", "it has no parameters", "conv"):
        assert words in text
    as_dict = fast.explain().to_dict()
    assert as_dict["parts"][1]["name"] == "stem" and as_dict["parts"][1]["programs"][0]["steps"] and as_dict["runs"] == "drystone"


def test_measured_result_is_the_models_whatever_is_faster() -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    fast = optimize(model, x, tuning="measure")
    explained = fast.explain()
    assert explained.runs in ("drystone", "eager") and all(
        part.runs == "eager" for part in explained.parts if explained.runs == "eager"
    )
    check(fast, model, x)


def test_bfloat16() -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    fast = optimize(model, x, dtype=torch.bfloat16)
    assert native_parts(fast) == {"stem", "deep", "head"}
    Reference(model, (x,)).check_bfloat16(fast(x))


def test_part_whose_program_is_wrong_gives_way_to_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    right = OptimizedModule.forward
    factor = {"Sequential": 1.001}
    monkeypatch.setattr(
        OptimizedModule, "forward", lambda self, *args: right(self, *args) * factor.get(type(self._model).__name__, 1)
    )
    fast = optimize(model, x)
    assert native_parts(fast) >= {"stem.0", "deep.0", "head"} and "differ from its own by" in reason(fast, "stem")
    check(fast, model, x)


def test_whole_that_differs_by_more_than_rounding_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    right = PartForward.call
    monkeypatch.setattr(PartForward, "call", lambda self, *args: right(self, *args) * 1.001)
    with pytest.warns(DrystoneWarning, match="differ from its own by"):
        fast = optimize(model, x)
    assert fast.explain().runs == "eager" and not native_parts(fast) and "differ from its own" in str(fast.explain())
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))


def test_a_slower_whole_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    monkeypatch.setattr("drystone.preparer.against_eager", lambda *_, **__: (1.0, 2.0))
    monkeypatch.setattr("drystone.sources.parted.against_eager", lambda *_, **__: (2.0, 1.0))
    fast = optimize(model, x, tuning="measure")
    assert fast.explain().runs == "eager" and not native_parts(fast)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))


def test_calls_from_several_threads_at_once() -> None:
    model = EarlyExit().eval()
    inputs = [torch.randn(X) * scale for scale in (1, 10) for _ in range(4)]
    fast = optimize(model, inputs[0])
    wanted = [fast(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(fast, inputs * 4), wanted * 4, strict=True):
            assert torch.equal(got, want)


def test_thread_count_changes_between_calls() -> None:
    model, x = EarlyExit().eval(), torch.randn(X)
    fast = optimize(model, x)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        check(fast, model, x)


def test_parts_that_share_a_module_without_weights() -> None:
    shared = nn.SiLU()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.act, self.drop = nn.Linear(8, 8), shared, nn.Sequential(shared)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.drop(self.act(self.layer(x)))

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = shared(block(x))
                if x.sum() > 1e9:
                    x = -x
            return x

    model, x = Shared().eval(), torch.randn(4, 8)
    fast = optimize(model, x)
    assert native_parts(fast) == {"blocks.0", "blocks.1", "blocks.2"}
    check(fast, model, x)
    assert native_parts(fast) == {"blocks.0", "blocks.1", "blocks.2"}
    fast._tree.blocks[1].act.inplace = True  # the model sets something: all parts that use it follow
    assert native_parts(fast) == set()
    check(fast, model, x)
