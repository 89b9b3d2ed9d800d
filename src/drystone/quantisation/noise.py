"""How far each layer of a graph of codes is from the same layer of floats: signal-to-noise ratios.

A layer is given what it reads in floats, so that its ratio is its own and not that of all before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from drystone.quantisation.samples import Call

_PRODUCTS = ("conv", "linear", "matmul", "mm.")
# Of what has no noise: float32's own rounding is about there.
MOST = 140.0


def is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and any(name in str(node.target) for name in _PRODUCTS)


def module_of(node: fx.Node) -> str:
    """The path of the module that the node comes from."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def outputs_of(module: fx.GraphModule, call: Call) -> list[torch.Tensor]:
    args, kwargs = call
    leaves = pytree.tree_leaves(module(*args, **kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def relative_error(found: Sequence[Sequence[torch.Tensor]], expected: Sequence[Sequence[torch.Tensor]]) -> float:
    """|found - expected| / |expected| over all outputs of all samples."""
    pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
    noise = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    signal = sum(float(b.double().square().sum()) for _, b in pairs)
    return math.sqrt(noise / signal) if signal else (0.0 if not noise else math.inf)


def decibel(error: float) -> float:
    """The signal-to-noise ratio of a relative error."""
    return MOST if error <= 10 ** (-MOST / 20) else -20 * math.log10(error)


class _Run(fx.Interpreter):
    """Notes the results of layers; ``given``: what their readers get instead."""

    def __init__(self, module: fx.GraphModule, given: dict[str, torch.Tensor] | None = None) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.given, self.results = given or {}, dict[str, torch.Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if is_layer(n):
            self.results[n.name] = result
            return self.given.get(n.name, result)
        return result


class Noise:
    """``outputs``: of the model in floats, a list a sample."""

    def __init__(self, prepared: fx.GraphModule, samples: list[Call]) -> None:
        self.samples = samples
        self.outputs = [outputs_of(prepared, call) for call in samples]
        self.real = [self._results(prepared, call) for call in samples[:2]]

    @staticmethod
    def _results(module: fx.GraphModule, call: Call, given: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        run = _Run(module, given)
        args, kwargs = call
        run.run(*pytree.tree_leaves((args, kwargs)), enable_io_processing=False)
        return run.results

    def of(self, module: fx.GraphModule, error: float) -> dict[str, float]:
        """Decibel, by module; "" is the whole model."""
        found = {"": decibel(error)}
        names = {node.name: module_of(node) for node in module.graph.nodes if is_layer(node)}
        results = [self._results(module, call, real) for call, real in zip(self.samples, self.real, strict=False)]
        for name, path in names.items():
            pairs = [(own[name], real[name]) for own, real in zip(results, self.real, strict=True) if name in real]
            if pairs:
                ratio = decibel(relative_error([[own] for own, _ in pairs], [[real] for _, real in pairs]))
                found[path] = min(ratio, found.get(path, math.inf))
        return found
