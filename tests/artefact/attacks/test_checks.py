"""One document for each check of a graph that comes from a file: it breaks that rule, and the error says so."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from one_node import (
    ADD,
    CONV,
    I64,
    MAP,
    QKV,
    RELU,
    RIGHT,
    B,
    Given,
    T,
    along,
    argmax,
    attention,
    cat,
    conv,
    convert,
    elementwise,
    expand,
    fold,
    gather,
    group_norm,
    gru,
    layer_norm,
    less,
    lookup,
    lrn,
    lstm,
    matmul,
    mean,
    overlap,
    pad,
    permute,
    pointwise,
    pool,
    product,
    read,
    reduce,
    reshape,
    resize,
    rotary,
    running,
    slice_,
    softmax,
    topk,
    transpose,
    unfold,
    where,
)

import drystone
from drystone.graph.ops import OPERATORS


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_changed_is_right_before(name: str) -> None:
    read(RIGHT[name]())


def test_each_operator_is_among_them() -> None:
    ops = {make()["graph"]["nodes"][0]["op"] for make in RIGHT.values()}
    assert ops == set(OPERATORS)


def more(make: Callable[..., Given], op: str, count: int) -> dict[str, tuple[Given, str]]:
    """Another number of operands."""
    given = make()
    node = given["graph"]["nodes"][0]
    node["inputs"] = node["inputs"] + node["inputs"][-1:]
    return {f"{op}: an operand more": (given, f"this {op} takes {count} operands, not {count + 1}")}


OF_OPERATORS: dict[str, tuple[Given, str]] = {
    "a dtype that it does not take": (softmax(inputs=[[I64, [2, 3]]]), "x0:int64[2, 3] is no operand of a softmax"),
    "an output of a dtype that it does not take": (softmax(outputs=[[I64, [2, 3]]]), "y0:int64[2, 3] is no operand of a softmax"),
    "an empty operand": (softmax(inputs=[[0, 3]], outputs=[[0, 3]]), "a softmax has no empty tensors"),
    "an empty result": (expand(outputs=[[0, 2, 3]]), "an expand has no empty tensors".replace("an ", "a ")),
    "no operands": (cat(reads="-"), "a cat has inputs"),
    "another dtype": (pool(outputs=[[B, [1, 4, 2]]]), "n: it changes its dtype"),
    "operands of two dtypes": (cat(inputs=[[2, 3], [B, [2, 4]]]), "n: it changes its dtype"),
    "an epilogue of what has none": (softmax(epilogue=[RELU]), "a softmax has no epilogue"),
    "an output more": (softmax(outputs=[[2, 3], [2, 3]]), "this softmax has 1 outputs, not 2"),
    "another shape": (softmax(outputs=[[2, 4]]), "y0:float32[2, 4] is not the result of this softmax"),
    "another shape of the second": (gru(outputs=[[2, 5, 4], [1, 2, 5]]), "y1:float32[1, 2, 5] is not the result of this recurrent"),
    "a long chain": (pointwise(ops=[RELU] * 1001), "more than 1000 instructions"),
    "a long epilogue": (conv(epilogue=[RELU] * 1001), "more than 1000 instructions"),
    "an instruction of three": (pointwise(ops=[["relu", [["in", 0]], 0]]), "must have 4 entries"),
    "an unknown instruction": (pointwise(ops=[["exec", [["in", 0]], 0, 0]]), "'exec' is none of"),
    "an operand less": (pointwise(ops=[["add", [["in", 0]], 0, 0]]), "must have 2 entries"),
    "two operands of one": (pointwise(ops=[["relu", [["in", 0]] * 2, 0, 0]]), "must have 1 entries"),
    "memory of another kind": (pointwise(ops=[["relu", [["slot", 0]], 0, 0]]), "'slot' is none of in, reg"),
    "its own register": (pointwise(ops=[RELU, ["relu", [["reg", 1]], 0, 0]]), "1 is no integer from 0 to 0"),
    "an operand far beyond": (pointwise(ops=[["relu", [["in", (1 << 20) + 1]], 0, 0]]), "is no integer from 0 to 1048576"),
    "alpha is a word": (pointwise(ops=[["relu", [["in", 0]], "a", 0]]), "'a' is no number"),
    "beta is a word": (pointwise(ops=[["relu", [["in", 0]], 0, "b"]]), "'b' is no number"),
    # -- conv, its transpose, matmul
    "conv: no bias": (conv(reads="v0 c0"), "an operand is missing"),
    "conv: a computed weight": (conv(inputs=[MAP, [6, 2, 3, 3]], reads="v0 v1 c1"), "the weight is no constant"),
    "conv: a computed bias": (conv(inputs=[MAP, [6]], reads="v0 c0 v1"), "x1:float32[6] is no bias"),
    "conv: a bias of another size": (conv(constants=[[6, 2, 3, 3], [5]]), "c1:float32[5] is no bias"),
    "conv: operands for no epilogue": (conv(reads="v0 c0 c1 v0"), "has operands and no epilogue"),
    "conv: an epilogue of something else": (
        conv(inputs=[MAP, [1]], reads="v0 c0 c1 v1", epilogue=[["relu", [["in", 1]], 0, 0]]),
        "does not go on from the instruction before it",
    ),
    "conv: an epilogue that begins anew": (conv(epilogue=[RELU, RELU]), "does not go on from the instruction before it"),
    "conv: an epilogue of a result to come": (conv(epilogue=[["relu", [["reg", 1]], 0, 0], RELU]), "relu(reg1): 1 is no integer"),
    "conv: an epilogue beyond its operands": (
        conv(inputs=[MAP, [1]], reads="v0 c0 c1 v1", epilogue=[["add", [["in", 0], ["in", 2]], 0, 0]]),
        "or reads beyond the operands",
    ),
    "conv: an epilogue that reads the sum again": (
        conv(inputs=[MAP, [1]], reads="v0 c0 c1 v1", epilogue=[RELU, ["add", [["reg", 0], ["in", 0]], 0, 0]]),
        "or reads beyond the operands",
    ),
    "conv: an epilogue of two registers": (
        conv(epilogue=[RELU, ["relu", [["reg", 0]], 0, 0], ["add", [["reg", 1], ["reg", 0]], 0, 0]]),
        "or reads beyond the operands",
    ),
    "conv: an epilogue's operand of another shape": (
        conv(inputs=[MAP, [1, 6, 6, 7]], reads="v0 c0 c1 v1", epilogue=[ADD]),
        "x1:float32[1, 6, 6, 7] does not fit the output",
    ),
    "conv: an epilogue's operand of more axes": (
        conv(inputs=[MAP, [1, 1, 6, 6, 6]], reads="v0 c0 c1 v1", epilogue=[ADD]),
        "x1:float32[1, 1, 6, 6, 6] does not fit the output",
    ),
    "conv: two axes": (conv(inputs=[[1, 4]]), "a conv of 2 axes"),
    "conv: six axes": (conv(inputs=[[1, 4, 8, 8, 8, 8]]), "a conv of 6 axes"),
    "conv: a weight of three axes": (conv(constants=[[6, 2, 3], [6]]), "c0:float32[6, 2, 3] is no weight for"),
    **{f"conv: {name} of an axis less": (conv(**{name: [1]}), f"{name} has 1 entries for 2 axes") for name in list(CONV)[:4]},
    "conv: channels in no groups": (conv(constants=[[7, 2, 3, 3], [7]]), "in 2 groups does not fit"),
    "conv: other channels": (conv(inputs=[[1, 5, 8, 8]]), "in 2 groups does not fit"),
    "conv: a kernel larger than its input": (conv(inputs=[[1, 4, 2, 8]]), "the kernel is larger than its input"),
    "conv: a dilated kernel larger than its input": (conv(dilation=[4, 1]), "the kernel is larger than its input"),
    "conv_transpose: channels in no groups": (transpose(constants=[[7, 2, 3, 3], [7]]), "in 2 groups does not fit"),
    "conv_transpose: outputs of no input": (transpose(padding_r=[0, -1]), "outputs of no input"),
    "conv_transpose: nothing left": (transpose(padding_l=[10, 0]), "nothing is left of the output"),
    "matmul: no axes": (matmul(inputs=[[]]), "a matmul of 0 axes"),
    "matmul: another depth": (matmul(constants=[[3, 5]]), "c0:float32[3, 5] does not fit x0:float32[2, 4]"),
    "matmul: a weight of three axes": (matmul(constants=[[3, 4, 1]]), "c0:float32[3, 4, 1] does not fit x0:float32[2, 4]"),
    # -- pointwise
    "pointwise: no instructions": (pointwise(ops=[]), "it has no instructions"),
    "pointwise: beyond its operands": (pointwise(ops=[["relu", [["in", 2]], 0, 0]]), "it reads operand 2 of 2"),
    "pointwise: shapes that do not broadcast": (pointwise(inputs=[[2, 3], [2]]), "the operands do not broadcast"),
    # -- pool
    **more(pool, "pool", 1),
    "pool: two axes": (pool(inputs=[[4, 8]]), "a pool of 2 axes"),
    "pool: six axes": (pool(inputs=[[1, 4, 8, 8, 8, 8]]), "a pool of 6 axes"),
    "pool: windows of two axes": (pool(windows=[[[0, 3, 1]]] * 2), "windows has 2 entries for 1 axes"),
    "pool: an empty window": (pool(windows=[[[0, 3, 1], [3, 3, 1]]]), "a window is empty or reaches beyond the 8 entries"),
    "pool: a window beyond the input": (pool(windows=[[[0, 3, 1], [7, 9, 1]]]), "a window is empty or reaches beyond the 8 entries"),
    "pool: a window of no step": (pool(windows=[[[0, 3, 1], [2, 8, 0]]]), "a window is empty or reaches beyond the 8 entries"),
    "pool: no divisors": (mean(divisors=None), "it has no divisors"),
    "pool: divisors of two axes": (mean(divisors=[[8], [8]]), "divisors has 2 entries for 1 axes"),
    "pool: a divisor more": (mean(divisors=[[8, 8]]), "a divisor a window"),
    "pool: divisors of a maximum": (pool(divisors=[[1, 1]]), "a maximum has no divisors"),
    "pool: a divisor for all of a maximum": (pool(divisor_override=2), "a maximum has no divisors"),
    # -- reduce, softmax, norms
    **more(reduce, "reduce", 1),
    "reduce: no axes": (reduce(dims=[]), "[] are no axes in rising order"),
    "reduce: an axis twice": (reduce(dims=[1, 1]), "[1, 1] are no axes in rising order"),
    "reduce: falling axes": (reduce(dims=[2, 1]), "[2, 1] are no axes in rising order"),
    "reduce: beyond the axes": (reduce(dims=[3]), "[3] are no axes in rising order"),
    **more(softmax, "softmax", 1),
    "softmax: beyond the axes": (softmax(dim=2), "axis 2 of 2"),
    "softmax: no axes": (softmax(inputs=[[]], dim=0), "a softmax of 0 axes"),
    "layer_norm: beyond the axes": (layer_norm(dims=[2]), "[2] are no axes in rising order"),
    "layer_norm: an operand less": (layer_norm(reads="v0"), "this layer_norm takes 2 operands, not 1"),
    "layer_norm: a weight of another size": (layer_norm(constants=[[2]]), "weight and bias must be [3]"),
    "group_norm: one axis": (group_norm(inputs=[[4]]), "a group_norm of 1 axes"),
    "group_norm: groups that do not divide": (group_norm(groups=3), "4 channels in 3 groups"),
    "group_norm: a bias more": (group_norm(reads="v0 c0 c0"), "this group_norm takes 2 operands, not 3"),
    "group_norm: a weight of another size": (group_norm(constants=[[2]]), "weight and bias must be [4]"),
    **more(lrn, "lrn", 1),
    "lrn: two axes": (lrn(inputs=[[1, 4]], outputs=[[1, 4]]), "a lrn of 2 axes"),
    "lrn: six axes": (lrn(inputs=[[1] * 6], outputs=[[1] * 6]), "a lrn of 6 axes"),
    # -- resize
    **more(resize, "resize", 1),
    "resize: a long axis": (resize(outputs=[[1, 4, (1 << 24) + 1, 4]], sizes=[(1 << 24) + 1, 4]), "is no integer from 0 to 16777216"),
    "resize: two axes": (resize(inputs=[[1, 4]]), "a resize of 2 axes"),
    "resize: six axes": (resize(inputs=[[1] * 6]), "a resize of 6 axes"),
    "resize: a scale less": (resize(scales=[2.0]), "scales has 1 entries for 2 axes"),
    "resize: a negative scale": (resize(scales=[2.0, -0.5]), "a scale is negative or beyond 16777216"),
    "resize: a huge scale": (resize(scales=[2.0, 1e8]), "a scale is negative or beyond 16777216"),
    "resize: no number": (resize(scales=[2.0, "nan"]), "is not finite"),
    "resize: corners of nearest": (resize(align_corners=True), "nearest has no corners to align"),
    "resize: a cubic one of one axis": (
        resize(mode="cubic", inputs=[[1, 4, 8]], outputs=[[1, 4, 16]], scales=[0.5], sizes=[16]), "a cubic resize of 3 axes"
    ),
    "resize: reads more than there is": (resize(mode="cubic_antialias", scales=[0.5, 9.0]), "a scale beyond what there is to read"),
    "resize: an axis less": (resize(outputs=[[1, 4, 16]], sizes=[16]), "sizes has 1 entries for 2 axes"),
    # -- movement
    "cat: beyond the axes": (cat(dim=2), "axis 2 of 2"),
    "cat: no axes": (cat(inputs=[[], []], dim=0), "a cat of 0 axes"),
    "cat: parts that differ": (cat(inputs=[[2, 3], [3, 4]]), "the parts differ beyond axis 1"),
    "cat: parts of other axes": (cat(inputs=[[2, 3], [2, 4, 1]]), "the parts differ beyond axis 1"),
    **more(slice_, "slice", 1),
    "slice: a long axis": (slice_(outputs=[[2, (1 << 24) + 1]], length=(1 << 24) + 1), "is no integer from 0 to 16777216"),
    "slice: beyond the axes": (slice_(dim=2), "axis 2 of 2"),
    "slice: no axes": (slice_(inputs=[[]], dim=0), "a slice of 0 axes"),
    "slice: an axis less": (slice_(outputs=[[2]]), "y0:float32[2] is not the result of this slice"),
    "slice: beyond the input": (slice_(start=3), "entry 9 of 9"),
    **more(gather, "gather", 1),
    "gather: beyond the axes": (gather(dim=2), "axis 2 of 2"),
    "gather: no axes": (gather(inputs=[[]], dim=0), "a gather of 0 axes"),
    "gather: beyond the input": (gather(indices=[8, 9, 0]), "an index beyond 9"),
    **more(permute, "permute", 1),
    "permute: an axis twice": (permute(dims=[1, 1]), "[1, 1] is no order of the axes of x0:float32[2, 3]"),
    "permute: an axis less": (permute(dims=[0]), "[0] is no order of the axes of x0:float32[2, 3]"),
    **more(reshape, "reshape", 1),
    "reshape: other elements": (reshape(outputs=[[7]], sizes=[7]), "x0:float32[2, 3] has 6 elements, and [7] 7"),
    **more(expand, "expand", 1),
    "expand: a long axis": (expand(outputs=[[(1 << 24) + 1, 2, 3]], sizes=[(1 << 24) + 1, 2, 3]), "an axis longer than 16777216"),
    "expand: an axis that is not 1": (expand(outputs=[[5, 4, 3]], sizes=[5, 4, 3]), "x0:float32[2, 1] does not expand to [5, 4, 3]"),
    "expand: fewer axes": (expand(outputs=[[2]], sizes=[2]), "x0:float32[2, 1] does not expand to [2]"),
    **more(pad, "pad", 1),
    "pad: a long axis": (pad(inputs=[[2, 1 << 24]], outputs=[[2, (1 << 24) + 3]]), "an axis longer than 16777216"),
    "pad: before an axis less": (pad(before=[1]), "before has 1 entries for 2 axes"),
    "pad: after an axis less": (pad(after=[1]), "after has 1 entries for 2 axes"),
    "pad: crops a border that is repeated": (pad(before=[0, -1], after=[0, 4]), "replicate padding does not crop"),
    "pad: crops its end": (pad(before=[0, 4], after=[0, -1]), "replicate padding does not crop"),
    "pad: reflects more than there is": (pad(mode="reflect", before=[0, 3], after=[0, 0]), "more is reflected than there is"),
    "pad: nothing left": (pad(mode="constant", before=[0, -3], after=[0, 0]), "it leaves nothing"),
    **more(convert, "convert", 1),
    # -- products
    "batch_matmul: an operand more": (product(inputs=[[5, 2, 3], [1, 4, 3], [1]]), "this batch_matmul takes 2 operands, not 3"),
    "batch_matmul: an axis twice": (product(dims=[[0, 1, 1], [0, 2, 1]]), "[0, 1, 1] is no order of the axes of x0"),
    "batch_matmul: other depths": (product(inputs=[[5, 2, 3], [1, 4, 2]]), "[5, 2, 3] and [1, 2, 4] have no product"),
    "batch_matmul: other axes": (product(inputs=[[2, 3], [1, 4, 3]], dims=[[0, 1], [0, 2, 1]]), "[2, 3] and [1, 3, 4] have no product"),
    "batch_matmul: vectors": (product(inputs=[[3], [3]], dims=[[0], [0]]), "[3] and [3] have no product"),
    "batch_matmul: batches that do not broadcast": (product(inputs=[[5, 2, 3], [4, 4, 3]]), "the operands do not broadcast"),
    "rotary: an operand more": (rotary(reads="v0 v1 v2 v2"), "this rotary takes 3 operands, not 4"),
    "rotary: an axis twice": (rotary(dims=[0, 0, 1, 3]), "[0, 0, 1, 3] is no order of the axes of x0"),
    "rotary: no axes": (rotary(inputs=[[], [4], [4]], dims=[]), "no halves of []"),
    "rotary: an odd size": (rotary(inputs=[[2, 5, 3, 5], [5, 5], [5, 5]]), "no halves of [2, 3, 5, 5]"),
    "rotary: halves of another axis": (rotary(dims=[0, 1, 3, 2], inputs=[[2, 5, 4, 4], [5, 4], [5, 4]]), "no halves of [2, 5, 4, 4]"),
    "rotary: factors of no axes": (rotary(inputs=[[2, 5, 3, 4], [5, 4], []]), "x2:float32[] does not fit [2, 3, 5, 4]"),
    "rotary: factors of another size": (rotary(inputs=[[2, 5, 3, 4], [5, 4], [5, 1]]), "x2:float32[5, 1] does not fit [2, 3, 5, 4]"),
    "rotary: factors that do not broadcast": (rotary(inputs=[[2, 5, 3, 4], [5, 4], [3, 4]]), "x2:float32[3, 4] does not fit [2, 3, 5, 4]"),
    "attention: no mask": (attention(inputs=QKV), "this attention takes 4 operands, not 3"),
    "attention: an order less": (attention(heads_first=[True] * 3), "heads_first must have 4 entries, and has 3"),
    "attention: three axes": (attention(inputs=[[2, 4, 5], *QKV[1:], [5, 6]]), "an attention has operands of four axes"),
    "attention: another batch of keys": (attention(inputs=[QKV[0], [3, 2, 6, 8], QKV[2], [5, 6]]), "do not fit together"),
    "attention: another batch of values": (attention(inputs=[*QKV[:2], [3, 2, 6, 7], [5, 6]]), "do not fit together"),
    "attention: fewer values than keys": (attention(inputs=[*QKV[:2], [2, 2, 5, 7], [5, 6]]), "do not fit together"),
    "attention: heads that do not divide": (attention(inputs=[QKV[0], [2, 3, 6, 8], [2, 3, 6, 7], [5, 6]]), "do not fit together"),
    "attention: another depth": (attention(inputs=[QKV[0], [2, 2, 6, 9], QKV[2], [5, 6]]), "do not fit together"),
    "attention: two dtypes": (attention(inputs=[QKV[0], [B, QKV[1]], QKV[2], [5, 6]]), "n: it changes its dtype"),
    "attention: of truth values": (
        attention(inputs=[[T, shape] for shape in [*QKV, [5, 6]]], outputs=[[T, [2, 4, 5, 7]]]),
        "n: it changes its dtype",
    ),
    "attention: another mask": (attention(inputs=[*QKV, [5, 7]]), "x3:float32[5, 7] does not fit the scores"),
    # -- recurrent
    "recurrent: an operand less": (gru(reads="v0 c0"), "this recurrent takes 3 operands, not 2"),
    "recurrent: gates of two axes": (gru(inputs=[[5, 12]]), "are no recurrent layer"),
    "recurrent: a weight of three axes": (gru(constants=[[12, 4, 1], [4]]), "are no recurrent layer"),
    "recurrent: a gru that projects": (gru(projects=True, constants=[[12, 4], [4], [4, 4]], reads="v0 c0 c1 c2"), "a gru projects nothing"),
    "recurrent: an lstm with a bias": (
        lstm(has_bias=True, constants=[[16, 3], [4], [3, 4]], reads="v0 c0 c1 c2 v1 v2"),
        "a lstm has no bias inside",
    ),
    "recurrent: a state of another size": (gru(constants=[[12, 3], [4]]), "a state of 3 for 4 units"),
    "recurrent: a computed weight": (gru(inputs=[[2, 5, 12], [12, 4]], reads="v0 v1 c1"), "a weight is no constant"),
    "recurrent: a computed bias": (gru(inputs=[[2, 5, 12], [4]], reads="v0 c0 v1"), "a weight is no constant"),
    "recurrent: a computed projection": (
        lstm(inputs=[[2, 5, 16], [1, 2, 3], [1, 2, 4], [3, 4]], reads="v0 c0 v3 v1 v2"),
        "a weight is no constant",
    ),
    "recurrent: other gates": (gru(inputs=[[2, 5, 13]]), "x0:float32[2, 5, 13] is not of the shape [2, 5, 12]"),
    "recurrent: a bias of another size": (gru(constants=[[12, 4], [5]]), "c1:float32[5] is not of the shape [4]"),
    "recurrent: another projection": (lstm(constants=[[16, 3], [3, 5]]), "c1:float32[3, 5] is not of the shape [3, 4]"),
    "recurrent: another state": (
        lstm(inputs=[[2, 5, 16], [1, 3, 3], [1, 2, 4]]),
        "x1:float32[1, 3, 3] is not of the shape [1, 2, 3]",
    ),
    "recurrent: another cell": (
        lstm(inputs=[[2, 5, 16], [1, 2, 3], [1, 2, 5]]),
        "x2:float32[1, 2, 5] is not of the shape [1, 2, 4]",
    ),
    "recurrent: a weight that gates do not divide": (
        gru(constants=[[13, 4], [4]]),
        "c0:float32[13, 4] is not of the shape [12, 4]",
    ),
    # -- integers and truth values
    "elementwise: an operand more": (elementwise(inputs=[[I64, [2, 3]]] * 3), "this elementwise takes 2 operands, not 3"),
    "elementwise: a condition that is none": (where(inputs=[[2, 3], [3], [1]]), "the condition is not bool"),
    "elementwise: two dtypes": (elementwise(inputs=[[I64, [2, 3]], ["int32", [3]]]), "add does not mix these dtypes"),
    "elementwise: a result of another dtype": (elementwise(outputs=[["int32", [2, 3]]]), "add does not mix these dtypes"),
    "elementwise: a comparison that is no truth": (less(outputs=[[2, 3]]), "lt does not mix these dtypes"),
    "elementwise: of floats": (elementwise(inputs=[[2, 3], [3]], outputs=[[2, 3]]), "add takes no floats"),
    "elementwise: of truth values": (elementwise(inputs=[[T, [2, 3]], [T, [3]]], outputs=[[T, [2, 3]]]), "add takes no bools"),
    "elementwise: shapes that do not broadcast": (elementwise(inputs=[[I64, [2, 3]], [I64, [2]]]), "the operands do not broadcast"),
    **more(fold, "fold", 1),
    "fold: beyond the axes": (fold(dims=[3]), "[3] are no axes in rising order"),
    "fold: a running sum of two axes": (running(dims=[0, 1]), "a cumsum along 2 axes"),
    "fold: axes apart": (fold(dims=[0, 2]), "[0, 2] are no neighbours"),
    "fold: a sum of floats": (fold(inputs=[[2, 3, 4]], outputs=[[2]]), "no sum of x0:float32[2, 3, 4]"),
    "fold: any of integers": (fold(kind="any"), "no any of x0:int64[2, 3, 4]"),
    "fold: an index that is a float": (argmax(outputs=[[2]]), "no argmax of x0:float32[2, 3]"),
    "fold: a sum of another dtype": (fold(outputs=[["int32", [2]]]), "no sum of x0:int64[2, 3, 4]"),
    "topk: beyond the axes": (topk(dim=3), "axis 3 of 3"),
    "topk: more than there are": (topk(k=10), "10 of 9 entries"),
    "topk: into another dtype": (topk(outputs=[[I64, [2, 3, 4]], [I64, [2, 3, 4]]]), "it changes its dtype"),
    "topk: places that are floats": (topk(outputs=[[2, 3, 4], [2, 3, 4]]), "the places of a topk are int64"),
    "topk: no places": (topk(outputs=[[2, 3, 4]]), "this topk has 2 outputs, not 1"),
    "unfold: beyond the axis": (unfold(inputs=[[2, 8]]), "entries [1, 8] of [2, 8]"),
    "unfold: beyond the axes": (unfold(ways=[[2, 2, 1]]), "axis 2 of 2"),
    "overlap_add: no window fits": (overlap(kernel=[6, 2]), "no window fits into 5 entries"),
    "overlap_add: other windows": (overlap(strides=[1, 1]), "6 windows where 12 fit"),
    "overlap_add: rows apart": (overlap(inputs=[[2, 13, 6]]), "13 rows for windows of 4"),
    "overlap_add: of a volume": (overlap(inputs=[[2, 12, 6, 1]]), "a overlap_add of 4 axes"),
    "fold: the greatest truth": (fold(kind="amax", inputs=[[T, [2, 3, 4]]], outputs=[[T, [2]]]), "no amax of x0:bool[2, 3, 4]"),
    "index: no indices": (lookup(reads="v0"), "an index needs indices"),
    "index: beyond the axes": (lookup(dim=3), "axis 3 of 3"),
    "index: no axes": (lookup(inputs=[[], [I64, [2]]], dim=0), "a index of 0 axes"),
    "index: by floats": (lookup(inputs=[[5, 6, 7], [2], [I64, [3, 1]]]), "indices are int64 or int32"),
    "index: another dtype": (lookup(outputs=[[B, [5, 3, 2]]]), "n: it changes its dtype"),
    "index: more axes than there are": (lookup(dim=2), "2 indices from axis 2 of 3"),
    "index: indices that do not broadcast": (lookup(inputs=[[5, 6, 7], [I64, [2]], [I64, [3]]]), "the operands do not broadcast"),
    "index: gathers along two": (along(inputs=[[5, 6], [I64, [4, 2]], [I64, [4, 2]]]), "x1:int64[4, 2] does not index x0:float32[5, 6]"),
    "index: gathers by fewer axes": (along(inputs=[[5, 6], [I64, [4]]]), "x1:int64[4] does not index x0:float32[5, 6]"),
    "index: gathers more than there is": (along(inputs=[[5, 6], [I64, [6, 2]]]), "x1:int64[6, 2] does not index x0:float32[5, 6]"),
    "index: gathers and wraps": (along(wraps=True), "x1:int64[4, 2] does not index x0:float32[5, 6]"),
}  # fmt: skip


def refused(given: Given, message: str) -> None:
    with pytest.raises(drystone.ArtefactError, match=re.escape(message)):
        read(given)


@pytest.mark.parametrize("what", OF_OPERATORS)
def test_operators(what: str) -> None:
    refused(*OF_OPERATORS[what])
