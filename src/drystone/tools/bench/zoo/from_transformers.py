"""The convolutional networks that transformers has, configured as published, with 1000 classes and the logits for output."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CLASSES: dict[str, Any] = {"num_labels": 1000}


class Logits(nn.Module):
    """An image classifier of transformers that returns its logits alone, which every contender can convert."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.classifier(pixel_values).logits


def resnet50() -> nn.Module:
    """ResNet-50 (He et al., 2016; stride in the 3×3)."""
    from transformers import ResNetConfig, ResNetForImageClassification

    return Logits(ResNetForImageClassification(ResNetConfig(**CLASSES)))


def _regnet(layer_type: str, widths: list[int], depths: list[int]) -> nn.Module:
    from transformers import RegNetConfig, RegNetForImageClassification

    config = RegNetConfig(
        layer_type=layer_type,
        embedding_size=32,
        hidden_sizes=widths,
        depths=depths,
        groups_width=24,
        downsample_in_first_stage=True,
        **CLASSES,
    )
    return Logits(RegNetForImageClassification(config))


def regnet_x_1_6gf() -> nn.Module:
    """RegNetX-1.6GF (Radosavovic et al., 2020): grouped convolutions, 24 channels a group."""
    return _regnet("x", [72, 168, 408, 912], [2, 4, 10, 2])


def regnet_y_1_6gf() -> nn.Module:
    """RegNetY-1.6GF: the same with squeeze-and-excitation."""
    return _regnet("y", [48, 120, 336, 888], [2, 6, 17, 2])


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018) with the padding of the published weights: uneven, a `pad` before each convolution."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return Logits(MobileNetV2ForImageClassification(MobileNetV2Config(**CLASSES)))


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0 (Tan and Le, 2019)."""
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_dim=1280,
        dropout_rate=0.2,
        **CLASSES,
    )
    return Logits(EfficientNetForImageClassification(config))


def convnext_tiny() -> nn.Module:
    """ConvNeXt-T (Liu et al., 2022)."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return Logits(ConvNextForImageClassification(ConvNextConfig(**CLASSES)))
