"""The questions about a tensor that its memory has no part in."""

from __future__ import annotations

from typing import Any

import torch

FACTS: set[Any] = {
    *(getattr(torch.Tensor, name) for name in ("size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous")),
    *(getattr(torch.Tensor, name) for name in ("is_floating_point", "is_complex", "element_size", "storage_offset", "get_device")),
    *(getattr(torch.Tensor, name) for name in ("__len__", "__hash__", "is_signed", "is_conj", "is_neg", "is_inference")),
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_leaf")),
    *(
        getattr(torch.Tensor, name).__get__
        for name in ("is_cpu", "is_cuda", "is_sparse", "is_quantized", "is_meta", "grad_fn", "grad")
    ),
    *(getattr(torch.Tensor, name).__get__ for name in ("itemsize", "nbytes", "is_mkldnn", "is_nested", "is_sparse_csr")),
    torch.is_floating_point,
    torch.is_complex,
    torch.numel,
}
