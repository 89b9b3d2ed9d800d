"""Whether a result is eager's: structure, shapes, dtypes, the places of NaN and infinity, and the error against float64.

The limits are those of the tests (tests/agreement.py). Where eager itself is beyond them, its own error is the limit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from agreement import BFLOAT16_TIMES_AUTOCAST, FLOAT32_FLOOR, FLOAT32_LIMIT, FLOAT32_TIMES_EAGER, leaves, relative_error


def judge(result: Any, eager: Any, exact: Any | None) -> tuple[float, str | None]:
    """The largest relative L2 error of any float tensor of ``result``, and what is wrong with it, or None.

    ``eager`` is the model's own result, ``exact`` the same in float64; without it the error is that against ``eager``.
    """
    if pytree.tree_structure(result) != pytree.tree_structure(eager):
        return 0.0, f"structured as {pytree.tree_structure(result)}, eager's is {pytree.tree_structure(eager)}"
    got, wanted = leaves(result), leaves(eager)
    exacts: Sequence[torch.Tensor] = wanted if exact is None else leaves(exact)
    if [tensor.shape for tensor in exacts] != [tensor.shape for tensor in wanted]:
        exacts = wanted  # the float64 run went another way
    worst, faults = 0.0, []
    for i, (ours, theirs, truth) in enumerate(zip(got, wanted, exacts, strict=True)):
        error, fault = _tensor(ours, theirs, truth)
        worst = max(worst, error)
        if fault:
            faults.append(f"output {i}: {fault}")
    return worst, faults[0] if faults else None


def _tensor(ours: torch.Tensor, theirs: torch.Tensor, truth: torch.Tensor) -> tuple[float, str | None]:
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        return 0.0, f"{ours.dtype} {list(ours.shape)}, eager's is {theirs.dtype} {list(theirs.shape)}"
    if not ours.is_floating_point():
        return 0.0, None if torch.equal(ours, theirs) else f"{int((ours != theirs).sum())} of {ours.numel()} elements differ"
    kinds = [[test(y.double()) for test in (torch.isnan, torch.isposinf, torch.isneginf)] for y in (ours, theirs, truth)]
    # Either will do: float32 overflows where float64 does not, and torch's vectorised and scalar code differ at the edges.
    as_eager, as_truth = (torch.stack([a == b for a, b in zip(kinds[0], other, strict=True)]).all(0) for other in kinds[1:])
    odd = ~(as_eager | as_truth)
    if odd.any():
        place = tuple(odd.nonzero()[0].tolist())
        return 0.0, f"{int(odd.sum())} NaN or infinite elements are not eager's, at {list(place)} {ours[place]} for {theirs[place]}"
    finite = ours.isfinite() & theirs.isfinite() & truth.isfinite()
    ours, theirs, truth = ours[finite], theirs[finite], truth[finite]
    error, eager = relative_error(ours, truth), relative_error(theirs, truth)
    if ours.dtype == torch.float32:
        limit = max(min(FLOAT32_LIMIT, max(FLOAT32_TIMES_EAGER * eager, FLOAT32_FLOOR)), eager)
    elif ours.dtype == torch.float64:
        limit = eager
    else:
        limit = BFLOAT16_TIMES_AUTOCAST * max(eager, relative_error(truth.to(ours.dtype), truth))
    return error, None if error <= limit else f"relative error {error:.2e} > {limit:.2e} (eager's is {eager:.2e})"
