"""The twin of a model whose weights are codes already, in tensors or layers that can't be traced. The codes are kept beside it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable
from typing import Any, NamedTuple

import torch
from torch import nn

from drystone.checkpoints.dynamic import layer_of
from drystone.checkpoints.gptq_awq import Unpacked, floats_of, is_packed, read
from drystone.checkpoints.torchao import floats_and_codes
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import identity_of
from drystone.graph.groups import Grouped


class Twin(NamedTuple):
    """``model`` shares all with the one it stands for but its structure and the ``grouped`` weights, known by identity."""

    model: nn.Module
    grouped: dict[Hashable, Grouped]
    modules: dict[int, nn.Module]  # by the id of the module that each stands for

    def those_of(self, modules: Collection[nn.Module]) -> set[nn.Module]:
        return {self.modules[id(module)] for module in modules if id(module) in self.modules}


def twin_of(model: nn.Module, kept: Collection[nn.Module]) -> Twin | None:
    """None where no weight of ``model`` is in codes. Of modules ``kept`` they become floats.

    Raises ``UnsupportedError`` for a layer whose codes are packed in an unknown way.
    """
    memo: dict[int, Any] = {}
    grouped: dict[Hashable, Grouped] = {}
    for weight in model.parameters():
        if (found := floats_and_codes(weight)) is not None:
            memo[id(weight)], grouped[identity_of(found[0])] = found
    for name, module in model.named_modules():
        if (rounding := layer_of(module)) is not None:
            memo[id(module)] = rounding
        if is_packed(module):
            layer = read(name, module)
            if module in kept:
                memo[id(module)] = floats_of(module, layer)
                continue
            stands_in = memo[id(module)] = Unpacked(module, layer, _dtype(model))
            identity = identity_of(stands_in.weight)
            grouped[identity] = Grouped(layer.shape, layer.kind, ("packed", identity), layer.make, name)
    if not memo:
        return None
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]} | memo
    twin = copy.deepcopy(model, memo)
    return Twin(twin, grouped, {id(module): memo[id(module)] for module in model.modules() if id(module) in memo})


def _dtype(model: nn.Module) -> torch.dtype:
    """In which it computes."""
    return next((weight.dtype for weight in model.parameters() if weight.dtype in FLOATS), torch.float32)
