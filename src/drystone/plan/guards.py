"""Where a program looks out for NaN, infinity and numbers so large that sums of them may overflow.

Some steps of oneDNN's give what torch gives for numbers only (``native.post_op_limit``); run exact they take a second pass over
their results. They need not where what they compute from is known to be small. That follows from weights and from the tensors
before (``ranges``) as far as it goes, and beyond from a *guard*: a step that looks at one tensor and has the rest of the call
run exact where it finds more than ``LIMIT``. A ResNet-50 needs one for each twenty or so of its layers, on small tensors.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from drystone import native
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Graph, Node, Value
from drystone.plan.implementations.base import WeightStore
from drystone.plan.ranges import UNKNOWN, Range, epilogue, known, ranges_of, within

# Larger than what is found in a network that works; so small that some twenty layers may follow before another guard must.
LIMIT = 1e8

# Tensors that are tried for a guard, at most; what one that does nothing else costs; how much it can gain.
_TRIALS = 16
_START_SECONDS = 1e-6
_BYTES_A_SECOND = 50e9
_MOST_DECADES = 30.0


@dataclass
class Watch:
    """``guarded``: the values that guards look at. ``exact``: nodes whose weights are such that they always run exact."""

    guarded: list[Value] = field(default_factory=list)
    exact: set[Node] = field(default_factory=set)


def watch(graph: Graph, frail: Iterable[Node], weights: WeightStore, can_guard: Callable[[Value], bool]) -> Watch:
    """What the steps of ``frail`` need so that they are exact. ``can_guard``: whether a guard can look at a value."""
    chosen = set(frail)
    return _Placing(graph, chosen, weights, can_guard).run() if chosen else Watch()


class _Placing:
    def __init__(self, graph: Graph, frail: set[Node], weights: WeightStore, can_guard: Callable[[Value], bool]) -> None:
        self.graph, self.frail, self.weights, self.can_guard = graph, frail, weights, can_guard
        self.nodes = _leading_to(graph, frail)
        self.ranges: dict[int, Range] = {}
        self.result = Watch()

    def run(self) -> Watch:
        for position, node in enumerate(self.nodes):
            if node in self.frail and self._decades(node, self.ranges) < 0:
                self._serve(node, position)
            self.ranges |= {value.id: found for value, found in zip(node.outputs, self._outputs(node, self.ranges), strict=True)}
        return self.result

    def _inputs(self, node: Node, ranges: Mapping[int, Range]) -> Callable[[int], Range]:
        return known(ranges, self.weights.range)(node)

    def _outputs(self, node: Node, ranges: Mapping[int, Range]) -> list[Range]:
        found = ranges_of(node, self._inputs(node, ranges), self.weights.gain)
        return [within(own, LIMIT) if value in self.result.guarded else own for value, own in zip(node.outputs, found, strict=True)]

    def _decades(self, node: Node, ranges: Mapping[int, Range]) -> float:
        """By how many powers of ten what meets an instruction that oneDNN does otherwise than torch is below where that begins;
        negative where it is above."""
        at = self._inputs(node, ranges)
        left = math.inf
        for op, before in zip(node.epilogue, epilogue(node, at, self.weights.gain), strict=False):
            limit = native.post_op_limit(op.kind, op.alpha)
            if limit == 0:
                break  # the second pass, which is exact, begins here
            if limit < math.inf:
                left = min(left, math.log10(limit) - (math.log10(before.bound) if before.bound > 0 else 0.0))
        return left

    def _serve(self, node: Node, position: int) -> None:
        """Guard what it takes for ``node``, or have it run exact."""
        own = [value for value in dict.fromkeys(node.inputs) if not value.is_constant and value.dtype in FLOATS]
        large = [value for value in own if self.ranges.get(value.id, UNKNOWN).bound > LIMIT]
        tame = self.ranges | {value.id: within(self.ranges.get(value.id, UNKNOWN), LIMIT) for value in large}
        if self._decades(node, tame) < 0:
            self.result.exact.add(node)
            return
        one = self._single(node, position, large)
        if one is None and not all(map(self.can_guard, large)):
            self.result.exact.add(node)
            return
        guarded = [one] if one else large
        self.result.guarded += guarded
        self.ranges |= self._with(guarded, self.nodes[:position])

    def _with(self, guarded: list[Value], nodes: list[Node]) -> dict[int, Range]:
        """The ranges that are others with these guards: of the values themselves, and of what ``nodes`` make of them."""
        ids = {value.id for value in guarded}
        changed = {value.id: within(self.ranges.get(value.id, UNKNOWN), LIMIT) for value in guarded}
        ranges = ChainMap(changed, self.ranges)
        for node in nodes:
            if any(value.id in changed for value in node.inputs):
                for value, found in zip(node.outputs, self._outputs(node, ranges), strict=True):
                    if found != self.ranges.get(value.id):
                        changed[value.id] = within(found, LIMIT) if value.id in ids else found
        return changed

    def _single(self, node: Node, position: int, large: list[Value]) -> Value | None:
        """A value whose guard is all that ``node`` needs: the one that gains the most decades for the time it takes to look at."""
        region = {value.id: value for value in large}
        for earlier in reversed(self.nodes[:position]):
            if any(value.id in region for value in earlier.outputs):
                for value in earlier.inputs:
                    if not value.is_constant and self.ranges.get(value.id, UNKNOWN).bound > LIMIT and value.dtype in FLOATS:
                        region[value.id] = value
        place = {value.id: i for i, earlier in enumerate(self.nodes) for value in earlier.outputs}
        found = [value for value in region.values() if self.can_guard(value)]
        found.sort(key=lambda value: (value.bytes, -place.get(value.id, -1)))
        between = [earlier for earlier in self.nodes[:position] if any(value.id in region for value in earlier.outputs)]
        best: tuple[float, Value | None] = (math.inf, None)
        for value in found[:_TRIALS]:
            if best[1] and value.bytes == best[1].bytes:
                continue  # of equal ones the latest, which comes first, leaves the most decades
            seconds = _START_SECONDS + value.bytes / _BYTES_A_SECOND
            if seconds / _MOST_DECADES >= best[0]:
                break
            decades = self._decades(node, ChainMap(self._with([value], between), self.ranges))
            if decades >= 0:
                best = min(best, (seconds / max(decades, 1.0), value), key=lambda pair: pair[0])
        return best[1]


def _leading_to(graph: Graph, ends: set[Node]) -> list[Node]:
    """The nodes that ``ends`` depend on, and these, in running order."""
    wanted: set[int] = set()
    nodes = []
    for node in reversed(graph.nodes):
        if node in ends or any(value.id in wanted for value in node.outputs):
            nodes.append(node)
            wanted.update(value.id for value in node.inputs)
    return nodes[::-1]
