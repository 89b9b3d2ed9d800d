import pytest
import torch
from small_graphs import Small, keeps_numbers, ops

from drystone.generation.pages import Layer, Pages, Rows, Sequence
from drystone.graph.cache_pages import PAGE
from drystone.graph.graph import Value
from drystone.graph.interpreter import run
from drystone.graph.ops import CachedAttention
from drystone.passes.merge_linears import merge_linears

B, T, H, D = 2, 5, 6, 4
NEITHER = (False,) * 4


def operand(s, x, heads, bias=True, size=D):
    return s.reshape(s.linear(x, heads * size, bias), *x.shape[:2], heads, size)


@pytest.mark.parametrize("biases", [(True, True, True), (False, False, False), (True, False, True)])
@pytest.mark.parametrize("key_heads", [H, 2])
def test_three_of_one_tensor(key_heads, biases):
    s = Small((B, T, 12))
    parts = [operand(s, s.x[0], heads, bias) for heads, bias in zip((H, key_heads, key_heads), biases, strict=True)]
    graph = keeps_numbers(s.returns(s.attention(*parts, heads_first=NEITHER)), merge_linears)
    assert ops(graph) == ["linear", "reshape", "slice", "slice", "slice", "attention"]
    weight = graph.nodes[0].inputs[1]
    assert weight.shape == ((H + 2 * key_heads) * D, 12) and not isinstance(weight.data, torch.Tensor)
    assert graph.nodes[0].op.has_bias == any(biases)


def test_keys_and_values_of_another_tensor():
    s = Small((B, T, 12), (B, 9, 10))
    parts = [operand(s, s.x[0], H), *(operand(s, s.x[1], H) for _ in range(2))]
    graph = keeps_numbers(s.returns(s.attention(*parts, heads_first=NEITHER)), merge_linears)
    assert ops(graph).count("linear") == 2 and ops(graph).count("slice") == 2


def test_equal_weights_have_equal_identities():
    weights = []
    for _ in range(2):
        s = Small((B, T, 12))
        parts = [operand(s, s.x[0], H) for _ in range(3)]
        for index, part in enumerate(parts):
            part.producer.inputs[0].producer.inputs[1].identity = ("of the model", index)
        merge_linears(s.returns(s.attention(*parts, heads_first=NEITHER)))
        weights.append(s.graph.nodes[0].inputs[1])
    assert weights[0].key == weights[1].key


def test_others_stay():
    s = Small((B, T, 12), (B, T, H, D), (B, T, H, D))
    k, v = operand(s, s.x[0], H), operand(s, s.x[0], H)
    graph = keeps_numbers(s.returns(s.attention(s.x[1], k, v, heads_first=NEITHER), k), merge_linears)  # k is read elsewhere
    assert "slice" not in ops(graph)
    s = Small((B, T, 12), (B, T, H, D))
    parts = [operand(s, s.x[0], H), operand(s, s.x[0], H, size=8)]
    graph = keeps_numbers(s.returns(s.attention(s.x[1], *parts, heads_first=NEITHER)), merge_linears)  # of other sizes
    assert "slice" not in ops(graph)


def test_before_attention_over_a_cache():
    s = Small((B, T, 12))
    pages, lengths = Value((1, B, 1), torch.int64, "pages"), Value((B,), torch.int64, "lengths")
    s.graph.inputs += [pages, lengths]
    parts = [s.permute(operand(s, s.x[0], heads), 0, 2, 1, 3) for heads in (H, 2, 2)]
    op = CachedAttention(0, 0.5, 0, 0.0, writes=True, rotary=False, has_sinks=False, has_bias=False, by_distance=False, causal=True)
    graph = s.returns(s.add(op, [*parts, pages, lengths]))
    rows = Rows([Sequence(Pages([Layer(2, D, D)], PAGE)) for _ in range(B)])
    rows.reserve(T)
    inputs = [torch.randn(B, T, 12), *rows.tables()]
    wanted = run(graph, inputs, torch.float64)
    merged = merge_linears(graph)
    merged.check()
    assert ops(merged) == ["linear", "reshape", *["slice"] * 3, *["permute"] * 3, "cached_attention"]
    torch.testing.assert_close(run(merged, inputs, torch.float64), wanted)
