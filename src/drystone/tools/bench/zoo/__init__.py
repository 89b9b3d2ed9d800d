"""The benchmark zoo: convolutional networks by name, with random but well-behaved weights.

A network comes from transformers where that has it, from torchvision where that is installed, and else from a small
definition in this folder with the same layer shapes. Nothing is downloaded: weights are drawn by ``weights.initialise``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from . import densenet, inception_v3, mobilenet_v3, resnext, shufflenet_v2, squeezenet, unet, vgg
from . import from_transformers as hf
from .weights import initialise


@dataclass(frozen=True)
class Entry:
    """``build`` gives the architecture; ``size`` is the image size it was published with; ``torchvision`` its name there."""

    build: Callable[[], nn.Module]
    size: tuple[int, int] = (224, 224)
    torchvision: str | None = None
    torchvision_options: tuple[tuple[str, object], ...] = ()


ZOO: dict[str, Entry] = {
    "resnet50": Entry(hf.resnet50),
    "resnext50": Entry(resnext.resnext50_32x4d, torchvision="resnext50_32x4d"),
    "regnet_x": Entry(hf.regnet_x_1_6gf),
    "regnet_y": Entry(hf.regnet_y_1_6gf),
    "mobilenet_v2": Entry(hf.mobilenet_v2),
    "mobilenet_v3": Entry(mobilenet_v3.mobilenet_v3_large, torchvision="mobilenet_v3_large"),
    "efficientnet_b0": Entry(hf.efficientnet_b0),
    "densenet121": Entry(densenet.densenet121, torchvision="densenet121"),
    "squeezenet": Entry(squeezenet.squeezenet1_1, torchvision="squeezenet1_1"),
    "vgg16": Entry(vgg.vgg16, torchvision="vgg16", torchvision_options=(("init_weights", False),)),
    "unet": Entry(unet.UNet, size=(256, 256)),
    "shufflenet_v2": Entry(shufflenet_v2.ShuffleNetV2, torchvision="shufflenet_v2_x1_0"),
    "inception_v3": Entry(
        inception_v3.InceptionV3,
        size=(299, 299),
        torchvision="inception_v3",
        torchvision_options=(("init_weights", False), ("aux_logits", False)),
    ),
    "convnext_tiny": Entry(hf.convnext_tiny),
}


def architecture(name: str) -> tuple[nn.Module, str]:
    """The network called ``name``, not yet initialised, and where its definition is from ("torchvision", …)."""
    entry = ZOO[name]
    if entry.torchvision:
        try:
            from torchvision import models
        except ImportError:
            pass
        else:
            return getattr(models, entry.torchvision)(weights=None, **dict(entry.torchvision_options)), "torchvision"
    return entry.build(), "transformers" if entry.build.__module__ == hf.__name__ else "drystone"


def load(
    name: str, batch: int = 1, size: tuple[int, int] | None = None, seed: int = 0
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The network called ``name`` in evaluation mode, and its inputs: one float32 image batch (batch, 3, height, width).

    The same arguments give the same weights and the same images on every call. Raises ``KeyError`` for an unknown name.
    """
    height, width = size or ZOO[name].size
    module = architecture(name)[0].eval()
    generator = torch.Generator().manual_seed(seed)
    # The weights don't depend on the batch: one image calibrates them.
    initialise(module, images(1, (height, width), generator), generator)
    return module, (images(batch, (height, width), generator),)


def images(batch: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Random pictures (batch, 3, height, width): large smooth patches and a little grain.

    White noise would look the same to a network whichever it is, once pooled; these differ as photographs do.
    """
    patches = nn.functional.interpolate(torch.randn(batch, 3, 8, 8, generator=generator), size, mode="bilinear")
    return patches + 0.3 * torch.randn(batch, 3, *size, generator=generator)
