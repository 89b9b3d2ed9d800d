"""Where torch makes tensors that are given no device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_cpu() -> Iterator[None]:
    """Within, on the CPU, whatever default device the caller has set: ``with torch.device("meta")`` would give them no memory."""
    # torch 2.6's get_default_device() does not see ``with torch.device``.
    if torch.empty(0).device.type == "cpu":
        yield
    else:
        with torch.device("cpu"):
            yield
