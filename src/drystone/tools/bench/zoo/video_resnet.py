"""R3D-18 and R(2+1)D-18 (Tran et al., 2018): ResNet-18 over clips, with 3×3×3 kernels, or 1×3×3 and then 3×1×1 ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

#: Gives the convolution of a block: channels in, channels out, those of the block's input and output, stride.
Convolve = Callable[[int, int, tuple[int, int], int], nn.Module]


def _whole(channels_in: int, channels_out: int, block: tuple[int, int], stride: int) -> nn.Module:
    return nn.Conv3d(channels_in, channels_out, 3, stride, 1, bias=False)


def _factored(channels_in: int, channels_out: int, block: tuple[int, int], stride: int) -> nn.Module:
    """Between the two parts as many channels as give it the parameters of the whole kernel."""
    a, b = block
    middle = a * b * 27 // (a * 9 + 3 * b)
    return nn.Sequential(
        nn.Conv3d(channels_in, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, channels_out, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class Block(nn.Module):
    def __init__(self, convolve: Convolve, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        block = (channels_in, channels_out)
        self.conv1 = convolve(channels_in, channels_out, block, stride)
        self.bn1 = nn.BatchNorm3d(channels_out)
        self.conv2 = convolve(channels_out, channels_out, block, 1)
        self.bn2 = nn.BatchNorm3d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            projection = nn.Conv3d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm3d(channels_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def _of(stem: list[nn.Module], convolve: Convolve) -> nn.Module:
    layers, channels = [*stem, nn.BatchNorm3d(64), nn.ReLU(inplace=True)], 64
    for stage in range(4):
        width = 64 << stage
        layers += [Block(convolve, channels, width, 2 if stage else 1), Block(convolve, width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(channels, 400))


def r3d_18() -> nn.Module:
    return _of([nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)], _whole)


def r2plus1d_18() -> nn.Module:
    spatial = nn.Conv3d(3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
    temporal = nn.Conv3d(45, 64, (3, 1, 1), padding=(1, 0, 0), bias=False)
    return _of([spatial, nn.BatchNorm3d(45), nn.ReLU(inplace=True), temporal], _factored)
