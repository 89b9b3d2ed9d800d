"""Mixtures of experts where they are traced: each token's chosen experts by one operator, that reads no other expert's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from drystone.ops import mm

Tensor = torch.Tensor

# The name of the implementation among transformers' own.
NAME = "drystone"

OPERATOR = "drystone::expert_linear"
torch.library.define(OPERATOR, "(Tensor x, Tensor experts, Tensor weight, bool transposed) -> Tensor")


@torch.library.register_fake(OPERATOR)
def _fake(x: Tensor, experts: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[2 if transposed else 1]))


@torch.library.impl(OPERATOR, "CPU")
def _expert_linear(x: Tensor, experts: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    """Row i of x (S, K) times the weight (E, N, K) of expert ``experts[i]``; (E, K, N) if ``transposed``."""
    result = x.new_empty((x.shape[0], weight.shape[2 if transposed else 1]))
    rows_of: dict[int, list[int]] = {}
    for row, expert in enumerate(experts.tolist()):
        rows_of.setdefault(expert, []).append(row)
    for expert, rows in rows_of.items():
        matrix, index = weight[expert] if transposed else weight[expert].t(), torch.tensor(rows)
        result.index_copy_(0, index, mm(x.index_select(0, index), matrix))
    return result


expert_linear = torch.ops.drystone.expert_linear.default


def experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """transformers' interface of experts: hidden_states (tokens, C), top_k_index and top_k_weights (tokens, chosen)."""
    chosen = top_k_index.shape[-1]
    index = top_k_index.reshape(-1)
    x = hidden_states.repeat_interleave(chosen, dim=0)
    names = ("gate_up_proj", "down_proj") if module.has_gate else ("up_proj", "down_proj")
    for number, name in enumerate(names):
        x = expert_linear(x, index, getattr(module, name), module.is_transposed)
        if module.has_bias:
            x = x + functional.embedding(index, getattr(module, f"{name}_bias"))
        if number == 0:
            x = module._apply_gate(x) if module.has_gate else module.act_fn(x)
    if getattr(module, "has_post_expert_norm", False):
        x = module.post_expert_norm(x)
    weighted = x * top_k_weights.reshape(-1, 1)
    return weighted.view(hidden_states.shape[0], chosen, -1).sum(dim=1).to(hidden_states.dtype)


def share_of_experts(model: Any) -> float:
    """How much of the model's weights is experts'."""
    modules = [module for module in model.modules() if hasattr(module, "has_gate") and hasattr(module, "is_transposed")]
    of_experts = {weight for module in modules for weight in module.parameters()}
    return sum(weight.numel() for weight in of_experts) / sum(weight.numel() for weight in model.parameters())


def choose_experts(config: Any) -> None:
    """Have modules of this configuration use ``experts``, where this version of transformers lets them."""
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = NAME


try:
    from transformers.integrations.moe import ExpertsInterface
except ImportError:  # an older transformers loops over experts in each model, which no capture follows
    pass
else:
    ExpertsInterface.register(NAME, experts)
