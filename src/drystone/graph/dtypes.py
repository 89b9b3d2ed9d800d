"""The dtypes that graphs compute with."""

from __future__ import annotations

import torch

from drystone.native import DTYPES

# The dtypes that the native side computes with, and those of integers and truth values beside them; of indices into a tensor.
FLOATS = tuple(dtype for dtype, native in DTYPES.items() if native.is_float)
INTEGERS = tuple(dtype for dtype, native in DTYPES.items() if not native.is_float and not native.is_moved)
ELEMENTS = (*FLOATS, *INTEGERS)
INDICES = (torch.int64, torch.int32)
