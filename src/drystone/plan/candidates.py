"""Which programs autotuning times, and in which order: what tells most about what costs most comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drystone.graph.graph import Node
from drystone.plan.formats import PLAIN, formats_of
from drystone.plan.implementations import ATEN, Option
from drystone.plan.implementations.base import Layout

if TYPE_CHECKING:
    from drystone.plan.autotune import Planner

# Operators that take less than this share of the time together are not worth a candidate.
MATTERS = 0.01


class Candidates:
    """Uniform candidates: every node in one format, where it has that. Each tells times that are not known yet.

    Equal nodes take turns through the implementations without a time, so that one candidate may tell all of these; where all times
    in the format are known, a node takes the fastest.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._groups: dict[str, list[Node]] = {}  # equal nodes
        for node in planner.graph:
            self._groups.setdefault(planner.signature(node), []).append(node)
        self._last: tuple[str, dict[Node, Option]] = "", {}  # the format and the options of the last candidate
        self._passed: set[tuple[str, str]] = set()  # formats and keys that hopeless candidates did not come to
        self._uniform_options: dict[tuple[str, str, int], list[Option]] = {}
        formats = dict.fromkeys(f for nodes in self._groups.values() for v in nodes[0].outputs for f in formats_of(v))
        self._formats = sorted(formats, key=lambda format: format == PLAIN)  # plain last: it is the likeliest to be hopeless

    def next(self) -> tuple[dict[Node, Option], int] | None:
        """The candidate that tells times of the most expensive nodes, and how many formats have one; None where none matters."""
        least = {signature: self._least(nodes) for signature, nodes in self._groups.items()}
        told = {
            format: sum(least[signature] for signature, nodes in self._groups.items() if self._open(nodes, format))
            for format in self._formats
        }
        worth = [format for format in self._formats if told[format] > MATTERS * sum(least.values())]
        if not worth:
            return None
        format = max(worth, key=lambda format: told[format])
        self._last = format, self._uniform(format)
        return self._last[1], len(worth)

    def ended_early(self) -> None:
        """The last candidate was hopeless, and did not come to all of its nodes: no other in its format is run for them."""
        format, choice = self._last
        left = [(node, option) for node, option in choice.items() if self._planner.seconds(node, option) is None]
        self._passed |= {(format, self._planner.key(node, option)) for node, option in left}

    def untold(self) -> tuple[int, float]:
        """How many nodes have an implementation without a time, and their share of the time."""
        groups = self._groups.values()
        found = [nodes for nodes in groups if any(self._unknown(nodes, format) for format in self._formats)]
        return sum(map(len, found)), sum(map(self._least, found)) / (sum(map(self._least, groups)) or 1.0)

    def _least(self, nodes: list[Node]) -> float:
        found = self._planner.options[nodes[0]]
        return len(nodes) * min((self._planner.node_cost(nodes[0], option) for option in found), default=0.0)

    def _in(self, nodes: list[Node], format: str) -> list[Option]:
        found = self._planner.options[nodes[0]]
        key = self._planner.signature(nodes[0]), format, len(found)  # options are struck out, never added
        if key not in self._uniform_options:
            layout = uniform_layout([option[1] for option in found], format) if found else None
            self._uniform_options[key] = [option for option in found if option[1] == layout]
        return self._uniform_options[key]

    def _unknown(self, nodes: list[Node], format: str) -> list[Option]:
        return [option for option in self._in(nodes, format) if self._planner.seconds(nodes[0], option) is None]

    def _open(self, nodes: list[Node], format: str) -> list[Option]:
        """Those that a candidate may tell."""
        unknown = self._unknown(nodes, format)
        return [option for option in unknown if (format, self._planner.key(nodes[0], option)) not in self._passed]

    def _fastest(self, node: Node, found: list[Option]) -> Option:
        return min(found, key=lambda option: self._planner.node_cost(node, option), default=(ATEN, ATEN.layouts(node)[0]))

    def _uniform(self, format: str) -> dict[Node, Option]:
        choice: dict[Node, Option] = {}
        for nodes in self._groups.values():
            found = self._open(nodes, format)
            if not found:
                found = [self._fastest(nodes[0], self._in(nodes, format))]
            choice |= {node: found[i % len(found)] for i, node in enumerate(nodes)}
        return choice


def uniform_layout(layouts: list[Layout], format: str) -> Layout:
    """The layout with the most of ``format`` in it; plain where none has any."""

    def score(layout: Layout) -> tuple[int, int]:
        kinds = [*layout.inputs, layout.output, layout.output]
        return sum(kind == format for kind in kinds), sum(kind == PLAIN for kind in kinds)

    return max(layouts, key=score)
