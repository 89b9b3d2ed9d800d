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

# Of the layers, by the names of their nodes.
Results = dict[str, torch.Tensor]


def is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and any(name in str(node.target) for name in _PRODUCTS)


def module_of(node: fx.Node) -> str:
    """The path of the module that the node comes from."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def outputs_of(module: fx.GraphModule, call: Call) -> list[torch.Tensor]:
    args, kwargs = call
    return _floats(module(*args, **kwargs))


def _floats(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def relative_error(found: Sequence[Sequence[torch.Tensor]], expected: Sequence[Sequence[torch.Tensor]]) -> float:
    """|found - expected| / |expected| over all outputs of all samples."""
    pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
    noise = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    signal = sum(float(b.double().square().sum()) for _, b in pairs)
    return math.sqrt(noise / signal) if signal else (0.0 if not noise else math.inf)


def decibel(error: float) -> float:
    """The signal-to-noise ratio of a relative error."""
    return MOST if error <= 10 ** (-MOST / 20) else -20 * math.log10(error)


class Run(fx.Interpreter):
    """Notes the results of layers; ``given``: what their readers get instead."""

    def __init__(self, module: fx.GraphModule, given: Results | None = None) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.given, self.results = given or {}, Results()

    def outputs_of(self, call: Call) -> list[torch.Tensor]:
        return _floats(self.run(*pytree.tree_leaves(call), enable_io_processing=False))

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if is_layer(n):
            self.results[n.name] = result
            return self.given.get(n.name, result)
        return result


def noise_of(module: fx.GraphModule, samples: Sequence[Call], real: Sequence[Results]) -> dict[str, float]:
    """Decibel, by module. ``real``: the layers' results in floats, of the first samples."""
    found: dict[str, float] = {}
    runs = []
    for call, given in zip(samples, real, strict=False):
        run = Run(module, given)
        run.outputs_of(call)
        runs.append(run.results)
    for node in module.graph.nodes:
        pairs = [(own[node.name], given[node.name]) for own, given in zip(runs, real, strict=True) if node.name in given]
        if pairs and is_layer(node):
            ratio = decibel(relative_error([[own] for own, _ in pairs], [[result] for _, result in pairs]))
            path = module_of(node)
            found[path] = min(ratio, found.get(path, math.inf))
    return found
