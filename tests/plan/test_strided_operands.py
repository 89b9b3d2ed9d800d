"""Attention, copies, pointwise chains and reductions read parts, permuted operands and windows where they lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import Reference, program_of
from drystone import native
from small_models import Calls

pytestmark = [
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
    pytest.mark.usefixtures("no_tuning_cache"),
]


class SelfAttention(nn.Module):
    def __init__(self, spelled: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(64, 64) for _ in range(4))
        self.spelled = spelled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).view(*x.shape[:2], 4, 16).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = (q @ k.mT / 4).softmax(-1) @ v if self.spelled else F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


def steps_of(model: nn.Module, *inputs: torch.Tensor) -> list[str]:
    fast = drystone.optimize(model.eval(), inputs, tuning="estimate", strict=True)
    Reference(model, inputs).check_float32(fast(*inputs))
    return [record.node.op.name if record.node else record.kind for record in program_of(fast).assembled.records]


@pytest.mark.parametrize("spelled", [False, True])
def test_one_product_for_queries_keys_and_values(spelled: bool) -> None:
    assert steps_of(SelfAttention(spelled), torch.randn(2, 33, 64)) == ["linear", "attention", "linear"]


class Packed(nn.Module):
    """One linear for all three, its result split in the two usual ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.qkv, self.multihead = kind, nn.Linear(64, 192), nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "multihead":
            return self.multihead(x, x, x, need_weights=False)[0]
        y = self.qkv(x)
        if self.kind == "unbind":
            q, k, v = y.view(*x.shape[:2], 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (part.view(*x.shape[:2], 4, 16).transpose(1, 2) for part in y.chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("kind", ["unbind", "chunk"])
def test_packed_projections(kind: str) -> None:
    assert steps_of(Packed(kind), torch.randn(2, 33, 64)) == ["linear", "attention", "copy"]


def test_multihead_attention() -> None:
    assert steps_of(Packed("multihead"), torch.randn(1, 33, 64)) == ["linear", "attention", "linear", "copy"]


class Rolled(nn.Module):
    """``x`` as query, key and value, its axes in the order ``dims``; ``also_out``: the operand is a result, too."""

    def __init__(self, dims: tuple[int, ...], also_out: bool = False) -> None:
        super().__init__()
        self.dims, self.also_out = dims, also_out

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.relu(x).permute(self.dims)
        attended = F.scaled_dot_product_attention(y, y, y)
        return (attended, y) if self.also_out else (attended,)


def test_permuted_operands_are_views_where_their_last_axis_has_no_gaps() -> None:
    x = torch.randn(2, 3, 33, 16)
    assert steps_of(Rolled((1, 0, 2, 3)), x) == ["pointwise", "attention"]
    assert steps_of(Rolled((0, 1, 3, 2)), x) == ["pointwise", "permute", "attention"]


def test_an_operand_that_is_a_result_is_copied() -> None:
    assert steps_of(Rolled((1, 0, 2, 3), also_out=True), torch.randn(2, 3, 33, 16)) == ["pointwise", "permute", "attention"]


VIEWS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]] = {
    "windows scaled": (lambda x: x.unfold(-1, 33, 5) * 2, ["pointwise"]),
    "windows summed": (lambda x: x.unfold(-1, 260, 9).sum(-1), ["reduce"]),
    "windows normalised": (lambda x: F.layer_norm(x.unfold(-1, 64, 16), (64,)), ["layer_norm"]),
    "windows softmax": (lambda x: x.unfold(-1, 70, 16).softmax(-1), ["softmax"]),
    "windows compared": (lambda x: x.unfold(-1, 64, 3) > 0, ["elementwise"]),
    "windows padded": (lambda x: F.pad(x.unfold(-1, 3, 2), (1, 1)), ["pad"]),
    "windows of windows": (lambda x: x.unfold(1, 2, 1).unfold(2, 5, 3).permute(0, 2, 1, 4, 3).flip(1), ["take"]),
    "short windows": (lambda x: x.unfold(-1, 3, 1) * 2, ["unfold", "pointwise"]),
    "windows with gaps": (lambda x: x.unfold(1, 2, 1) * 2, ["unfold", "pointwise"]),
    "a slice scaled": (lambda x: x[:, 1:3, 2:250] * 2, ["pointwise"]),
    "a permute turned": (lambda x: x.permute(2, 0, 1).flip(2), ["take"]),
    "a permute turned back": (lambda x: torch.rot90(x, 1, (1, 2)), ["take"]),
    "a permute expanded": (lambda x: x.transpose(1, 2)[:, None].expand(2, 5, 300, 4), ["expand"]),
    "a view of one number": (lambda x: (x[0, 0, 0] * 2).exp() + x[1, 2, 3], ["pointwise"]),
    "a view that is a result": (lambda x: x.unfold(-1, 40, 5), ["unfold"]),
    "a view of a result": (lambda x: torch.cat([x.relu(), x], 1).transpose(1, 2)[:, 3:], ["pointwise", "cat", "slice"]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_before_what_takes_their_strides(name: str) -> None:
    function, steps = VIEWS[name]
    assert steps_of(Calls(function), torch.randn(2, 4, 300)) == steps


def test_a_view_keeps_what_it_reads_from_being_overwritten() -> None:
    """The second chain may not write into the memory of ``y``, which the windows are read from."""

    def model(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        windows = y.unfold(-1, 64, 64)
        return torch.cat([(windows + 1).flatten(1), (y.flatten(1) * 3)[:, :256] - windows.flatten(1)], 1)

    steps_of(Calls(model), torch.randn(2, 1, 256))
