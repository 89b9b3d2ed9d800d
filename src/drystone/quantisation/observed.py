"""A model of floats with an observer at each operand that may become codes: it sees the calibration data once, tries scales, and is
converted with those that are chosen.

before:  observer(x) → conv(·, observer(w))
trial:   rounded to codes and back(x) → conv(·, w rounded)
after:   quantise(x) → dequantise → conv(·, dequantise(w: int8))
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx, nn

from drystone.graph.quantisation import Dynamic
from drystone.quantisation.noise import Results, Run, is_layer, module_of, outputs_of
from drystone.quantisation.samples import Call

# The least and the greatest number of an operand's codes, from what its observer has seen.
Range = Callable[[Any], tuple[torch.Tensor, torch.Tensor]]
Edges = list[tuple[fx.Node, fx.Node, fx.Node]]

# Samples whose layers' results are held.
HELD = 2


class _Rounds(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Observed:
    """``graph``: as torchao's prepare_pt2e gives it. ``outputs``: of the model in floats, a list for each measured sample;
    ``real``: results of its layers, of the first of these."""

    def __init__(self, graph: fx.GraphModule, observers: Any) -> None:
        self.graph, self._torchao = graph, observers
        self.outputs: list[list[torch.Tensor]] = []
        self.real: list[Results] = []
        self._observers = {
            str(node.target): graph.get_submodule(str(node.target)) for node in graph.graph.nodes if self._observes(node)
        }
        self._weights: dict[str, str] = {}  # their places, by the name of their observers
        for node in graph.graph.nodes:
            if self._observes(node) and node.args[0].op == "get_attr" and hasattr(self._observers[str(node.target)], "ch_axis"):
                self._weights[str(node.target)] = str(node.args[0].target)
        self._rounded: dict[str, nn.Module] = {}

    def _observes(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.graph.get_submodule(str(node.target)), self._torchao.ObserverBase)

    def layers(self) -> list[fx.Node]:
        """Products of codes, in order."""
        return [node for node in self._products() if any(self._is_observer(value) for value in node.all_input_nodes)]

    def _products(self) -> list[fx.Node]:
        return [node for node in self.graph.graph.nodes if is_layer(node)]

    def _is_observer(self, node: fx.Node) -> bool:
        return node.op == "call_module" and str(node.target) in self._observers

    def calibrate(self, samples: Sequence[Call], measured: Collection[int], said: Callable[[int], None]) -> None:
        """Weights are the same in each call, and are observed in the first."""
        for number, call in enumerate(samples):
            said(number + 1)
            if number in measured and len(self.real) < HELD:
                run = Run(self.graph)
                self.outputs.append(run.outputs_of(call))
                self.real.append(run.results)
            else:
                outputs = outputs_of(self.graph, call)
                if number in measured:
                    self.outputs.append(outputs)
            if number == 0:
                self._put(dict.fromkeys(self._weights, nn.Identity()))
        for observer in self._observers.values():
            if isinstance(observer, self._torchao.HistogramObserver):
                observer.count()

    def _put(self, modules: dict[str, nn.Module]) -> None:
        for name, module in modules.items():
            setattr(self.graph, name, module)

    def round(self, chosen: Range | None) -> None:
        """Let operands be rounded to codes, activations by the range that is ``chosen`` of each, or that each call finds."""
        self._put({name: self._rounding(name, observer) for name, observer in self._chosen(chosen).items()})

    def _chosen(self, chosen: Range | None) -> dict[str, Any]:
        """Observers that give the scales; one that serves several operands is one again."""
        made: dict[int, Any] = {}
        for name, observer in self._observers.items():
            if name not in self._weights and chosen is not None and isinstance(observer, self._torchao.HistogramObserver):
                made.setdefault(id(observer), self._of_range(observer, *chosen(observer)))
        return {name: made.get(id(observer), observer) for name, observer in self._observers.items()}

    def _of_range(self, like: Any, low: torch.Tensor, high: torch.Tensor) -> Any:
        ends = {"quant_min": like.quant_min, "quant_max": like.quant_max}
        found = self._torchao.MinMaxObserver(dtype=like.dtype, qscheme=like.qscheme, eps=like.eps.item(), **ends)
        found.min_val.copy_(low)
        found.max_val.copy_(high)
        return found

    def _rounding(self, name: str, observer: Any) -> nn.Module:
        if name in self._weights:
            if name not in self._rounded:
                rounded = _rounded(_attribute(self.graph, self._weights[name]), observer)
                self._rounded[name] = _Rounds(lambda x: rounded)
            return self._rounded[name]
        if isinstance(observer, self._torchao.PlaceholderObserver):
            ends = observer.quant_min, observer.quant_max
            return _Rounds(Dynamic(*ends, float(observer.eps), symmetric=False).rounded)
        scale, zero_point = observer.calculate_qparams()
        codes = float(scale), int(zero_point), observer.quant_min, observer.quant_max
        return _Rounds(lambda x: torch.fake_quantize_per_tensor_affine(x.float(), *codes).to(x.dtype))

    def keep(self, layers: Collection[fx.Node]) -> Edges:
        """Let products read floats. Gives what ``restore`` takes."""
        edges: Edges = []
        for layer in layers:
            for value in layer.all_input_nodes:
                if self._is_observer(value):
                    source = value.args[0]
                    assert isinstance(source, fx.Node)
                    layer.replace_input_with(value, source)
                    edges.append((layer, source, value))
        self.graph.recompile()
        return edges

    def restore(self, edges: Edges) -> None:
        for layer, source, observer in edges:
            layer.replace_input_with(source, observer)
        self.graph.recompile()

    def of_modules(self, names: Collection[str]) -> list[fx.Node]:
        return [layer for layer in self.layers() if module_of(layer) in names]

    def convertible(self, chosen: Range | None) -> fx.GraphModule:
        """With the observers that convert_pt2e reads, which would look for those of products that are kept, too."""
        self._put(self._chosen(chosen))
        observed = set(self.layers())
        for layer in self._products():
            if layer not in observed:
                layer.meta.pop("quantization_annotation", None)
        self.graph.graph.eliminate_dead_code()
        self.graph.recompile()
        return self.graph


def _attribute(module: nn.Module, path: str) -> torch.Tensor:
    parent, _, name = path.rpartition(".")
    found = getattr(module.get_submodule(parent), name)
    assert isinstance(found, torch.Tensor)
    return found.detach()


def _rounded(weight: torch.Tensor, observer: Any) -> torch.Tensor:
    """To what its codes stand for, by a scale a channel."""
    scales, zero_points = observer.calculate_qparams()
    ends = observer.quant_min, observer.quant_max
    return torch.fake_quantize_per_channel_affine(weight.float(), scales, zero_points.int(), observer.ch_axis, *ends).to(
        weight.dtype
    )
