"""The operators' own rules: what each needs to be one, and that the page on them has them all."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from drystone.graph.graph import Graph, Value, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import OPERATORS, Cat, Operator, OperatorError, Pointwise, Pool, Slice
from drystone.graph.ops.operator import bounded


@pytest.mark.parametrize("kind", OPERATORS.values(), ids=OPERATORS)
def test_fields_are_frozen(kind: type[Operator]) -> None:
    assert kind.__doc__ and dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_node_whose_result_is_another_does_not_pass() -> None:
    x = Value((2, 3), torch.float32, "x")
    node = make_node(Cat(0), [x, x], name="twice")
    graph = Graph([x], [node.output], [node])
    graph.check()
    node.output.shape = (2, 6)
    with pytest.raises(OperatorError, match=r"twice: .* is not the result of this cat"):
        graph.check()
    node.output.shape, node.output.dtype = (4, 3), torch.bfloat16
    with pytest.raises(OperatorError, match="twice: it changes its dtype"):
        graph.check()


def test_operands_that_do_not_fit_make_no_node() -> None:
    x = Value((2, 3), torch.float32, "x")
    with pytest.raises(OperatorError, match="entry 4 of 3"):
        make_node(Slice(1, 2, 3), [x])
    with pytest.raises(OperatorError, match="reads operand 1 of 1"):
        make_node(Pointwise((PointwiseOp("add", (("in", 0), ("in", 1))),)), [x])


def test_bounds() -> None:
    hints = Pool.hints()
    bounded((((0, 2, 1),),), hints["windows"], "windows")
    bounded(None, hints["divisors"], "divisors")
    for value, problem in (
        ([[(0, 2, 1)]], "is no tuple"),
        ((((0, 2),),), "must have 3 entries, and has 2"),
        ((((0, 2, True),),), "is no int"),
        ((((0, 2, -1),),), "no integer from 0"),
    ):
        with pytest.raises(OperatorError, match=problem):
            bounded(value, hints["windows"], "windows")
    with pytest.raises(OperatorError, match="is none of max, avg"):
        bounded("min", hints["kind"], "kind")
