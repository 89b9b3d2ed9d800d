"""drystone's operators by name: ``drystone.ops.embedding(...)``, whether or not ``drystone.enable()`` was called."""

from drystone.ops.embedding import embedding
from drystone.ops.topk import topk

__all__ = ["embedding", "topk"]
