"""The dtypes that graphs compute with."""

from __future__ import annotations

import torch

# The dtypes that the native side computes with, and those of integers and truth values beside them; of indices into a tensor.
FLOATS = (torch.float32, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
ELEMENTS = (*FLOATS, *INTEGERS)
INDICES = (torch.int64, torch.int32)
