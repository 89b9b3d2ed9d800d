"""A graph that was built with the numbers of a tape for sizes, and what it is for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

from drystone.graph.graph import Graph, Value
from drystone.graph.tape import Computed, Number, Tape, mapped, tape_of

# Larger constants are taken for equal where graphs are compared.
COMPARED_BYTES = 1 << 20


class Template:
    """``graph`` for any sizes for which the tape holds."""

    def __init__(self, graph: Graph, tape: Tape) -> None:
        tape.close()
        self.graph, self.tape = graph, tape
        self._fixed = {id(node) for node in graph if tape_of((node.op, node.epilogue)) is None}

    def at(self, sizes: Sequence[int]) -> tuple[Graph, Callable[[Any], Any]] | None:
        """The graph, and a function that gives anything else with its numbers for these sizes; None where another is to be built.

        Constants that do not depend on the sizes are the template's own.
        """
        numbers = self.tape.replay(sizes)
        if numbers is None:
            return None

        def number(leaf: Any) -> Any:
            return numbers[leaf.place] if isinstance(leaf, (Number, Computed)) else leaf

        values: dict[int, Value] = {}

        def value(old: Value) -> Value:
            found = values.get(old.id)
            if found is None:
                if old.is_constant and not old.is_computed:
                    found = old
                else:
                    shape = tuple([numbers[size.place] if type(size) is Number else size for size in old.shape])
                    found = Value(shape, old.dtype, old.name, number(old.data), identity=old.identity)
                    found.quantisation, found.codes = old.quantisation, old.codes
                values[old.id] = found
            return found

        made = Graph([value(old) for old in self.graph.inputs], written=dict(self.graph.written))
        for node in self.graph:
            op, epilogue = node.op, node.epilogue
            if id(node) not in self._fixed:
                op, epilogue = mapped(number, op), mapped(number, epilogue)
            inputs, outputs = [value(old) for old in node.inputs], [value(old) for old in node.outputs]
            made.nodes.append(replace(node, op=op, inputs=inputs, outputs=outputs, epilogue=epilogue))
            for output in outputs:
                output.producer = made.nodes[-1]
        made.outputs = [value(old) for old in self.graph.outputs]
        return made, partial(mapped, number)


def difference(one: Graph, other: Graph) -> str:
    """The first thing in which two graphs differ, in words; empty where they compute the same in the same way."""
    partner: dict[int, int] = {}

    def alike(mine: Value, theirs: Value) -> bool:
        if mine.id not in partner:
            partner[mine.id] = theirs.id
            said, other = ((v.shape, v.dtype, v.quantisation, v.is_constant) for v in (mine, theirs))
            if said != other:
                return False
            return not mine.is_constant or _same_numbers(mine, theirs)
        return partner[mine.id] == theirs.id

    def all_alike(mine: list[Value], theirs: list[Value]) -> bool:
        return len(mine) == len(theirs) and all(map(alike, mine, theirs))

    if not all_alike(one.inputs, other.inputs):
        return f"inputs {one.inputs} and {other.inputs}"
    for node, twin in zip_longest(one, other):
        if node is None or twin is None:
            return f"{node} and {twin}"
        said, of_twin = ((n.op, n.epilogue, n.module, n.float32, n.stored, n.accurate) for n in (node, twin))
        if said != of_twin or not all_alike(node.inputs, twin.inputs) or not all_alike(node.outputs, twin.outputs):
            return f"{node} and {twin}"
    if one.written != other.written or not all_alike(one.outputs, other.outputs):
        return f"outputs {one.outputs} and {other.outputs}"
    return ""


def _same_numbers(mine: Value, theirs: Value) -> bool:
    if mine is theirs or (mine.identity is not None and mine.identity == theirs.identity):
        return True
    if mine.bytes > COMPARED_BYTES:
        return True
    here, there = mine.constant, theirs.constant
    return bool(((here == there) | ((here != here) & (there != there))).all())
