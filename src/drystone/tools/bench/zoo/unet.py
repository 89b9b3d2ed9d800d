"""A plain 2-D U-Net (Ronneberger et al., 2015) with batch norm, padded convolutions and bilinear upsampling."""

from __future__ import annotations

import torch
from torch import nn


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Four levels; (N, 3, H, W) → (N, classes, H, W), where H and W are multiples of 16."""

    def __init__(self, base: int = 32, classes: int = 2) -> None:
        super().__init__()
        widths = [base << level for level in range(5)]
        self.down = nn.ModuleList(_double_conv(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(_double_conv(a + b, a) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True))
        self.pool = nn.MaxPool2d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.classify = nn.Conv2d(base, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.down[0](x)]
        for stage in list(self.down)[1:]:
            skips.append(stage(self.pool(skips[-1])))
        x = skips.pop()
        for stage in self.up:
            x = stage(torch.cat((skips.pop(), self.upsample(x)), 1))
        return self.classify(x)
