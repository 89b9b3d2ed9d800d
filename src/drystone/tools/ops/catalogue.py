"""The operators that can be measured, and the choice among their cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from . import attention, cat, embedding, gemm, mm, recurrent, topk, volume_layers, volumes
from .case import Case

#: Gives the cases of a dtype.
OPERATORS: dict[str, Callable[[str], Iterator[Case]]] = {
    "gemm": gemm.cases,
    "attention": attention.cases,
    "topk": topk.cases,
    **recurrent.OPERATORS,
    "conv3d": volumes.cases,
    "conv_transpose3d": volumes.transposed_cases,
    "max_pool3d": volume_layers.max_pool_cases,
    "avg_pool3d": volume_layers.avg_pool_cases,
    "batch_norm3d": volume_layers.batch_norm_cases,
    "instance_norm": volume_layers.instance_norm_cases,
    "clone": volume_layers.clone_cases,
    "cat": cat.cases,
    "embedding": embedding.embedding_cases,
    "embedding_bag": embedding.embedding_bag_cases,
    "mm": mm.cases,
}


def choose(operators: Sequence[str], dtypes: Sequence[str], tags: Sequence[str] = ()) -> list[Case]:
    """The cases that have, of each element of ``tags``, one of the labels that it names with commas between.

    Raises ``ValueError`` where a label is no case's, or no case has all that is asked for.
    """
    cases = [case for operator in operators for dtype in dtypes for case in OPERATORS[operator](dtype)]
    known = frozenset().union(*(case.labels for case in cases))
    wanted = [frozenset(label.strip() for label in tag.split(",")) for tag in tags]
    for label in sorted(frozenset().union(*wanted) - known):
        names = ", ".join(dict.fromkeys(case.tag for case in cases))
        sizes = ", ".join(dict.fromkeys(name for case in cases for name in case.sizes))
        raise ValueError(f"no case is called {label!r}: there are {names}, and sizes, as M=128, of {sizes}")
    chosen = [case for case in cases if all(case.labels & labels for labels in wanted)]
    if not chosen:
        raise ValueError(f"no case has all of {' and '.join(tags)}")
    return chosen
