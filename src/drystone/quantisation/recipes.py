"""torchao's PT2E with a few recipes, of which the one is taken that errs least on the calibration data.

Weights have a scale a channel; what becomes codes is what the x86 quantizer says: convolutions and linear layers with what is fused
into them, pools and cats. Softmax and norms stay floats.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from drystone.capture.alone import alone
from drystone.capture.export import Captured
from drystone.errors import CaptureError, UnsupportedError
from drystone.quantisation.noise import Noise, outputs_of, relative_error
from drystone.quantisation.samples import Call
from drystone.spinner import Say

# Samples on which errors are measured.
MEASURED = 8


@dataclass(frozen=True)
class Recipe:
    """``observer``: of activations, by its name in torchao; None: each call finds their range."""

    name: str
    observer: str | None

    def config(self) -> Any:
        x86 = _torchao().x86
        found = x86.get_default_x86_inductor_quantization_config(is_dynamic=self.observer is None)
        if self.observer not in (None, "HistogramObserver"):
            spec = found.input_activation
            constructor = getattr(_torchao().observers, self.observer).with_args(eps=2**-12)
            spec = type(spec)(**{**vars(spec), "observer_or_fake_quant_ctr": constructor})
            found = type(found)(spec, spec, found.weight, found.bias, found.is_qat)
        return found


STATIC = (Recipe("histogram", "HistogramObserver"), Recipe("range", "MinMaxObserver"))
DYNAMIC = Recipe("dynamic", None)


@dataclass
class Quantised:
    """``module``: the graph of codes. ``noise``: by the name of each module with a product, and "" for the whole. ``kept``: modules
    that stay floats, so that the error is below what was asked for."""

    module: fx.GraphModule
    recipe: str
    noise: dict[str, float]
    error: float
    kept: list[str]


class _Torchao:
    def __init__(self) -> None:
        with _quiet():
            import torchao.quantization.pt2e.observer as observers
            import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        self.x86, self.observers, self.prepare, self.convert = x86, observers, prepare_pt2e, convert_pt2e


_loaded: list[_Torchao] = []


def _torchao() -> _Torchao:
    """Raises ``UnsupportedError`` where it is not installed."""
    if not _loaded:
        try:
            _loaded.append(_Torchao())
        except ImportError as error:
            raise UnsupportedError(
                f"dtype=torch.int8 quantises by torchao, which can't be imported ({error}): pip install drystone[int8]"
            ) from error
    return _loaded[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torchao says of libraries for other machines, and of its own deprecations."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def quantise(captured: Captured, samples: list[Call], kept: Collection[str], max_error: float | None, say: Say) -> Quantised:
    """``kept``: names of modules that stay floats. Raises ``CaptureError`` where PT2E can't prepare the model."""
    with alone(), _quiet(), torch.no_grad():
        return _Search(captured, samples, kept, say).run(max_error)


class _Search:
    def __init__(self, captured: Captured, samples: list[Call], kept: Collection[str], say: Say) -> None:
        self.captured, self.samples, self.kept, self.say = captured, samples, set(kept), say
        self.measured = samples[:: max(1, len(samples) // MEASURED)][:MEASURED]

    def run(self, max_error: float | None) -> Quantised:
        best = self._best(self._recipes())
        extra: list[str] = []
        while max_error is not None and best.error > max_error:
            worst = [name for name, _ in sorted(best.noise.items(), key=lambda item: item[1]) if name and name not in self.kept]
            if not worst:
                break
            more = worst[: max(1, len(extra))]  # twice as many each time
            extra += more
            self.kept.update(more)
            recipe = next(recipe for recipe in (*STATIC, DYNAMIC) if recipe.name == best.recipe)
            best = self._quantised(recipe, f"{len(extra)} modules kept")
            best.kept = extra
        if max_error is not None and best.error > max_error:
            raise UnsupportedError(
                f"max_error={max_error}: with every module kept in float32 but what has no module, the error is {best.error:.3g}"
            )
        return best

    def _recipes(self) -> list[Recipe]:
        targets = {str(node.target) for node in self.captured.program.graph.nodes if node.op == "call_function"}
        convolves = any("conv" in target for target in targets)
        return [*STATIC] if convolves else [*STATIC, DYNAMIC]

    def _best(self, recipes: list[Recipe]) -> Quantised:
        found = [self._quantised(recipe, f"recipe {recipe.name}, {i} of {len(recipes)}") for i, recipe in enumerate(recipes, 1)]
        return min(found, key=lambda quantised: quantised.error)

    def _quantised(self, recipe: Recipe, what: str) -> Quantised:
        torchao = _torchao()
        quantizer = torchao.x86.X86InductorQuantizer()
        quantizer.set_global(recipe.config())
        for name in sorted(self.kept):
            quantizer.set_module_name_qconfig(name, None)
        try:
            prepared = torchao.prepare(_plain(self.captured.program.module()), quantizer)
        except Exception as error:
            raise CaptureError(f"torchao's PT2E can't prepare the model: {_place(error)}{type(error).__name__}: {error}") from error
        for number, (args, kwargs) in enumerate(self.samples, 1):
            self.say(f"calibrating ({what}), sample {number} of {len(self.samples)}")
            prepared(*args, **kwargs)
        noise = Noise(prepared, self.measured)
        module = torchao.convert(prepared)
        expected = noise.outputs
        self.say(f"measuring errors ({what})")
        found = [outputs_of(module, call) for call in self.measured]
        whole = relative_error(found, expected)
        return Quantised(module, recipe.name, noise.of(module, whole), whole, [])


def _plain(module: fx.GraphModule) -> fx.GraphModule:
    """As the quantizer knows it: with padding in numbers, and without checks of sizes, which it takes for operators of the modules
    around them. Calls are checked already."""
    checks = ("_assert_scalar", "sym_constrain_range", "_assert_tensor_metadata")
    for node in list(module.graph.nodes):
        if node.op == "call_function" and any(check in str(node.target) for check in checks):
            module.graph.erase_node(node)
        elif node.target in (torch.ops.aten.conv1d.padding, torch.ops.aten.conv2d.padding):
            _pad_by_numbers(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _pad_by_numbers(node: fx.Node) -> None:
    """A convolution whose padding is a word, which the quantizer does not know. What is more at the end is padded before it."""
    names, weight = ("input", "weight", "bias", "stride", "padding", "dilation", "groups"), node.args[1]
    assert isinstance(weight, fx.Node)
    kernel = weight.meta["val"].shape[2:]
    ones = [1] * len(kernel)
    given: dict[str, Any] = {"bias": None, "stride": ones, "padding": "valid", "dilation": ones, "groups": 1}
    given |= dict(zip(names, node.args, strict=False)) | node.kwargs
    steps = [0] * len(kernel) if given["padding"] == "valid" else given["dilation"]
    both = [step * (size - 1) for step, size in zip(steps, kernel, strict=True)]
    if any(size % 2 for size in both):
        pads = [side for size in reversed(both) for side in (0, size % 2)]
        with node.graph.inserting_before(node):
            given["input"] = node.graph.call_function(torch.ops.aten.pad.default, (given["input"], pads))
    given["padding"] = [size // 2 for size in both]
    packet: Any = node.target
    node.target, node.args, node.kwargs = packet.overloadpacket.default, tuple(given[name] for name in names), {}


def _place(error: BaseException) -> str:
    """The module that is named in what torch adds to an error of a graph's node."""
    for line in str(error).splitlines():
        if "While executing" in line:
            return line.strip() + ": "
    return ""
