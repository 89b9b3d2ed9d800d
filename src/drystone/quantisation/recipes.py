"""torchao's PT2E with a few recipes, of which the one is taken that errs least on the calibration data.

Weights have a scale a channel; what becomes codes is what the x86 quantizer says: convolutions and linear layers with what is fused
into them, pools and cats. Softmax and norms stay floats. The calibration data is run once: histograms of it give the scales of all
recipes. Models with norms before linear layers are tried smoothed too, which takes a second run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from drystone import native
from drystone.capture.alone import alone
from drystone.capture.export import Captured
from drystone.errors import CaptureError, UnsupportedError
from drystone.quantisation.noise import decibel, noise_of, outputs_of, relative_error
from drystone.quantisation.observed import Observed, Range
from drystone.quantisation.samples import Call
from drystone.quantisation.smoothing import groups_of, smooth_channels
from drystone.spinner import Say

# Samples on which errors are measured; and on which recipes are compared.
MEASURED, COMPARED = 6, 2
# Of a tensor's numbers, as many of each call are enough for a histogram.
COUNTED = 1 << 13
# The largest weight of 7 bits.
NARROW = 64
# The share of numbers that a percentile leaves out at each end.
TAIL = 1e-4
# The first and the last product stay floats where the error falls to this share of itself, and there are so many products that the
# time of two matters little.
ENDS_GAIN, ENDS_OF = 0.6, 12


@dataclass(frozen=True)
class Recipe:
    """``chosen``: an activation's range, from its histogram; None: each call finds it."""

    name: str
    chosen: Range | None


