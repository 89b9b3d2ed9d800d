"""MobileNetV3-Large (Howard et al., 2019): inverted residuals with squeeze-and-excitation and hard-swish."""

from __future__ import annotations

import torch
from torch import nn

# kernel, expanded channels, output channels, squeeze-and-excitation, hard-swish (else ReLU), stride: table 1 of the paper
_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _conv(
    channels_in: int, channels_out: int, kernel: int, stride: int, groups: int, activation: nn.Module | None
) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(channels_out, eps=1e-3)]
    return [*layers, activation] if activation is not None else layers


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _multiple_of_8(channels / 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))


class InvertedResidual(nn.Module):
    def __init__(
        self, channels_in: int, kernel: int, expanded: int, channels_out: int, squeeze: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != channels_in:
            layers += _conv(channels_in, expanded, 1, 1, 1, activation(inplace=True))
        layers += _conv(expanded, expanded, kernel, stride, expanded, activation(inplace=True))
        if squeeze:
            layers.append(SqueezeExcitation(expanded))
        layers += _conv(expanded, channels_out, 1, 1, 1, None)
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block(x)
        return y + x if self.residual else y


def mobilenet_v3_large() -> nn.Module:
    layers = _conv(3, 16, 3, 2, 1, nn.Hardswish(inplace=True))
    channels = 16
    for kernel, expanded, channels_out, squeeze, swish, stride in _BLOCKS:
        layers.append(InvertedResidual(channels, kernel, expanded, channels_out, squeeze, swish, stride))
        channels = channels_out
    layers += _conv(channels, 960, 1, 1, 1, nn.Hardswish(inplace=True))
    classifier = [nn.Linear(960, 1280), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier)
