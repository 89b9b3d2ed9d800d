"""Random weights under which a network's activations neither vanish nor explode, so that an output's error means something.

Convolutions and linears are drawn as He et al. (2015) propose. A batch norm's statistics are those that its input has for
one calibration image, shaken a little, so that no batch norm is an identity and no two are alike. Its biases lean to the
positive side: around zero, batch norm and ReLU together enlarge any rounding error by a fifth a layer (Yang et al., 2019),
which trained networks do not do, and fifty layers would turn float32 into five digits.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def initialise(module: nn.Module, image: torch.Tensor, generator: torch.Generator) -> None:
    """Draw every parameter of ``module`` from ``generator``, then set the batch norms by one forward of ``image``."""
    done: set[nn.Parameter] = set()
    for layer in module.modules():
        if isinstance(layer, (*_PRODUCTS, *_TRANSPOSED)):
            fan_in = layer.weight[0].numel()
            if isinstance(layer, _TRANSPOSED):  # the weight is (C, O, *k), and an output meets one in prod(stride) of its taps
                fan_in = layer.weight[:, 0].numel() // math.prod(layer.stride)
            layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0, 0.05, generator=generator)
        elif isinstance(layer, _NORMS) and layer.weight is not None:
            layer.weight.uniform_(0.7, 1.3, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0.7, 0.3, generator=generator)
        else:
            continue
        done.update(layer.parameters(recurse=False))
    for parameter in module.parameters():
        if parameter not in done:  # layer scales and the like: large enough for their branch to count
            parameter.uniform_(0.2, 0.5, generator=generator)

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: _calibrate(layer, inputs[0], generator))
        for layer in module.modules()
        if isinstance(layer, _BatchNorm)
    ]
    try:
        module(image)
    finally:
        for hook in hooks:
            hook.remove()


def _calibrate(norm: nn.Module, x: torch.Tensor, generator: torch.Generator) -> None:
    """Set the running statistics of ``norm`` to those of ``x`` (N, C, …), a little off, with no variance near zero."""
    assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    var, mean = torch.var_mean(x.transpose(0, 1).flatten(1), dim=1, correction=0)
    # A channel that one image leaves nearly constant must not be blown up by the next image.
    var = 0.9 * var + 0.1 * x.square().mean()
    norm.running_mean.copy_(mean + 0.1 * var.sqrt() * torch.randn(mean.shape, generator=generator))
    norm.running_var.copy_(var * torch.empty_like(var).uniform_(0.8, 1.25, generator=generator))
