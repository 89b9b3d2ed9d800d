"""The benchmark zoo: networks by name, with random but well-behaved weights.

A network comes from transformers where that has it, from torchvision where that is installed, and else from a small
definition in this folder with the same layer shapes. Nothing is downloaded: the weights of convolutional networks are drawn by
``weights.initialise``, those of transformers by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from . import (
    densenet,
    encoders,
    inception_v3,
    mobilenet_v3,
    recurrent,
    resnext,
    shufflenet_v2,
    squeezenet,
    unet,
    unet_3d,
    vgg,
    video_resnet,
)
from . import from_transformers as hf
from .inputs import Inputs, clips, features, images, scans, sequences, sound, text
from .weights import initialise


@dataclass(frozen=True)
class Entry:
    """``build`` gives the architecture; ``size`` is that of its inputs, but for the batch, as it was published; ``torchvision`` its
    name there. ``drawn``: whether ``weights.initialise`` draws its weights, or it has drawn them itself."""

    build: Callable[[], nn.Module]
    size: tuple[int, ...] = (224, 224)
    inputs: Inputs = images
    drawn: bool = True
    torchvision: str | None = None
    torchvision_options: tuple[tuple[str, object], ...] = ()


CNNS: dict[str, Entry] = {
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


TRANSFORMERS: dict[str, Entry] = {
    "bert_base": Entry(encoders.bert_base, (128,), text, drawn=False),
    "distilbert": Entry(encoders.distilbert, (128,), text, drawn=False),
    "roberta_base": Entry(encoders.roberta_base, (128,), text, drawn=False),
    "vit_b_16": Entry(encoders.vit_b_16, drawn=False),
    "swin_t": Entry(encoders.swin_t, drawn=False),
    "whisper_base": Entry(encoders.whisper_base, (80, 3000), features, drawn=False),
    "wav2vec2_base": Entry(encoders.wav2vec2_base, (16000,), sound, drawn=False),
}
VOLUMES: dict[str, Entry] = {
    "r3d_18": Entry(video_resnet.r3d_18, (16, 112, 112), clips),
    "r2plus1d_18": Entry(video_resnet.r2plus1d_18, (16, 112, 112), clips),
    "unet_3d": Entry(unet_3d.UNet3d, (64, 64, 64), scans),
}
RECURRENT: dict[str, Entry] = {"lstm": Entry(recurrent.lstm, (50, 512), sequences, drawn=False)}
ZOO = {**CNNS, **VOLUMES, **TRANSFORMERS, **RECURRENT}
GROUPS = {
    "all": list(ZOO),
    "cnns": list(CNNS),
    "volumes": list(VOLUMES),
    "transformers": list(TRANSFORMERS),
    "recurrent": list(RECURRENT),
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
    return entry.build(), "transformers" if entry.build.__module__ in (hf.__name__, encoders.__name__) else "drystone"


def load(
    name: str, batch: int = 1, size: tuple[int, ...] | None = None, seed: int = 0
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The network called ``name`` in evaluation mode, and its inputs for a batch of that many, of that size.

    The same arguments give the same weights and the same inputs on every call. Raises ``KeyError`` for an unknown name and
    ``ValueError`` for a size of other axes than the network has.
    """
    entry = ZOO[name]
    size = size or entry.size
    if len(size) != len(entry.size):
        raise ValueError(f"{name} has inputs of {len(entry.size)} sizes ({','.join(map(str, entry.size))}), not of {len(size)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = architecture(name)[0].eval()
    generator = torch.Generator().manual_seed(seed)
    if entry.drawn:
        # The weights don't depend on the batch: one image calibrates them.
        (image,) = entry.inputs(1, size, generator)
        initialise(module, image, generator)
    return module, entry.inputs(batch, size, generator)
