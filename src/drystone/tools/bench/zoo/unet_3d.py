"""A 3-D U-Net (Çiçek et al., 2016) with batch norm, padded convolutions and transposed convolutions on the way up."""

from __future__ import annotations

import torch
from torch import nn


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
    )


class UNet3d(nn.Module):
    """Four levels below the first; (N, 1, D, H, W) → (N, classes, D, H, W), where D, H and W are multiples of 16."""

    def __init__(self, base: int = 32, classes: int = 3) -> None:
        super().__init__()
        widths = [base << level for level in range(5)]
        self.down = nn.ModuleList(_double_conv(a, b) for a, b in zip([1, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose3d(2 * a, a, 2, 2) for a in widths[-2::-1])
        self.merge = nn.ModuleList(_double_conv(2 * a, a) for a in widths[-2::-1])
        self.pool = nn.MaxPool3d(2)
        self.classify = nn.Conv3d(base, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.down[0](x)]
        for stage in list(self.down)[1:]:
            skips.append(stage(self.pool(skips[-1])))
        x = skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat((skips.pop(), up(x)), 1))
        return self.classify(x)
