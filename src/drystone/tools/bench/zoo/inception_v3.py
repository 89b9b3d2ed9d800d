"""Inception-v3 (Szegedy et al., 2016) without the auxiliary classifier, which inference does not use."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Conv(nn.Sequential):
    """Convolution, batch norm, ReLU; padded to keep the size where ``same``."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True
    ) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if same else (0, 0)
        conv = nn.Conv2d(channels_in, channels_out, (height, width), stride, padding, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels_out, eps=1e-3), nn.ReLU(inplace=True))


class Branches(nn.Module):
    """Each branch reads the input; the outputs are joined by channel."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Pooled(nn.Module):
    """A 3×3 average, then a 1×1 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = Conv(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.avg_pool2d(x, 3, 1, 1))


def _inception_a(channels: int, pooled: int) -> Branches:
    return Branches(
        Conv(channels, 64, 1),
        nn.Sequential(Conv(channels, 48, 1), Conv(48, 64, 5)),
        nn.Sequential(Conv(channels, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3)),
        Pooled(channels, pooled),
    )


def _reduction_a(channels: int) -> Branches:
    return Branches(
        Conv(channels, 384, 3, 2, same=False),
        nn.Sequential(Conv(channels, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3, 2, same=False)),
        nn.MaxPool2d(3, 2),
    )


def _inception_b(width: int) -> Branches:
    row, column = (1, 7), (7, 1)
    return Branches(
        Conv(768, 192, 1),
        nn.Sequential(Conv(768, width, 1), Conv(width, width, row), Conv(width, 192, column)),
        nn.Sequential(
            Conv(768, width, 1),
            Conv(width, width, column),
            Conv(width, width, row),
            Conv(width, width, column),
            Conv(width, 192, row),
        ),
        Pooled(768, 192),
    )


def _reduction_b() -> Branches:
    return Branches(
        nn.Sequential(Conv(768, 192, 1), Conv(192, 320, 3, 2, same=False)),
        nn.Sequential(Conv(768, 192, 1), Conv(192, 192, (1, 7)), Conv(192, 192, (7, 1)), Conv(192, 192, 3, 2, same=False)),
        nn.MaxPool2d(3, 2),
    )


def _inception_c(channels: int) -> Branches:
    def forked() -> Branches:
        return Branches(Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1)))

    return Branches(
        Conv(channels, 320, 1),
        nn.Sequential(Conv(channels, 384, 1), forked()),
        nn.Sequential(Conv(channels, 448, 1), Conv(448, 384, 3), forked()),
        Pooled(channels, 192),
    )


class InceptionV3(nn.Sequential):
    """(N, 3, H, W) → (N, 1000), H and W at least 75; published at 299."""

    def __init__(self) -> None:
        super().__init__(
            Conv(3, 32, 3, 2, same=False),
            Conv(32, 32, 3, same=False),
            Conv(32, 64, 3),
            nn.MaxPool2d(3, 2),
            Conv(64, 80, 1),
            Conv(80, 192, 3, same=False),
            nn.MaxPool2d(3, 2),
            _inception_a(192, 32),
            _inception_a(256, 64),
            _inception_a(288, 64),
            _reduction_a(288),
            *(_inception_b(width) for width in (128, 160, 160, 192)),
            _reduction_b(),
            _inception_c(1280),
            _inception_c(2048),
            nn.AdaptiveAvgPool2d(1),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(2048, 1000),
        )
