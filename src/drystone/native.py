"""The native core, all of whose names are here, and the oneDNN that it runs on.

``drystone._native`` is linked against ``libdnnl.so.3`` without a path. This module loads that library first: the one that
``DRYSTONE_ONEDNN`` names, or the one that the package ``onednn-cpu-gomp`` installed, or the system's. torch comes before
both, so that all three share torch's ``libgomp.so.1`` and its threads.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from contextlib import suppress
from pathlib import Path

import torch

from drystone.errors import DrystoneError

SONAME = "libdnnl.so.3"


def onednn_path() -> str:
    """Where ``libdnnl.so.3`` is taken from."""
    chosen = os.environ.get("DRYSTONE_ONEDNN")
    if chosen:
        path = Path(chosen)
        return str(path / SONAME if path.is_dir() else path)
    try:
        distribution = importlib.metadata.distribution("onednn-cpu-gomp")
    except importlib.metadata.PackageNotFoundError:
        return SONAME
    for file in distribution.files or []:
        if file.name == SONAME:
            return str(Path(str(distribution.locate_file(file))).resolve())
    return SONAME


def _load() -> None:
    path = onednn_path()
    try:
        ctypes.CDLL(path)
    except OSError as error:
        source = "DRYSTONE_ONEDNN names" if os.environ.get("DRYSTONE_ONEDNN") else "drystone looked for"
        raise DrystoneError(
            f"oneDNN could not be loaded: {source} {path!r}, and the system says: {error}. "
            f"Expected a {SONAME} of oneDNN 3.x for CPUs with GNU OpenMP. "
            "Unset DRYSTONE_ONEDNN, or install it with: pip install onednn-cpu-gomp"
        ) from error


_load()
try:
    from drystone._native import *  # noqa: F403
    from drystone._native import DType, TensorDesc, advise_huge_pages, features, formats
except ImportError as error:
    raise DrystoneError(
        f"drystone's native core does not start on the oneDNN at {onednn_path()!r}: {error}. "
        f"It needs {SONAME} of oneDNN 3.x (CPU, GNU OpenMP)."
    ) from error

# (kind, alpha, beta, operand): an operation on each result before it is stored.
PostOp = tuple[str, float, float, TensorDesc | None]

FORMATS = {format.name: format for format in formats()}

DTYPES: dict[torch.dtype, DType] = {getattr(torch, dtype.torch_name): dtype for dtype in DType}


def multiplies_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 (AVX-512 BF16 or AMX). Where it does not, what is stored so is computed in float32."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(features())


def has_vnni() -> bool:
    """Whether the CPU adds products of 8 bits in 32 bits (VNNI). Where it has not, pairs of them are added in 16."""
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(features())


def trim() -> None:
    """Give memory that was freed back to the system, where the C library can (glibc)."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def allocate(size: int) -> torch.Tensor:
    """``size`` bytes of memory (a uint8 tensor) aligned to 64 bytes, on huge pages where the system has them."""
    memory = torch.empty(size, dtype=torch.uint8, device="cpu")
    if size and not memory.data_ptr():
        raise DrystoneError("torch gives tensors without memory: call this outside of FakeTensorMode, functionalize and the like")
    advise_huge_pages(memory.data_ptr(), size)
    return memory
