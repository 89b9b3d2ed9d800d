"""The operators' own rules: what each needs to be one, and that the page on them has them all."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from drystone.graph.graph import Graph, Value, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import OPERATORS, Cat, Operator, OperatorError, Pointwise, Pool, Slice
from drystone.graph.ops.operator import bounded

PAGE = (Path(__file__).parents[2] / "docs" / "internals.md").read_text()


@pytest.mark.parametrize("kind", OPERATORS.values(), ids=OPERATORS)
def test_fields_are_frozen_and_on_the_page(kind: type[Operator]) -> None:
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    row = next((line for line in PAGE.splitlines() if line.startswith(f"| `{kind.name}` |")), "")
    same_as = re.search(r"\| as `(\w+)`", row)
    known = row + (next(line for line in PAGE.splitlines() if line.startswith(f"| `{same_as[1]}` |")) if same_as else "")
    for field in kind.hints():
        assert f"`{field}`" in known, f"docs/internals.md says nothing of {kind.name}'s {field}"


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
