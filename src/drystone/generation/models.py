"""Which models generate text, told without importing transformers."""

from __future__ import annotations

import sys

from torch import nn


def generates(model: nn.Module) -> bool:
    """Whether it is a model of transformers that has ``generate``."""
    module = sys.modules.get("transformers.generation.utils")
    return module is not None and isinstance(model, module.GenerationMixin) and bool(model.can_generate())
