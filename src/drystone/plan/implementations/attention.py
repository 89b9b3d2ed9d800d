"""attention, of whole sequences and over a cache, by the own kernels."""

from __future__ import annotations

from drystone import native
from drystone.graph import ops
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Node
from drystone.plan.formats import PLAIN
from drystone.plan.implementations.base import Context, Created, Implementation, Layout


class Attention(Implementation):
    """Operands are read where they lie, whatever their strides, if neighbours on the last axis are neighbours in memory."""

    name = "drystone"
    op = ops.Attention
    reads_strided = 1

    def refuses(self, node: Node) -> str | None:
        for value in [*node.inputs[:3], *node.outputs]:
            if value.dtype not in FLOATS or value.dtype != node.output.dtype:
                return "attention has a native kernel for float32 and bfloat16 only"
        return super().refuses(node)

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(None if value.is_constant else PLAIN for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        op = node.of(ops.Attention)
        query, key, value, *mask = inputs
        step = native.attention(
            query, key, value, mask[0] if mask else None, output, list(op.heads_first), op.scale, op.causal, op.nan_if_hidden
        )
        return Created(step, [*(context.operand(node, i) for i in range(len(inputs))), ("out", 0)])


class CachedAttention(Implementation):
    """As ``Attention``. The tables of the cache are dense."""

    name = "drystone"
    op = ops.CachedAttention
    reads_strided = 1

    def refuses(self, node: Node) -> str | None:
        if node.output.dtype not in FLOATS:
            return "attention over a cache has a native kernel for float32 and bfloat16 only"
        return super().refuses(node)

    def layouts(self, node: Node) -> list[Layout]:
        return [Layout(tuple(None if value.is_constant else PLAIN for value in node.inputs), PLAIN)]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        op = node.of(ops.CachedAttention)
        q, *rest = inputs
        k, v = (rest.pop(0), rest.pop(0)) if op.writes else (None, None)
        cosines, sines = (rest.pop(0), rest.pop(0)) if op.rotary else (None, None)
        pages, lengths, *rest = rest
        sinks, bias = (rest.pop(0) if has else None for has in (op.has_sinks, op.has_bias))
        scores = pages, lengths, sinks, bias
        step = native.cached_attention(
            q, k, v, cosines, sines, *scores, output, op.layer, op.scale, op.window, op.softcap, op.by_distance, op.causal
        )
        return Created(step, [*(context.operand(node, i) for i in range(len(inputs))), ("out", 0)])
