"""Where torch's shape functions are wrong: an unreduced margin loss of a vector is a scalar, of which they say (1,).

before:  multilabel_margin_loss(x, target): (1,) → mul(·, 2): (1,)
after:   multilabel_margin_loss(x, target): ()   → mul(·, 2): ()
Every other operator of torch's own tables of samples has the shape that its function says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

_aten = torch.ops.aten
# The operator → the number of axes of its target where its result has none.
_MARGIN_LOSSES = {_aten.multi_margin_loss.default: 0, _aten.multilabel_margin_loss.default: 1}


def correct_scalars(program: ExportedProgram) -> None:
    """What is computed from such a scalar has its shape worked out anew."""
    corrected: set[fx.Node] = set()

    def value(node: fx.Node) -> Any:
        return node.meta["val"]

    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in _MARGIN_LOSSES and value(node.args[1]).dim() <= _MARGIN_LOSSES[node.target]:
            node.meta["val"] = value(node).reshape(())
        elif not corrected.isdisjoint(node.all_input_nodes):
            args, kwargs = (fx.node.map_arg(item, value) for item in (node.args, node.kwargs))
            node.meta["val"] = node.target(*args, **kwargs)
        else:
            continue
        corrected.add(node)
