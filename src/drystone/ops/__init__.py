"""drystone's operators by name: ``drystone.ops.embedding(...)``, whether or not ``drystone.enable()`` was called."""

from drystone.ops.activations import gelu, sigmoid, silu, tanh
from drystone.ops.batch_norm import batch_norm, instance_norm
from drystone.ops.cat import cat, stack
from drystone.ops.clone import clone
from drystone.ops.convolution import conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from drystone.ops.embedding import embedding
from drystone.ops.embedding_bag import embedding_bag
from drystone.ops.index_select import index_select
from drystone.ops.mm import mm
from drystone.ops.normalisations import layer_norm, softmax
from drystone.ops.pools import avg_pool3d, max_pool3d
from drystone.ops.topk import topk

__all__ = [
    "avg_pool3d",
    "batch_norm",
    "cat",
    "clone",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "embedding",
    "embedding_bag",
    "gelu",
    "index_select",
    "instance_norm",
    "layer_norm",
    "max_pool3d",
    "mm",
    "sigmoid",
    "silu",
    "softmax",
    "stack",
    "tanh",
    "topk",
]
