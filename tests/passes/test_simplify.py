"""All passes on random graphs."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_graphs import Small, keeps_numbers

from drystone.graph.ops.operator import MAX_TABLE
from drystone.passes import simplify

_UNARY = ["relu", "sigmoid", "tanh", "neg", "square", "hardsigmoid"]
_BINARY = ["add", "sub", "mul", "maximum"]
_OPERANDS = [(), (1,), (4, 1, 1), (1, 4, 1, 1), (2, 1, 1, 1), (3, 3), (2, 4, 3, 3)]


def _step(draw, s, values):
    """One more value of the same shape, from those that are there."""
    x = draw(st.sampled_from(values[-3:]))
    other = draw(st.sampled_from(values))
    what = draw(st.sampled_from(["unary", "affine", "binary", "constant", "norm", "conv", "padded", "gate", "move", "swish"]))
    if what == "unary":
        return s.unary(draw(st.sampled_from(_UNARY)), x)
    if what == "affine":
        return s.unary("affine", x, draw(st.sampled_from([1.0, -0.5, 2.0])), draw(st.sampled_from([0.0, 0.25])))
    if what == "binary":
        return s.binary(draw(st.sampled_from(_BINARY)), x, other)
    if what == "constant":
        operands = [x, s.constant(*draw(st.sampled_from(_OPERANDS)))]
        return s.binary(draw(st.sampled_from(_BINARY)), *(operands if draw(st.booleans()) else operands[::-1]))
    if what == "norm":
        return s.batch_norm(x)
    if what == "conv":
        kernel = draw(st.sampled_from([1, 3]))
        return s.conv(x, 4, kernel, kernel // 2, draw(st.sampled_from([1, 2, 4])), draw(st.booleans()))
    if what == "padded":
        return s.conv(s.pad(x, (0, 0, 1, 1), (0, 0, 1, 1)), 4, 3)
    if what == "gate":
        return s.binary("mul", x, s.unary("sigmoid", s.conv(s.mean(other, 2, 3), 4)))
    if what == "move":
        return s.permute(s.batch_norm(s.permute(x, 0, 2, 3, 1), axis=3), 0, 3, 1, 2)
    return s.binary("mul", x, s.unary("sigmoid", x))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_graphs_keep_their_numbers(data):
    s = Small((2, 4, 3, 3), (2, 4, 3, 3))
    values = list(s.x)
    for _ in range(data.draw(st.integers(1, 9))):
        # Squashed, or products of products would leave the range in which float32 constants are close.
        values.append(s.unary("tanh", _step(data.draw, s, values)) if data.draw(st.booleans()) else _step(data.draw, s, values))
    outputs = data.draw(st.lists(st.sampled_from(values[2:]), min_size=1, max_size=2, unique_by=lambda value: value.id))
    if values[-1] not in outputs:
        outputs.append(values[-1])
    keeps_numbers(s.returns(*outputs), simplify, tolerance=1e-5)


def test_axes_longer_than_an_artefact_may_have():
    """Bounds of what comes from a file are none of a model's own."""
    s = Small((1, MAX_TABLE))
    s.graph.outputs = [s.unary("tanh", s.pad(s.x[0], (0, 3), (0, 0)))]
    assert [value.shape for value in simplify(s.graph).outputs] == [(1, MAX_TABLE + 3)]
