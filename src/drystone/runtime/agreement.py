"""How far one result of a model is from another, whatever the two are made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree


def relative_error(got: Any, want: Any) -> float:
    """The greatest relative L2 error of a tensor in ``got`` against the one in ``want``.

    Infinite where they differ in structure, type, shape or dtype, in a number that is no float, or in where NaN and infinity
    are. Objects that pytree does not know are compared attribute by attribute.
    """
    return _error(got, want, frozenset())


def _error(got: Any, want: Any, inside: frozenset[int]) -> float:
    if got is want or id(want) in inside:
        return 0.0
    if type(got) is not type(want):
        return math.inf
    if isinstance(want, np.ndarray):
        return _error(got.tolist(), want.tolist(), inside)
    if isinstance(want, torch.Tensor):
        return _tensor_error(got, want)
    if isinstance(want, float):
        return _tensor_error(torch.tensor(got), torch.tensor(want))
    inside |= {id(want)}
    leaves, spec = pytree.tree_flatten(want)
    if len(leaves) != 1 or leaves[0] is not want:
        given, given_spec = pytree.tree_flatten(got)
        if given_spec != spec:
            return math.inf
        return max((_error(a, b, inside) for a, b in zip(given, leaves, strict=True)), default=0.0)
    if hasattr(want, "__dict__"):
        return _error(vars(got), vars(want), inside)
    return 0.0 if got == want else math.inf


def _tensor_error(got: torch.Tensor, want: torch.Tensor) -> float:
    if got.shape != want.shape or got.dtype != want.dtype:
        return math.inf
    if not (want.is_floating_point() or want.is_complex()):
        return 0.0 if torch.equal(got, want) else math.inf
    finite = want.isfinite()
    if not torch.allclose(got[~finite], want[~finite], equal_nan=True) or not got[finite].isfinite().all():
        return math.inf
    wide = torch.complex128 if want.is_complex() else torch.float64
    got, want = got[finite].to(wide), want[finite].to(wide)
    difference, size = (got - want).norm().item(), want.norm().item()
    return difference / size if size else difference
