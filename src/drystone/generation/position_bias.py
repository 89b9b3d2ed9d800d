"""Biases of attention that follow from positions alone, each as one tensor (H, size) that holds for all lengths.

T5 and its kin learn one for a distance (Raffel et al. 2020); BLOOM, MPT and some Falcon models fall linearly with it (ALiBi, Press
et al. 2022). These attend in code of their own, for which functions here stand where they are traced.
"""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import nn

from drystone.generation.attention import attention, traced_call


class PositionBias(NamedTuple):
    """``values`` (H, size), float32, and what its columns are of, as ``drystone.graph.cache_pages.cached_attention`` has it."""

    values: torch.Tensor
    by_distance: bool


def alibi_of(model: Any, positions: int) -> PositionBias | None:
    """The linear bias of ``model``, for so many positions, by the model's own numbers; None where it has none."""
    file = sys.modules[type(model).__module__]
    if hasattr(file, "build_mpt_alibi_tensor"):
        return PositionBias(file.build_mpt_alibi_tensor(model.config.n_heads, positions)[:, 0], True)
    if not hasattr(file, "build_alibi_tensor") or not getattr(model.config, "alibi", True):
        return None
    heads = model.config.num_attention_heads
    # Falcon rounds it to bfloat16, so that it is no function of distances.
    values = file.build_alibi_tensor(torch.ones(1, positions, dtype=torch.int64), heads, torch.float32)[:, 0]
    return PositionBias(values / (model.config.hidden_size // heads) ** 0.5 if hasattr(model.config, "alibi") else values, False)


def use_one_bias(modules: list[nn.Module]) -> bool:
    """Have copies of modules give, or take, a bias for all lengths. Whether some attend in code that one here stands for."""
    stand_ins = False
    for module in modules:
        if hasattr(module, "compute_bias") and hasattr(module, "relative_attention_max_distance"):
            vars(module)["compute_bias"] = MethodType(_of_all_distances, module)
        if (forward := _FORWARD.get(type(module).__name__)) is not None:
            vars(module)["forward"], stand_ins = MethodType(forward, module), True
    return stand_ins


def _of_all_distances(module: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """T5's bias (1, H, 1, size) of the last of so many positions that farther ones have the first one's."""
    size = module.relative_attention_max_distance + 1
    bias: torch.Tensor = type(module).compute_bias(module, size, size)[:, :, -1:]
    traced_call().by_distance.append(bias)
    return bias


def _bloom(self: Any, hidden_states: torch.Tensor, residual: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    query, key, value = self._reshape(self.query_key_value(hidden_states))
    output, _ = attention(self, query, key, value, None, self.inv_norm_factor)
    return self.dense(output.flatten(2)) + residual, None


def _mpt(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    joined = self.Wqkv(hidden_states)
    if self.clip_qkv:
        joined = joined.clamp(-self.clip_qkv, self.clip_qkv)
    query, key, value = (part.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for part in joined.chunk(3, 2))
    output, _ = attention(self, query, key, value, None, self.softmax_scale)
    return self.out_proj(output.flatten(2)), None


_FORWARD = {"BloomAttention": _bloom, "MptAttention": _mpt}
