import pytest
from small_graphs import Small, keeps_numbers, ops

from drystone.graph.ops import Pool
from drystone.passes.fold_padding import fold_padding


def test_asymmetric_padding_adds_up():
    s = Small((2, 4, 6, 6))
    y = s.conv(s.pad(s.x[0], (0, 0, 0, 1), (0, 0, 1, 1)), 8, 3, 1)
    graph = keeps_numbers(s.returns(y), fold_padding)
    assert ops(graph) == ["conv"]
    assert (graph.nodes[0].op.padding_l, graph.nodes[0].op.padding_r) == ((1, 2), (2, 2))


def test_pad_stays_for_another_reader():
    s = Small((2, 4, 6, 6))
    padded = s.pad(s.x[0], (0, 0, 1, 1), (0, 0, 1, 1))
    graph = keeps_numbers(s.returns(s.conv(padded, 8, 3), s.unary("relu", padded)), fold_padding)
    assert ops(graph) == ["pad", "conv", "pointwise"]
    assert graph.nodes[1].inputs[0] is s.x[0]


@pytest.mark.parametrize(
    "pad",
    [
        {"value": 1.0},
        {"mode": "reflect"},
        {"mode": "replicate"},
        {"before": (0, 1, 1, 1)},
        {"before": (0, 0, -1, 1)},
        {"before": (0, 0, 3, 0)},  # more than the window
    ],
)
def test_other_padding_stays(pad):
    s = Small((2, 4, 6, 6))
    padded = s.pad(s.x[0], **{"before": (0, 0, 1, 1), "after": (0, 0, 1, 1)} | pad)
    graph = keeps_numbers(s.returns(s.conv(padded, 8, 3)), fold_padding)
    assert ops(graph) == ["pad", "conv"]


def test_before_a_pool_it_stays():
    s = Small((1, 2, 4))
    padded = s.pad(s.x[0], (0, 0, 1), (0, 0, 1))
    windows = (tuple((i, i + 2, 1) for i in range(5)),)
    pooled = s.add(Pool("max", windows), [padded])
    assert ops(keeps_numbers(s.returns(pooled), fold_padding)) == ["pad", "pool"]
