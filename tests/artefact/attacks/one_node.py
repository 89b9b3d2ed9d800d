"""Graphs of one node each, as an artefact has them: all right, until something of them is given otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from drystone.artefact import graphs
from drystone.artefact.document import DTYPES
from drystone.artefact.quantisations import quantisation
from drystone.graph.graph import Value
from drystone.graph.ops import OPERATORS

MEMORY = 1 << 40

Given = dict[str, Any]  # a graph of one node as JSON, and the constants that it may read
F, B, I64, T = "float32", "bfloat16", "int64", "bool"


def described(shapes: list[Any], name: str) -> list[list[Any]]:
    """Shapes, or [dtype, shape], or [dtype, shape, quantisation], as an artefact describes values."""
    given = [shape if shape and isinstance(shape[0], str) else [F, shape] for shape in shapes]
    return [[f"{name}{index}", dtype, shape, *(rest or [None])] for index, (dtype, shape, *rest) in enumerate(given)]


def one(op: str, inputs: list[Any], outputs: list[Any], reads: str = "", constants: list[Any] = [], **node: Any) -> Given:  # noqa: B006
    """``reads``: what the node reads, as in "v0 c0"; all inputs where it is not given."""
    read = reads.split() if reads else [f"v{index}" for index in range(len(inputs))]
    content = {"name": "n", "op": op, "inputs": [[{"v": "value", "c": "constant"}[r[0]], int(r[1:])] for r in read if r != "-"]}
    content |= {"outputs": described(outputs, "y")} | node
    first = len(inputs)
    made = [["value", first + index] for index in range(len(outputs))]
    graph = {"inputs": described(inputs, "x"), "nodes": [content], "outputs": made}
    return {"graph": graph, "constants": described(constants, "c")}


def native(op: str, **usual: Any) -> Callable[..., Given]:
    """A node of this operator that is right, but for what is given: "inputs", "reads", "epilogue" … or an attribute."""

    def make(**changed: Any) -> Given:
        given = {"epilogue": []} | usual | changed
        attributes = {name: given.pop(name) for name in list(given) if name in OPERATORS[op].hints()}
        return one(op, attributes=attributes, **given)

    return make


def read(given: Given) -> None:
    constants = []
    for name, dtype, shape, codes in given["constants"]:
        constants.append(Value(tuple(shape), DTYPES[dtype], name, data=torch.zeros(0)))
        constants[-1].quantisation = quantisation(codes, constants[-1], name)
    graphs.graph(given["graph"], constants, MEMORY)


MAP = [1, 4, 8, 8]
CONV = {"stride": [1, 1], "padding_l": [0, 0], "padding_r": [0, 0], "dilation": [1, 1], "groups": 2, "has_bias": True}
POOL = {"divisors": None, "divisor_override": None}
ADD = ["add", [["in", 0], ["in", 1]], 0, 0]
RELU = ["relu", [["in", 0]], 0, 0]
NORM = {"eps": 1e-5, "has_weight": True, "has_bias": False}

conv = native("conv", inputs=[MAP], constants=[[6, 2, 3, 3], [6]], reads="v0 c0 c1", outputs=[[1, 6, 6, 6]], **CONV)
transpose = native(
    "conv_transpose", inputs=[MAP], constants=[[6, 2, 3, 3], [6]], reads="v0 c0 c1", outputs=[[1, 6, 10, 10]], **CONV
)
linear = native("linear", inputs=[[2, 4]], constants=[[3, 4]], reads="v0 c0", outputs=[[2, 3]], has_bias=False)
quantised = native(
    "quantised_linear", inputs=[[2, 64]], outputs=[[2, 3]], reads="v0 c0 c1 c2 c3",
    constants=[["uint8", [3, 32]], ["float16", [3, 2]], ["float16", [3, 2]], [3]],
    has_bias=True, bits=4, group=32, has_minima=True, may_round_x=False,
)  # fmt: skip
rows = native(
    "quantised_rows", inputs=[[I64, [2, 3]]], outputs=[[2, 3, 64]], reads="v0 c0 c1",
    constants=[["uint8", [5, 64]], [5, 2]], bits=8, group=32, has_minima=False,
)  # fmt: skip
pointwise = native("pointwise", inputs=[[2, 3], [3]], outputs=[[2, 3]], ops=[ADD])
pool = native("pool", inputs=[[1, 4, 8]], outputs=[[1, 4, 2]], kind="max", windows=[[[0, 3, 1], [2, 8, 2]]], **POOL)
mean = native(
    "pool", inputs=[[1, 4, 8]], outputs=[[1, 4, 1]], kind="avg", windows=[[[0, 8, 1]]], divisors=[[8]], divisor_override=None
)
reduce = native("reduce", inputs=[[2, 3, 4]], outputs=[[2, 4]], kind="sum", dims=[1], keepdim=False)
softmax = native("softmax", inputs=[[2, 3]], outputs=[[2, 3]], dim=1)
layer_norm = native("layer_norm", inputs=[[2, 3]], constants=[[3]], reads="v0 c0", outputs=[[2, 3]], dims=[1], centred=True, **NORM)
group_norm = native("group_norm", inputs=[MAP], constants=[[4]], reads="v0 c0", outputs=[MAP], groups=2, **NORM)
lrn = native("lrn", inputs=[MAP], outputs=[MAP], size=3, alpha=1.0, beta=1.0, k=1.0)
grid_sample = native(
    "grid_sample", inputs=[MAP, [1, 5, 6, 2]], outputs=[[1, 4, 5, 6]], mode="bilinear", padding="zeros", align_corners=False,
)  # fmt: skip
resize = native(
    "resize", inputs=[MAP], outputs=[[1, 4, 16, 4]], mode="nearest", align_corners=False, scales=[2.0, 0.5], sizes=[16, 4]
)
cat = native("cat", inputs=[[2, 3], [2, 4]], outputs=[[2, 7]], dim=1)
slice_ = native("slice", inputs=[[2, 9]], outputs=[[2, 4]], dim=1, start=1, length=4, step=2)
take = native("take", inputs=[[2, 9]], outputs=[[2, 3]], dims=[1], indices=[[8, 0, 8]])
permute = native("permute", inputs=[[2, 3]], outputs=[[3, 2]], dims=[1, 0])
reshape = native("reshape", inputs=[[2, 3]], outputs=[[6]], sizes=[6])
expand = native("expand", inputs=[[2, 1]], outputs=[[5, 2, 3]], sizes=[5, 2, 3])
pad = native("pad", inputs=[[2, 3]], outputs=[[2, 6]], before=[0, 1], after=[0, 2], mode="replicate", value=0.0)
CODES = ["uint8", [2, 3], {"scales": [0.5], "zero_point": 128}]
quantise = native("quantise", inputs=[[2, 3]], outputs=[CODES])
dequantise = native("dequantise", inputs=[CODES], outputs=[[2, 3]])
ROUNDED = {"low": 0, "high": 255, "eps": 1e-7, "symmetric": False, "rows": False}
dynamic_linear = native(
    "dynamic_linear", inputs=[[2, 4]], constants=[["int8", [3, 4], {"scales": [0.5] * 3, "zero_point": 0}]], reads="v0 c0",
    outputs=[[2, 3]], has_bias=False, **ROUNDED,
)  # fmt: skip
moved = native("permute", inputs=[CODES], outputs=[["uint8", [3, 2], CODES[2]]], dims=[1, 0])
convert = native("convert", inputs=[[2, 3]], outputs=[[I64, [2, 3]]])
product = native("matmul", inputs=[[5, 2, 3], [1, 4, 3]], outputs=[[5, 2, 4]], dims=[[0, 1, 2], [0, 2, 1]])
rotary = native("rotary", inputs=[[2, 5, 3, 4], [5, 4], [5, 4]], outputs=[[2, 3, 5, 4]], dims=[0, 2, 1, 3])
QKV = [[2, 4, 5, 8], [2, 2, 6, 8], [2, 2, 6, 7]]
attention = native(
    "attention", inputs=[*QKV, [5, 6]], outputs=[[2, 4, 5, 7]],
    heads_first=[True] * 4, scale=1.0, causal=False, has_mask=True, nan_if_hidden=False,
)  # fmt: skip
TABLES = [[I64, [3, 2, 1]], [I64, [2]]]
cached_attention = native(
    "cached_attention", inputs=[[2, 4, 5, 8], [2, 2, 5, 8], [2, 2, 5, 7], [5, 8], [5, 8], *TABLES, [4], [4, 9]], outputs=[[2, 5, 4, 7]],
    layer=2, scale=1.0, window=0, softcap=0.0, writes=True, rotary=True, has_sinks=True, has_bias=True, by_distance=True, causal=True,
)  # fmt: skip
lstm = native(
    "recurrent", inputs=[[2, 5, 16], [1, 2, 3], [1, 2, 4]], constants=[[16, 3], [3, 4]], reads="v0 c0 c1 v1 v2",
    outputs=[[2, 5, 3], [1, 2, 3], [1, 2, 4]],
    kind="lstm", directions=1, batch_first=True, has_bias=False, projects=True, has_state=True,
)  # fmt: skip
gru = native(
    "recurrent", inputs=[[2, 5, 12]], constants=[[12, 4], [4]], reads="v0 c0 c1", outputs=[[2, 5, 4], [1, 2, 4]],
    kind="gru", directions=1, batch_first=True, has_bias=True, projects=False, has_state=False,
)  # fmt: skip
rnn = native(
    "recurrent", inputs=[[2, 5, 4]], constants=[[4, 4]], reads="v0 c0", outputs=[[2, 5, 4], [1, 2, 4]],
    kind="rnn_tanh", directions=1, batch_first=True, has_bias=False, projects=False, has_state=False,
)  # fmt: skip
elementwise = native("elementwise", inputs=[[I64, [2, 3]], [I64, [3]]], outputs=[[I64, [2, 3]]], kind="add")
where = native("elementwise", inputs=[[T, [2, 3]], [3], [1]], outputs=[[2, 3]], kind="where")
less = native("elementwise", inputs=[[2, 3], [3]], outputs=[[T, [2, 3]]], kind="lt")
aggregate = native("aggregate", inputs=[[I64, [2, 3, 4]]], outputs=[[I64, [2]]], kind="sum", dims=[1, 2], keepdim=False)
running = native("aggregate", inputs=[[I64, [2, 3]]], outputs=[[I64, [2, 3]]], kind="cumsum", dims=[1], keepdim=True)
argmax = native("aggregate", inputs=[[2, 3]], outputs=[[I64, [2]]], kind="argmax", dims=[1], keepdim=False)
topk = native(
    "topk", inputs=[[2, 9, 4]], outputs=[[2, 3, 4], [I64, [2, 3, 4]]], dim=1, k=3, largest=True, sorted=False
)  # fmt: skip
unfold = native("unfold", inputs=[[2, 9]], outputs=[[2, 4, 3]], ways=[[0, 2, 1], [1, 4, 2], [1, 3, 1]])
overlap = native(
    "overlap_add", inputs=[[2, 12, 6]], outputs=[[2, 3, 5, 4]],
    sizes=[5, 4], kernel=[2, 2], strides=[2, 1], dilations=[1, 1], padding=[0, 0],
)  # fmt: skip
lookup = native("index", inputs=[[5, 6, 7], [I64, [2]], [I64, [3, 1]]], outputs=[[5, 3, 2]], dim=1, wraps=True, caller="index")
along = native("index", inputs=[[5, 6], [I64, [4, 2]]], outputs=[[4, 2]], dim=1, wraps=False, caller="gather")

written = native("index_copy", inputs=[[5, 6], [I64, [2]], [5, 2]], outputs=[[5, 6]], dim=1, wraps=True)


def aten(target: str = "cumprod.default", inputs: list[Any] = [[2, 3]], outputs: list[Any] = [[2, 3]], **changed: Any) -> Given:  # noqa: B006
    usual = {"args": [{"input": 0}, 1], "kwargs": {}, "reason": ""}
    return one("aten", inputs, outputs, target=target, **(usual | changed))


RIGHT: dict[str, Callable[..., Given]] = {
    name: make for name, make in list(globals().items()) if getattr(make, "__name__", "") in ("make", "aten") and callable(make)
}
