"""A model that has every operator of a graph in it, saved; and ways to change what was saved, checksums made anew."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone

DOCUMENTS = ("program.json", "plan.json")
FILES = ("artefact.json", *DOCUMENTS, "weights.safetensors")


class Everything(nn.Module):
    """Small, and each operator once or more: native ones, ATen's, constants that index."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.grouped = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, groups=4, dilation=2)
        self.wider = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.group_norm, self.layer_norm = nn.GroupNorm(4, 16), nn.LayerNorm(16)
        self.lrn, self.words, self.linear = nn.LocalResponseNorm(3), nn.Embedding(11, 16), nn.Linear(16, 16)
        self.lstm, self.gru = nn.LSTM(16, 2, 2, batch_first=True, bidirectional=True), nn.GRU(4, 16, batch_first=True)
        self.register_buffer("order", torch.tensor([3, 0, 2]))
        self.register_buffer("frequencies", 0.5 ** torch.arange(8).repeat(2))

    def forward(self, x: torch.Tensor, tokens: torch.Tensor, scale: int = 2) -> dict[str, Any]:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(x + self.second(x))
        pooled = F.avg_pool2d(F.max_pool2d(x, 3, 1, 1), 2, ceil_mode=True)
        y = F.channel_shuffle(self.group_norm(pooled), 4) + pooled[:, :, :1].expand_as(pooled)
        y = torch.cat([y[:, 4:12], self.lrn(F.pad(y, (1, 1, 1, 1), mode="reflect"))[:, ::2, 1:-1, 1:-1]], 1)
        y = F.interpolate(y, scale_factor=2, mode="bilinear") + F.interpolate(y, scale_factor=2.0) + self.wider(y)
        y = self.grouped(F.pad(y, (1, 2), value=0.5))
        z = self.layer_norm(self.words(tokens)) @ self.linear.weight + F.gelu(self.linear(y.mean((2, 3)))).unsqueeze(1)
        z = F.scaled_dot_product_attention(z.unsqueeze(1), z.unsqueeze(1), z.unsqueeze(1)).squeeze(1)
        angles = torch.cumsum(tokens != 0, 1)[..., None] * self.frequencies
        turned = torch.cat([-z[..., 8:], z[..., :8]], -1)
        z = z * angles.cos() + turned * angles.sin()
        z = torch.einsum("bij,bkj->bik", z, z).softmax(-1) @ z  # an einsum begins no attention
        z, (state, _) = self.lstm(z)
        z = self.gru(z, state.sum((0, 2)).view(1, -1, 1).expand(1, -1, 16).contiguous())[0]
        picked = z.softmax(-1).transpose(0, 1)[self.order, :, self.order]
        return {"picked": picked, "sums": (y.sum((2, 3)) * scale, torch.lgamma(tokens.float() + 1)), "none": None}


def everything() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return Everything().eval().requires_grad_(False), (torch.randn(2, 3, 8, 8), torch.randint(0, 11, (2, 5)))


def saved(folder: Path, dtype: torch.dtype | None = None, batches: int = 1) -> tuple[Path, tuple[torch.Tensor, ...], list[Any]]:
    """Where the model is saved, its inputs and its results. ``batches``: for how many it has programs."""
    model, inputs = everything()
    fast = drystone.optimize(model, inputs, tuning="estimate", dtype=dtype)
    for batch in range(1, batches):
        fast(*(x[:1].repeat(2 + batch, *[1] * (x.dim() - 1)) for x in inputs))
    drystone.save(fast, folder / "model.drystone")
    return folder / "model.drystone", inputs, torch.utils._pytree.tree_leaves(fast(*inputs))


def copied(path: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(path, to)
    return to


def read(path: Path, name: str) -> Any:
    return json.loads((path / name).read_bytes())


def write(path: Path, name: str, content: Any) -> None:
    """``content`` is bytes, or what becomes JSON. The manifest is made anew."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (path / name).write_bytes(data)
    if name != "artefact.json":
        manifest = read(path, "artefact.json")
        entry = manifest["files"][name]
        entry["bytes"] = len(data)
        if "sha256" in entry:
            entry["sha256"] = hashlib.sha256(data).hexdigest()
        (path / "artefact.json").write_text(json.dumps(manifest))


def change(path: Path, name: str, how: Callable[[Any], Any]) -> None:
    """Change the JSON of a file in place."""
    content = read(path, name)
    how(content)
    write(path, name, content)


def node(program: Any, op: str, which: int = 0) -> Any:
    """A node of the first graph by its operator."""
    nodes = program["programs"][0]["graph"]["nodes"]
    return [entry for entry in nodes if entry["op"] == op][which]


def refused(path: Path, match: str) -> None:
    """By the check whose message ``match`` finds: another might be the one that is missing."""
    with pytest.raises(drystone.ArtefactError, match=match):
        drystone.load(path)


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of the weights, and the bytes after it."""
    data = (path / "weights.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_header(path: Path, content: Any, data: bytes) -> None:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    write(path, "weights.safetensors", len(text).to_bytes(8, "little") + text + data)
