"""drystone's operators by name: ``drystone.ops.embedding(...)``, whether or not ``drystone.enable()`` was called."""

from drystone.ops.activations import gelu, sigmoid, silu, tanh
from drystone.ops.cat import cat, stack
from drystone.ops.embedding import embedding
from drystone.ops.embedding_bag import embedding_bag
from drystone.ops.index_select import index_select
from drystone.ops.normalisations import layer_norm, softmax

__all__ = [
    "cat",
    "embedding",
    "embedding_bag",
    "gelu",
    "index_select",
    "layer_norm",
    "sigmoid",
    "silu",
    "softmax",
    "stack",
    "tanh",
]
