"""softmax and layer norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..probe import AtSize, Probe, Probed, of_random


def _layer_norm(width: int) -> AtSize:
    return of_random(lambda x: F.layer_norm(x, (width,)), -1, width)


def _softmax_of_columns(size: int) -> Probed:
    x = torch.randn(16, 64, size)
    return lambda: x.softmax(1)


PROBES = (
    Probe("layer_norm_elements", ("layer_norm",), {f"rows of {width}": _layer_norm(width) for width in (64, 256)}, 256),
    Probe("softmax_elements", ("softmax",), {"64 columns": of_random(lambda x: x.softmax(0), -1, 64)}, 128),
    Probe("softmax_columns", ("softmax",), {"64 rows": _softmax_of_columns}),
)
