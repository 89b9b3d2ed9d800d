"""drystone's operators by name: ``drystone.ops.embedding(...)``, whether or not ``drystone.enable()`` was called."""

from drystone.ops.cat import cat, stack
from drystone.ops.embedding import embedding
from drystone.ops.embedding_bag import embedding_bag
from drystone.ops.index_select import index_select

__all__ = ["cat", "embedding", "embedding_bag", "index_select", "stack"]
