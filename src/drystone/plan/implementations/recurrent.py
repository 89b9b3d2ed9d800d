"""recurrent, the hidden part of LSTM, GRU and RNN layers, by the own kernel."""

from __future__ import annotations

import torch

from drystone import native
from drystone.graph import ops
from drystone.graph.graph import Node
from drystone.graph.ops.recurrent import GATES
from drystone.plan.formats import PLAIN, dense
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, Operand, float_reason


class Recurrent(Implementation):
    """Threads own units of the layer for all time steps; the sequences may lie with batch or time first, the output with holes.

    Where the CPU does not multiply bfloat16, weights stored so are widened when they are packed, or, ``narrow``, when they are
    read.
    """

    op = ops.Recurrent

    def __init__(self, narrow: bool = False) -> None:
        self.narrow = narrow
        self.name = "drystone_narrow" if narrow else "drystone"

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or float_reason(node) or _reason(node) or self._own_reason(node)

    def _own_reason(self, node: Node) -> str | None:
        widens = (
            node.of(ops.Recurrent).by_role(node.inputs).directions[0].weight.dtype == torch.bfloat16
            and not native.multiplies_bfloat16()
        )
        return "the weights are multiplied in their own dtype" if self.narrow and not widens else None

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(None if value.is_constant else PLAIN for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        op = node.of(ops.Recurrent)
        values, descs = op.by_role(node.inputs), op.by_role(inputs)
        _, final_state, *final_cell = node.outputs
        weight = values.directions[0].weight
        packed_dtype = weight.dtype if self.narrow or native.multiplies_bfloat16() else torch.float32
        gates, dtype = GATES[op.kind], native.DTYPES[packed_dtype]
        hidden = weight.shape[0] // gates
        step = native.recurrent(
            op.kind,
            dtype,
            hidden,
            op.directions,
            op.batch_first,
            op.has_bias,
            op.projects,
            descs.gates,
            descs.state,
            descs.cell,
            output,
            dense(final_state, PLAIN),
            dense(final_cell[0], PLAIN) if final_cell else None,
        )
        constants: list[Operand] = []
        for direction in values.directions:
            packing = native.RecurrentWeights(dtype, gates, hidden, weight.shape[1])
            constants.append(context.weights.packed(packing, direction.weight, packed_dtype))
            if direction.bias is not None:
                constants.append(context.weights.plain(direction.bias, torch.float32))
            if direction.projection is not None:
                packing = native.RecurrentWeights(dtype, 1, weight.shape[1], hidden)
                constants.append(context.weights.packed(packing, direction.projection, packed_dtype))
        last = len(node.inputs)
        states = [context.operand(node, i) for i in range(last - sum(x is not None for x in (values.state, values.cell)), last)]
        outputs: list[Operand] = [("out", i) for i in range(len(node.outputs))]
        return Created(step, [("in", 0), *constants, *states, *outputs])


def _reason(node: Node) -> str | None:
    given = node.of(ops.Recurrent).by_role(node.inputs)
    if given.gates.dtype != torch.float32:
        return "what the inputs give the gates is not float32"
    weights = [value for direction in given.directions for value in (direction.weight, direction.projection) if value is not None]
    if not all(value.is_constant for value in weights) or len({value.dtype for value in weights}) > 1:
        return "recurrent weights that are computed, or of several dtypes"
    return None
