import pytest
import torch
from small_graphs import Small, keeps_numbers, ops

from drystone.graph.ops import Expand
from drystone.passes.absorb_into_attention import absorb_into_attention

B, T, S, H, D = 2, 5, 7, 6, 4


def test_permutes():
    s = Small((B, T, H, D), (B, S, H, D), (B, H, S, D))
    q, k = (s.permute(x, 0, 2, 1, 3) for x in s.x[:2])
    y = s.permute(s.attention(q, k, s.x[2]), 0, 2, 1, 3)
    graph = keeps_numbers(s.returns(y), absorb_into_attention)
    assert ops(graph) == ["attention"]
    assert graph.nodes[0].op.heads_first == (False, False, True, False)


def test_a_batch_of_one_behind_the_positions():
    for batch, expected in ((1, ["attention", "reshape"]), (2, ["attention", "permute"])):
        s = Small(*[(batch, H, T, D)] * 3)
        graph = keeps_numbers(s.returns(s.permute(s.attention(*s.x), 2, 0, 1, 3)), absorb_into_attention)
        assert ops(graph) == expected


def test_a_result_that_is_read_twice_keeps_its_permute():
    s = Small((B, H, T, D), (B, H, S, D), (B, H, S, D))
    y = s.attention(*s.x)
    graph = keeps_numbers(s.returns(s.permute(y, 0, 2, 1, 3), y), absorb_into_attention)
    assert ops(graph) == ["attention", "permute"]


def test_other_permutes_stay():
    s = Small((B, D, H, T), (B, H, S, D), (B, H, S, D))
    y = s.attention(s.permute(s.x[0], 0, 2, 3, 1), *s.x[1:])
    graph = keeps_numbers(s.returns(s.permute(y, 0, 1, 3, 2)), absorb_into_attention)
    assert ops(graph) == ["permute", "attention", "permute"]


def repeated(s, x, times, heads_first=True):
    b, h, t, d = x.shape
    if heads_first:
        return s.reshape(s.add(Expand((b, h, times, t, d)), [s.reshape(x, b, h, 1, t, d)]), b, h * times, t, d)
    return s.reshape(s.add(Expand((b, h, t, times, d)), [s.reshape(x, b, h, t, 1, d)]), b, h, t * times, d)


@pytest.mark.parametrize("permuted", [False, True])
def test_repeated_heads(permuted):
    s = Small((B, H, T, D), *[(B, S, 2, D) if permuted else (B, 2, S, D)] * 2)
    k, v = (s.permute(x, 0, 2, 1, 3) if permuted else x for x in s.x[1:])
    y = s.attention(s.x[0], repeated(s, k, 3), repeated(s, v, 3))
    graph = keeps_numbers(s.returns(y), absorb_into_attention)
    assert ops(graph) == ["attention"]
    assert graph.nodes[0].op.heads_first == (True, not permuted, not permuted, True)


def test_repeats_of_one_operand_or_of_the_whole_stay():
    s = Small((B, H, T, D), (B, 2, S, D), (B, H, S, D))
    graph = keeps_numbers(s.returns(s.attention(s.x[0], repeated(s, s.x[1], 3), s.x[2])), absorb_into_attention)
    assert ops(graph) == ["reshape", "expand", "reshape", "attention"]
    # Heads 0 1 0 1 0 1 are not heads 0 0 0 1 1 1.
    s = Small((B, H, T, D), (B, 2, S, D), (B, 2, S, D))
    k, v = (s.reshape(s.add(Expand((B, 3, 2, S, D)), [s.reshape(x, B, 1, 2, S, D)]), B, H, S, D) for x in s.x[1:])
    graph = keeps_numbers(s.returns(s.attention(s.x[0], k, v)), absorb_into_attention)
    assert ops(graph).count("expand") == 2


def test_expanded_masks():
    s = Small((B, H, T, D), (B, H, S, D), (B, H, S, D), (B, 1, T, S))
    mask = s.add(Expand((B, H, T, S)), [s.x[3]])
    graph = keeps_numbers(s.returns(s.attention(*s.x[:3], mask)), absorb_into_attention)
    assert ops(graph) == ["attention"]
    assert graph.nodes[0].inputs[3].shape == (B, 1, T, S)
    assert torch.float32 == graph.nodes[0].inputs[3].dtype
