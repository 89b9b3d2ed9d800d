"""``torch.ops.drystone.cached_attention``: attention over a cache. Importing this defines it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from drystone import native
from drystone.errors import InputError
from drystone.graph.cache_pages import cached_attention as plain
from drystone.graph.dtypes import FLOATS

Tensor = torch.Tensor

NAME = "drystone::cached_attention"
torch.library.define(
    NAME,
    "(Tensor q, Tensor? k, Tensor? v, Tensor pages, Tensor lengths, int layer, float scale, int window, float softcap, "
    "Tensor? sinks, Tensor? bias, bool by_distance, bool causal) -> Tensor",
)


@torch.library.register_fake(NAME)
def _fake(q: Tensor, k: Tensor | None, v: Tensor | None, *_: Any) -> Tensor:
    batch, heads, count, depth = q.shape
    return q.new_empty((batch, count, heads, depth if v is None else v.shape[3]))


@torch.library.impl(NAME, "CPU")
def _eager(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    pages: Tensor,
    lengths: Tensor,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: Tensor | None,
    bias: Tensor | None,
    by_distance: bool,
    causal: bool,
) -> Tensor:
    if native.isa() == "none" or q.dtype not in FLOATS:
        return plain(q, k, v, pages, lengths, layer, scale, window, softcap, sinks, bias, by_distance, causal)
    output = _fake(q, k, v)
    q, pages, lengths = q.contiguous(), pages.contiguous(), lengths.contiguous()
    bias = None if bias is None else bias.float()
    k, v, sinks, bias = (None if x is None else x.contiguous() for x in (k, v, sinks, bias))
    key, value, sink, added = (None if x is None else _described(x) for x in (k, v, sinks, bias))
    tables = _described(pages), _described(lengths)
    query, result = _described(q), _described(output)
    try:
        step = native.cached_attention(
            query, key, value, None, None, *tables, sink, added, result, layer, scale, window, softcap, by_distance, causal
        )
    except ValueError as error:
        raise InputError(f"{NAME}: {error}") from None
    given = [x for x in (q, k, v, pages, lengths, sinks, bias, output) if x is not None]
    program = native.Program()
    program.add(step, list(range(len(given))))
    scratchpad = torch.empty(step.scratchpad_bytes, dtype=torch.uint8)
    frame = native.Frame(program, [x.data_ptr() for x in given], [], scratchpad.data_ptr(), torch.get_num_threads())
    frame.call([], 1)
    return output


def _described(x: Tensor) -> native.TensorDesc:
    return native.TensorDesc.dense(native.DTYPES[x.dtype], native.Format.plain, list(x.shape))


cached_attention = torch.ops.drystone.cached_attention.default
_LAYER = [argument.name for argument in cached_attention._schema.arguments].index("layer")


def arguments_of_layer(call: fx.Node, further: int) -> tuple[Any, ...]:
    """The arguments of a traced call; of attention over a cache those of a layer that is so much further on."""
    if call.target is not cached_attention:
        return call.args
    before, layer, after = call.args[:_LAYER], call.args[_LAYER], call.args[_LAYER + 1 :]
    assert isinstance(layer, int)
    return (*before, layer + further, *after)
