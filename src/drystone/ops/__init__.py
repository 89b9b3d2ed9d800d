"""drystone's operators by name: ``drystone.ops.embedding(...)``, whether or not ``drystone.enable()`` was called."""

from drystone.ops.convolution import conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from drystone.ops.embedding import embedding

__all__ = ["conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "embedding"]
