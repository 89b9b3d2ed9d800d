"""ShuffleNetV2 ×1.0 (Ma et al., 2018): halves of the channels go through a block, then all are shuffled."""

from __future__ import annotations

import torch
from torch import nn


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)]


def _pointwise(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class Block(nn.Module):
    """With stride 1 one half passes untouched; with stride 2 both branches read all channels."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.stride = stride
        self.shortcut = (
            nn.Sequential(*_depthwise(channels_in, stride), *_pointwise(channels_in, half)) if stride > 1 else nn.Identity()
        )
        self.branch = nn.Sequential(
            *_pointwise(channels_in if stride > 1 else half, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        return channel_shuffle(torch.cat((self.shortcut(left), self.branch(right)), dim=1), 2)


class ShuffleNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        channels = 24
        for depth, channels_out in ((4, 116), (8, 232), (4, 464)):
            blocks.append(Block(channels, channels_out, 2))
            blocks += [Block(channels_out, channels_out, 1) for _ in range(depth - 1)]
            channels = channels_out
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_pointwise(channels, 1024))
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.head(self.stages(self.stem(x))).mean([2, 3]))