def _least_square(observer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The range whose codes err least in the squares, over the histogram."""
    if not bool(observer.min_val < observer.max_val):
        return _full(observer)
    low, high = observer._non_linear_param_search()
    return low, high


def _full(observer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return observer.min_val, observer.max_val


def _percentile(observer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = _full(observer)
    share = observer.histogram.double().cumsum(0)
    if not bool(low < high) or not bool(share[-1] > 0):
        return low, high
    inside = ((share >= TAIL * share[-1]) & (share - observer.histogram <= (1 - TAIL) * share[-1])).nonzero()
    width = (high - low) / observer.bins
    return low + width * inside[0, 0], low + width * (inside[-1, 0] + 1)


STATIC = (Recipe("histogram", _least_square), Recipe("range", _full), Recipe("percentile", _percentile))
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
    EPS = 2.0**-12  # the least scale, as the x86 quantizer has it

    def __init__(self) -> None:
        with _quiet():
            import torchao.quantization.pt2e.observer as observers
            import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        class Sampled(observers.HistogramObserver):  # type: ignore[misc]
            """Holds some of the numbers of each call until all calls are over. To count all of them, in a histogram that grows with
            its range, takes as long as the model's products."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.held: list[torch.Tensor] = []

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.hold(x.detach())
                return x

            def hold(self, x: torch.Tensor) -> None:
                if not x.numel():
                    return
                low, high = x.aminmax()
                if not bool(low.isfinite() & high.isfinite()):
                    return self.hold(x[x.isfinite()])
                self.min_val.copy_(torch.min(self.min_val, low))
                self.max_val.copy_(torch.max(self.max_val, high))
                step = x.numel() // COUNTED | 1  # odd, so that it meets all columns
                self.held.append(x.flatten()[::step].float().clone())

            def count(self) -> None:
                if self.held:
                    numbers, self.held = torch.cat(self.held), []
                    self.histogram = torch.histc(numbers, self.bins, float(self.min_val), float(self.max_val))

        self.x86, self.observers, self.prepare, self.convert = x86, observers, prepare_pt2e, convert_pt2e
        self.histogram = Sampled


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


@dataclass
class _Trial:
    """A recipe, and its error: on the samples that are compared, at last on all. ``smooth``: whether linear layers take over what
    differs between channels. ``ends``: whether the first and the last product stay floats."""

    observed: Observed
    recipe: Recipe
    error: float
    smooth: bool = False
    ends: bool = False
    kept: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        traits = ("smoothed",) * self.smooth + ("first and last layer kept",) * self.ends
        return ", ".join((self.recipe.name, *traits))


class _Search:
    def __init__(self, captured: Captured, samples: list[Call], kept: Collection[str], say: Say) -> None:
        self.captured, self.samples, self.kept, self.say = captured, samples, set(kept), say
        self.numbers = range(len(samples))[:: max(1, len(samples) // MEASURED)][:MEASURED]
        self.measured = [samples[number] for number in self.numbers]

    def run(self, max_error: float | None) -> Quantised:
        best = self._best()
        best.observed.round(best.recipe.chosen)
        self._try_ends(best)
        best.error = self._measured_error(best.observed)
        noise = noise_of(best.observed.graph, self.measured, best.observed.real)
        if max_error is not None:
            self._keep_more(best, noise, max_error)
        self.say("converting")
        module = _torchao().convert(best.observed.convertible(best.recipe.chosen))
        return Quantised(module, best.name, {"": decibel(best.error), **noise}, best.error, best.kept)

    def _best(self) -> _Trial:
        """Its observed graph rounds by another recipe, as far as several were tried."""
        trials = self._trials(smooth=False)
        if groups_of(self.captured.program.graph, self.kept):
            trials += self._trials(smooth=True)
        targets = {str(node.target) for node in self.captured.program.graph.nodes if node.op == "call_function"}
        if not any("conv" in target for target in targets):
            dynamic = self._observed(dynamic=True)
            trials.append(_Trial(dynamic, DYNAMIC, self._error(dynamic, DYNAMIC)))
        return min(trials, key=lambda trial: trial.error)

    def _trials(self, smooth: bool) -> list[_Trial]:
        """Those that share what observers see."""
        observed = self._observed(dynamic=False, smooth=smooth)
        return [_Trial(observed, recipe, self._error(observed, recipe), smooth) for recipe in STATIC]

    def _observed(self, dynamic: bool, smooth: bool = False) -> Observed:
        torchao = _torchao()
        quantizer = torchao.x86.X86InductorQuantizer()
        quantizer.set_global(self._config(dynamic))
        for name in sorted(self.kept):
            quantizer.set_module_name_qconfig(name, None)
        plain = _plain(self.captured.program.module())
        if smooth:
            self.say("smoothing")
            smooth_channels(plain, self.measured, self.kept)
        try:
            prepared = torchao.prepare(plain, quantizer)
        except Exception as error:
            raise CaptureError(f"torchao's PT2E can't prepare the model: {_place(error)}{type(error).__name__}: {error}") from error
        observed = Observed(prepared, torchao.observers)
        samples = self.measured if dynamic else self.samples
        measured = range(len(samples)) if dynamic else self.numbers
        observed.calibrate(samples, measured, lambda number: self.say(f"calibrating, sample {number} of {len(samples)}"))
        return observed

    @staticmethod
    def _config(dynamic: bool) -> Any:
        """Without VNNI weights have 7 bits: two products of 8 by 8 do not fit into 16, and exact ones take 1.5 times as long."""
        torchao = _torchao()
        config = torchao.x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic)
        if not dynamic:
            histogram = torchao.histogram.with_args(eps=torchao.EPS)
            activation = replace(config.input_activation, observer_or_fake_quant_ctr=histogram)
            config = replace(config, input_activation=activation, output_activation=activation)
        if not native.has_vnni():
            config = replace(config, weight=replace(config.weight, quant_min=-NARROW, quant_max=NARROW))
        return config

    def _error(self, observed: Observed, recipe: Recipe) -> float:
        self.say(f"measuring errors of the recipe {recipe.name!r}")
        observed.round(recipe.chosen)
        return self._measured_error(observed, COMPARED)

    def _measured_error(self, observed: Observed, samples: int = MEASURED) -> float:
        found = [outputs_of(observed.graph, call) for call in self.measured[:samples]]
        return relative_error(found, observed.outputs[:samples])

    def _try_ends(self, best: _Trial) -> None:
        layers = best.observed.layers()
        if len(layers) < ENDS_OF:
            return
        edges = best.observed.keep([layers[0], layers[-1]])
        if self._measured_error(best.observed, COMPARED) <= ENDS_GAIN * best.error:
            best.ends = True
        else:
            best.observed.restore(edges)

    def _keep_more(self, best: _Trial, noise: dict[str, float], max_error: float) -> None:
        """The modules that err most stay floats, until the error is below. Raises ``UnsupportedError`` if it never is."""
        worst = [name for name in sorted(noise, key=lambda name: noise[name]) if name]
        while best.error > max_error and worst:
            count = max(1, len(best.kept))  # twice as many each time
            more, worst = worst[:count], worst[count:]
            best.kept += more
            best.observed.keep(best.observed.of_modules(more))
            self.say(f"measuring errors, {len(best.kept)} modules kept")
            best.error = self._measured_error(best.observed)
        if best.error > max_error:
            raise UnsupportedError(
                f"max_error={max_error}: with every module kept in float32 but what has no module, the error is {best.error:.3g}"
            )


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
