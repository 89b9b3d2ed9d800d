import pytest
import torch
from small_graphs import Small, keeps_numbers, ops

from drystone.graph.ops import Cat, Convert, Expand, Pool, Slice
from drystone.passes.remove_noops import remove_noops

X = (2, 4, 6, 6)


def _pool(s, kind="max", windows=None, divisors=None, override=None):
    each = tuple((i, i + 1, 1) for i in range(6))
    ones = ((1,) * 6,) * 2 if kind == "avg" else None
    return s.add(Pool(kind, windows or (each, each), divisors or ones, override), [s.x[0]])


NOOPS = {
    "reshape": lambda s: s.reshape(s.x[0], *X),
    "permute": lambda s: s.permute(s.x[0], 0, 1, 2, 3),
    "expand": lambda s: s.add(Expand(X), [s.x[0]]),
    "slice": lambda s: s.add(Slice(1, 0, 4), [s.x[0]]),
    "pad": lambda s: s.pad(s.x[0], (0,) * 4, (0,) * 4),
    "convert": lambda s: s.add(Convert(), [s.x[0]]),
    "cat": lambda s: s.add(Cat(1), [s.x[0]]),
    "max pool": _pool,
    "avg pool": lambda s: _pool(s, "avg"),
    "affine": lambda s: s.unary("affine", s.x[0], 1.0),
    "reshapes": lambda s: s.reshape(s.reshape(s.x[0], 2, 4, 36), *X),
    "permutes": lambda s: s.permute(s.permute(s.x[0], 0, 2, 3, 1), 0, 3, 1, 2),
}


@pytest.mark.parametrize("name", NOOPS)
def test_gone(name):
    s = Small(X)
    graph = keeps_numbers(s.returns(s.unary("relu", NOOPS[name](s))), remove_noops)
    assert ops(graph) == ["pointwise"]


OTHERS = {
    "permute": lambda s: s.permute(s.x[0], 0, 1, 3, 2),
    "pad": lambda s: s.pad(s.x[0], (0, 0, 1, 0), (0, 0, -1, 0)),
    "max pool": lambda s: _pool(
        s, windows=(tuple((max(i - 1, 0), i + 1, 1) for i in range(6)), tuple((i, i + 1, 1) for i in range(6)))
    ),
    "avg pool": lambda s: _pool(s, "avg", divisors=((2,) * 6, (1,) * 6)),
    "avg pool with divisor": lambda s: _pool(s, "avg", override=3),
    "affine": lambda s: s.unary("affine", s.x[0], 1.0, 0.5),
    "relu": lambda s: s.unary("relu", s.x[0]),
    "cat": lambda s: s.add(Cat(0), [s.x[0], s.x[0]]),
    "slice": lambda s: s.add(Slice(1, 0, 2, 2), [s.x[0]]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_something_stays(name):
    s = Small(X)
    graph = keeps_numbers(s.returns(s.unary("tanh", OTHERS[name](s))), remove_noops)
    assert len(graph.nodes) == 2


def test_conversion_to_another_dtype_stays():
    s = Small(X)
    y = s.add(Convert(), [s.x[0]], torch.bfloat16)
    assert len(remove_noops(s.returns(s.unary("relu", y))).nodes) == 2


def test_several_in_a_row():
    s = Small(X)
    y = s.reshape(s.reshape(s.reshape(s.x[0], 2, 144), 12, 24), 8, 36)
    y = s.permute(s.permute(s.reshape(y, 2, 4, 36), 2, 0, 1), 1, 0, 2)
    graph = keeps_numbers(s.returns(s.unary("relu", y)), remove_noops)
    assert ops(graph) == ["reshape", "permute", "pointwise"]
    assert graph.nodes[1].op.dims == (1, 0, 2) or graph.nodes[1].op.dims == (0, 2, 1)


def test_axes_of_length_one_may_move():
    s = Small((2, 1, 1, 5))
    graph = keeps_numbers(s.returns(s.unary("relu", s.permute(s.x[0], 0, 2, 1, 3))), remove_noops)
    assert ops(graph) == ["pointwise"]


def test_first_of_two_that_something_else_reads_stays():
    s = Small(X)
    first = s.reshape(s.x[0], 2, 144)
    graph = keeps_numbers(s.returns(s.unary("relu", s.reshape(first, 4, 72)), s.unary("tanh", first)), remove_noops)
    assert sorted(ops(graph)) == ["pointwise", "pointwise", "reshape", "reshape"]


def test_every_output_keeps_a_tensor_of_its_own():
    s = Small(X)
    y = s.unary("relu", s.x[0])
    graph = keeps_numbers(s.returns(s.reshape(s.x[0], *X), y, s.reshape(y, *X)), remove_noops)
    assert len({value.id for value in graph.outputs}) == 3
    assert not set(graph.outputs) & set(graph.inputs)
