"""drystone's operators by name: ``drystone.ops.embedding(...)``, whether or not ``drystone.enable()`` was called."""

from drystone.ops.embedding import embedding

__all__ = ["embedding"]
