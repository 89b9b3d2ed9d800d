"""``torch.compile(model, backend="drystone")``: what the entry point in torch's group of Dynamo backends names.

Torch keeps a backend until the process has ended. All else is imported when the first graph comes, so that it is not kept too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from drystone.errors import InputError

if TYPE_CHECKING:
    from torch import fx

OPTIONS = ("dtype", "accuracy", "tuning", "formats", "strict")


def drystone(graph: fx.GraphModule, example_inputs: Sequence[Any], *, options: dict[str, Any] | None = None) -> Callable[..., Any]:
    """The backend: Dynamo calls it for each graph, and then calls what it gives instead of the graph.

    Args:
        graph: takes tensors, weights and sizes; gives a tuple of tensors.
        example_inputs: what it is compiled for; tells weights from other inputs.
        options: ``dtype``, ``accuracy``, ``tuning``, ``formats`` and ``strict`` of ``drystone.optimize``.

    Raises:
        InputError, UnsupportedError: an option that does not exist, or has a value out of range.
    """
    from drystone.options import check_options
    from drystone.sources.compiled_graph import CompiledGraph

    options = dict(options or {})
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise InputError(f"unknown options {', '.join(map(repr, unknown))}; there are {', '.join(OPTIONS)}")
    check_options(**{name: value for name, value in options.items() if name != "strict"})
    return CompiledGraph(graph, example_inputs, options).run
