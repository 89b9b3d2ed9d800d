"""drystone's operators by name: ``drystone.ops.embedding(...)``, whether or not ``drystone.enable()`` was called."""

from drystone.ops.activations import gelu, sigmoid, silu, tanh
from drystone.ops.embedding import embedding
from drystone.ops.normalisations import layer_norm, softmax
from drystone.ops.topk import topk

__all__ = ["embedding", "gelu", "layer_norm", "sigmoid", "silu", "softmax", "tanh", "topk"]
