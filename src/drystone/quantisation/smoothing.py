"""SmoothQuant: linear layers take over what makes some channels of their operand larger than others (Xiao et al., ICML 2023,
https://arxiv.org/abs/2211.10438). All channels of an activation share one scale, and those of a row of weights another.

before:  layer_norm(·, γ, β) → linear(·, w)
after:   layer_norm(·, γ / s, β / s) → linear(·, w · s)          s = max |x|^a / max |w|^(1 - a), a channel
In floats both give the same. Other operands, and those of a norm that others read too, as BERT's residuals do, are multiplied by
1 / s where they are rounded to codes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from drystone.quantisation.noise import module_of
from drystone.quantisation.samples import Call

aten = torch.ops.aten
# The share of the difference that weights take over: a. Less leaves the few huge channels that layers after a GELU read.
ALPHA = 0.9
# Of the largest channel: less is taken for so much.
LEAST = 1e-5
# What a positive factor may go before.
_EQUIVARIANT = (aten.alias.default, aten.clone.default, aten.contiguous.default, aten.relu.default)


@dataclass
class Group:
    """Linear layers that read one operand, and so share its factors."""

    x: fx.Node
    linears: list[fx.Node]


def groups_of(graph: fx.Graph, kept: Collection[str] = ()) -> list[Group]:
    """None without norms: what else makes operands leaves channels alike. ``kept``: modules that stay floats."""
    found: dict[fx.Node, Group] = {}
    for node in graph.nodes:
        if node.target is not aten.linear.default or module_of(node) in kept:
            continue
        x, weight = node.args[:2]
        if weight.op in ("get_attr", "placeholder"):
            found.setdefault(x, Group(x, [])).linears.append(node)
    normed = any(_made_by(x)[0].target is aten.layer_norm.default for x in found)
    return list(found.values()) if normed else []


def smooth_channels(module: fx.GraphModule, samples: Sequence[Call], kept: Collection[str] = ()) -> None:
    """Changes ``module``, and none of the tensors that it shares."""
    groups = groups_of(module.graph, kept)
    largest = _Largest(module, groups)
    for args, kwargs in samples:
        largest.run(*pytree.tree_leaves((args, kwargs)), enable_io_processing=False)
    for group in groups:
        _smooth(module, group, largest.found[group.x])
    module.graph.lint()
    module.recompile()


class _Largest(fx.Interpreter):
    """Magnitudes of the channels of the groups' operands."""

    def __init__(self, module: fx.GraphModule, groups: list[Group]) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.watched = {group.x for group in groups}
        self.found: dict[fx.Node, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.watched:
            largest = result.detach().abs().flatten(0, -2).amax(0) if result.dim() > 1 else result.detach().abs()
            self.found[n] = torch.maximum(self.found[n], largest) if n in self.found else largest
        return result


def _smooth(module: fx.GraphModule, group: Group, largest: torch.Tensor) -> None:
    weights = [_tensor(module, linear.args[1]) for linear in group.linears]
    factors = _factors(largest, torch.stack([weight.abs().amax(0) for weight in weights]).amax(0))
    for linear, weight in zip(group.linears, weights, strict=True):
        _replace(module, linear, 1, weight * factors)
    if not _fold(module, group, factors):
        _multiply(module, group, 1 / factors)


def _factors(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A channel that is 0 on the samples may not be elsewhere."""
    if not bool(x.max() > 0) or not bool(weight.max() > 0):
        return torch.ones_like(x)
    x, weight = (value.clamp(min=LEAST * float(value.max())) for value in (x, weight))
    return x**ALPHA / weight ** (1 - ALPHA)


def _made_by(x: fx.Node) -> tuple[fx.Node, bool]:
    """What makes ``x``, and whether nothing else reads it on the way."""
    alone = True
    while x.target in _EQUIVARIANT:
        x = x.all_input_nodes[0]
        alone = alone and len(x.users) == 1
    return x, alone


def _fold(module: fx.GraphModule, group: Group, factors: torch.Tensor) -> bool:
    """Whether the norm makes the operand divided by the factors from now on."""
    maker, alone = _made_by(group.x)
    if maker.target is not aten.layer_norm.default or not alone or set(group.x.users) != set(group.linears):
        return False
    weight, bias = [*maker.args, None, None][2:4]
    stored = all(value is None or getattr(value, "op", "") == "get_attr" for value in (weight, bias))
    if weight is None or not stored:
        return False
    for place, value in ((2, weight), (3, bias)):
        if value is not None:
            _replace(module, maker, place, _tensor(module, value) / factors)
    return True


def _multiply(module: fx.GraphModule, group: Group, factors: torch.Tensor) -> None:
    with module.graph.inserting_before(group.linears[0]):
        constant = _constant(module, factors)
        product = module.graph.call_function(aten.mul.Tensor, (group.x, constant))
    product.meta["val"] = group.x.meta["val"]
    for linear in group.linears:
        linear.replace_input_with(group.x, product)


def _tensor(module: fx.GraphModule, node: Any) -> torch.Tensor:
    parent, _, name = str(node.target).rpartition(".")
    tensor = getattr(module.get_submodule(parent), name)
    assert isinstance(tensor, torch.Tensor)
    return tensor.detach()


def _replace(module: fx.GraphModule, node: fx.Node, place: int, tensor: torch.Tensor) -> None:
    with module.graph.inserting_before(node):
        constant = _constant(module, tensor)
    constant.meta.update(node.args[place].meta)  # type: ignore[union-attr]
    node.update_arg(place, constant)


def _constant(module: fx.GraphModule, tensor: torch.Tensor) -> fx.Node:
    name = next(name for number in range(len(module.graph.nodes)) if not hasattr(module, name := f"_smoothed_{number}"))
    module.register_buffer(name, tensor)
    node = module.graph.get_attr(name)
    node.meta["val"] = tensor
    return node
