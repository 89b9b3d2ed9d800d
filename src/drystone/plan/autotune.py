"""Times are measured in place: the whole program runs with candidate assignments, so that each kernel meets the caches as
the model leaves them and its weights cold.

A *uniform candidate* is an assignment in which every node uses the same format where it can. A few of them, one a format and
implementation, time every option; equal nodes share what is measured of any of them. From the times the assignment of
least total cost follows (``choose.py``); it is autotuned too, which measures the reorders it really has, and chosen again
until nothing changes.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch

from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import ConvTranspose, Linear, Permute, WeightProduct
from drystone.plan.assemble import Assembled, Ends, assemble, uniform_layout
from drystone.plan.choose import choose
from drystone.plan.contention import contention
from drystone.plan.formats import PLAIN, formats_of, same_memory
from drystone.plan.implementations import ATEN, Option, options
from drystone.plan.implementations.base import Implementation, Layout, PlaceholderWeights, WeightStore
from drystone.plan.implementations.movement import Movement
from drystone.plan.tuning_cache import TuningCache

# For what was never measured: bytes moved at this rate, plus the start of a step.
BYTES_A_SECOND = 10e9
START_SECONDS = 2e-6
FLOPS_A_SECOND = 100e9

# Rounds of choosing, at most.
CHOICES = 3

# Kept in the place of a time for what can't be made, so that it is not tried again each time the model is prepared.
IMPOSSIBLE = 3600.0

# What a change of format must gain, in times of what the reorder costs: measured times carry some percent of noise, and least
# sums over many of them collect what was measured too short.
REORDER_MUST_GAIN = 2.0

# A choice that takes less than this share of the best uniform candidate's time is not compared with it again.
CLEARLY = 0.95

# Other work that takes more of the cores' time than this spoils what is measured meanwhile.
CONTENDED = 0.1
# So often what was measured beside other work, or did not come out alike twice, is measured again.
SECOND_LOOKS = 2
# A program whose steps take this many times as long the second time has not been measured yet.
UNSTEADY = 1.25
# A time that is this many times as far from its estimate as its implementation's others is measured again, where the
# implementation has so many, and it is no matter of microseconds.
OUTLYING = 4.0
FEWEST_OTHERS = 3
OUTLYING_SECONDS = 20e-6

# Runs a program a few times; gives the seconds of its records, one list a run.
Measure = Callable[[Assembled], list[list[float]]]


def signature(node: Node) -> str:
    """What decides a node's time: operator, shapes, dtypes, epilogue. Equal nodes have equal signatures."""
    values = [(v.shape, str(v.dtype), v.is_constant) for v in [*node.inputs, *node.outputs]]
    epilogue = [(op.kind, op.args, op.alpha, op.beta) for op in node.epilogue]
    text = repr((node.op, values, epilogue))
    return f"{node.op} {hashlib.sha256(text.encode()).hexdigest()[:24]}"


class Planner:
    """Chooses an option for each node of ``graph``."""

    def __init__(
        self,
        graph: Graph,
        weights: WeightStore,
        cache: TuningCache,
        held_format: str | None = None,
        kin: Planner | None = None,
        ends: Ends | None = None,
    ) -> None:
        """``kin``: the planner of the same model for other shapes or threads, whose times stand in for what is unknown."""
        self.graph, self.weights, self.cache, self.ends = graph, weights, cache, ends or Ends()
        self.held_format = held_format
        same = kin is not None and [type(node.op) for node in kin.graph] == [type(node.op) for node in graph]
        self.kin = kin if same else None
        self.kin_node = dict(zip(graph, kin.graph, strict=True)) if kin is not None and same else {}
        self.spare: dict[str, list[Option]] = {}  # by signature: what a held format bars, the nearest to it first
        self.measured_bandwidth: list[float] = [] if kin is None else list(kin.measured_bandwidth)
        self._measured: set[str] = set()  # keys that this planner has timed
        # The share of the cores' time that other work took from the worst of what it spoilt; 0 where it spoilt nothing.
        self.contended = 0.0
        self.choice: dict[Node, Option] = {}  # of the program last assembled

    @cached_property
    def signatures(self) -> dict[Node, str]:
        return {node: signature(node) for node in self.graph}

    @cached_property
    def options(self) -> dict[Node, list[Option]]:
        """Equal nodes share one list: what turns out impossible for one is so for all."""
        return self._found[0]

    @cached_property
    def reasons(self) -> dict[Node, str]:
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[dict[Node, list[Option]], dict[Node, str]]:
        """Options and reasons. Found when they are first asked for: a choice that is kept for other sizes needs none."""
        lists: dict[Node, list[Option]] = {}
        reasons: dict[Node, str] = {}
        by_signature: dict[str, list[Option]] = {}
        for node in self.graph:
            found, reasons[node] = options(node)
            possible = [option for option in found if self.cache.get(self.key(node, option)) != IMPOSSIBLE]
            found = possible or found  # none: they are tried again, for the reason to tell
            # A permute may be free, and its output's format has another meaning.
            if self.held_format and not isinstance(node.op, Permute):
                found, self.spare[self.signatures[node]] = _held(found, self.held_format)
            lists[node] = by_signature.setdefault(self.signatures[node], found)
        return lists, reasons

    # -- options ---------------------------------------------------------------------------------------------------------

    def _decline(self, node: Node, option: Option, reason: str) -> Option:
        """``option`` can't be made for ``node``: strike it out, give the next."""
        left = self.options[node]
        if option in left:
            left.remove(option)
        self.cache.put(self.key(node, option), IMPOSSIBLE)
        spare = self.spare.get(self.signatures[node])
        if not left and spare:
            left.append(spare.pop(0))
        self.reasons[node] = reason
        same_layout = [o for o in left if o[1] == option[1]]
        return (same_layout or left or [(ATEN, ATEN.layouts(node)[0])])[0]

    def assemble(self, choice: dict[Node, Option], weights: WeightStore | None = None) -> Assembled:
        assembled = assemble(self.graph, choice, weights or self.weights, self._decline, self.ends)
        self.choice = assembled.choice
        for record in assembled.records:
            if record.kind == "aten" and record.node is not None:
                record.reason = self.reasons[record.node]
        return assembled

    def key(self, node: Node, option: Option) -> str:
        return f"{self.signatures[node]}|{option[0].name}|{option[1]}"

    @staticmethod
    def reorder_key(value: Value, source: str, target: str) -> str:
        return f"reorder {value.dtype} {value.shape}|{source}|{target}"

    # -- candidates -----------------------------------------------------------------------------------------------------------

    def uniform_candidates(self) -> Iterator[dict[Node, Option]]:
        """Assignments that between them use every option that has no time yet."""
        formats = list(dict.fromkeys(f for node in self.graph for v in node.outputs for f in formats_of(v)))
        formats.sort(key=lambda f: f == PLAIN)  # plain last: it is the likeliest to be already known or hopeless
        for format in formats:
            turn = 0
            while True:
                choice: dict[Node, Option] = {}
                new = more = False
                for node in self.graph:
                    found = self.options[node]
                    if not found:
                        choice[node] = (ATEN, ATEN.layouts(node)[0])
                        continue
                    layout = uniform_layout([o[1] for o in found], format)
                    same = [o for o in found if o[1] == layout]
                    choice[node] = same[min(turn, len(same) - 1)]
                    more |= len(same) > turn + 1
                    new |= self.cache.get(self.key(node, choice[node])) is None
                if new:
                    yield choice
                if not more:
                    break
                turn += 1

    def record(self, assembled: Assembled, runs: list[list[float]]) -> float:
        """Keep the times of a autotuned program; gives the seconds of the whole.

        The least of a step's runs is its time: whatever else the machine does can only add to it.
        """
        steps = [min(times) for times in zip(*runs, strict=True)]
        spent: dict[Node, float] = dict.fromkeys(self.graph, 0.0)
        for record, seconds in zip(assembled.records, steps, strict=True):
            if record.node is not None:
                spent[record.node] += seconds
            elif record.kind == "reorder":
                source, target = record.layout.split("→")
                self._keep(self.reorder_key(record.value, source, target), seconds)
                if record.value.bytes > 1 << 16 and seconds > 0:
                    self.measured_bandwidth.append(2 * record.value.bytes / seconds)
        shared: dict[str, list[float]] = {}
        for node, seconds in spent.items():
            shared.setdefault(self.key(node, assembled.choice[node]), []).append(seconds)
        for key, times in shared.items():
            self._keep(key, statistics.median(times))
        return sum(steps)

    def _keep(self, key: str, seconds: float) -> None:
        """The least of what one autotuning run measured; a later run, under other conditions, begins anew."""
        known = self.cache.get(key)
        if key in self._measured and known is not None:
            seconds = min(seconds, known)
        self._measured.add(key)
        self.cache.put(key, seconds)

    # -- choosing --------------------------------------------------------------------------------------------------------

    def _estimate(self, node: Node, option: Option) -> float:
        """The cost model, for an option that no autotuning run has timed."""
        if isinstance(option[0], Movement) and option[0].is_view(node, option[1]):
            return 0.0
        moved = sum(v.bytes for v in [*node.inputs, *node.outputs])
        seconds = START_SECONDS + moved / BYTES_A_SECOND
        if isinstance(node.op, WeightProduct):
            x, weight = node.inputs[:2]
            # Each weight meets every output of its channel; of a transposed convolution, every input.
            met = (
                x.numel / max(x.shape[1], 1) if isinstance(node.op, ConvTranspose) else node.output.numel / max(weight.shape[0], 1)
            )
            slower = 2.0 if option[1].output == PLAIN and not isinstance(node.op, Linear) else 1.0
            seconds += 2.0 * met * weight.numel / FLOPS_A_SECOND * slower
        return seconds

    def node_cost(self, node: Node, option: Option) -> float:
        for known in (self.cache.get(self.key(node, option)), self._kin_cost(node, option)):
            if known is not None:
                return known
        return self._estimate(node, option)

    def _kin_cost(self, node: Node, option: Option) -> float | None:
        """What the kin of ``node`` took, in proportion to the results."""
        if self.kin is None:
            return None
        kin_node = self.kin_node[node]
        known = self.kin.cache.get(self.kin.key(kin_node, option))
        return None if known is None else known * node.output.numel / max(kin_node.output.numel, 1)

    def _reorder_cost(self, value: Value, source: str, target: str) -> float:
        if same_memory(value, source, target):
            return 0.0
        known = self.cache.get(self.reorder_key(value, source, target))
        if known is not None:
            return known
        rate = statistics.median(self.measured_bandwidth) if self.measured_bandwidth else BYTES_A_SECOND
        return START_SECONDS + 2 * value.bytes / rate

    def known_seconds(self, assembled: Assembled) -> list[float]:
        """What is known, or estimated, of the records of a program; a node's time is shared by its records."""
        seconds = []
        records = Counter(record.node for record in assembled.records)
        of_node = {
            node: self.node_cost(node, assembled.choice[node]) / count for node, count in records.items() if node is not None
        }
        for record in assembled.records:
            if record.node is not None:
                seconds.append(of_node[record.node])
            else:
                source, _, target = record.layout.partition("→")
                seconds.append(self._reorder_cost(record.value, source, target or source))
        return seconds

    def _reorder_price(self, value: Value, source: str, target: str) -> float:
        return REORDER_MUST_GAIN * self._reorder_cost(value, source, target)

    def kept(self) -> dict[Node, Option] | None:
        """What was chosen for the kin's nodes, for the same nodes of other sizes.

        None where that does not serve: for other threads, where an implementation refuses the sizes, and where these were measured.
        """
        if self.kin is None or not self.kin.choice or self.cache.environment != self.kin.cache.environment:
            return None
        choice = {node: self.kin.choice[kin_node] for node, kin_node in self.kin_node.items()}
        if not all(_takes(node, *option) for node, option in choice.items()):
            return None
        measured = all(self.cache.get(self.key(node, option)) is not None for node, option in choice.items())
        return None if measured else choice

    def best(self) -> dict[Node, Option]:
        """The assignment of least total cost by the times known so far."""
        nodes = self.graph.nodes
        position = {node: i for i, node in enumerate(nodes)}
        lists = [self.options[node] or [(ATEN, ATEN.layouts(node)[0])] for node in nodes]
        costs = [np.array([self.node_cost(node, o) for o in found]) for node, found in zip(nodes, lists, strict=True)]
        edges: dict[tuple[int, int], np.ndarray] = {}
        given = {value.id: self.ends.of_input(i) for i, value in enumerate(self.graph.inputs)}
        for node, found in zip(nodes, lists, strict=True):
            j = position[node]
            for k, value in enumerate(node.inputs):
                if value.is_constant:
                    continue
                wanted = [o[1].inputs[k] or PLAIN for o in found]
                if value.producer is None:
                    lies = given[value.id]
                    costs[j] = costs[j] + np.array([self._reorder_price(value, lies, format) for format in wanted])
                    continue
                i = position[value.producer]
                matrix = np.array([[self._reorder_price(value, p[1].output, format) for format in wanted] for p in lists[i]])
                edges[i, j] = edges[i, j] + matrix if (i, j) in edges else matrix
        for index, value in enumerate(self.graph.outputs):
            if value.producer is not None:
                i, left = position[value.producer], self.ends.of_output(index)
                costs[i] = costs[i] + np.array([self._reorder_price(value, o[1].output, left) for o in lists[i]])
        picked = choose(costs, edges)
        return {node: found[option] for node, found, option in zip(nodes, lists, picked.options, strict=True)}

    def _outliers(self) -> dict[Node, Option]:
        """Options, at most one a node, whose times are out of proportion: something else may have run meanwhile."""
        ratios: dict[str, dict[str, float]] = defaultdict(dict)
        holders: dict[str, tuple[Node, Option]] = {}
        for node in self.graph:
            for option in self.options[node]:
                key, estimate = self.key(node, option), self._estimate(node, option)
                seconds = self.cache.get(key)
                if key in self._measured and seconds is not None and estimate > 0:
                    ratios[option[0].name][key] = seconds / estimate
                    holders[key] = (node, option)
        found: dict[Node, Option] = {}
        for of_one in ratios.values():
            for key, ratio in of_one.items():
                others = [other for other_key, other in of_one.items() if other_key != key]
                node, option = holders[key]
                far = len(others) >= FEWEST_OTHERS and ratio > OUTLYING * statistics.median(others)
                if far and (self.cache.get(key) or 0.0) > OUTLYING_SECONDS:
                    found.setdefault(node, option)
        return found

    def _measured_well(self, assembled: Assembled, measure: Measure) -> list[list[float]]:
        """Runs of a program; more of them where other work was in the way, or the steps' times do not repeat."""
        runs: list[list[float]] = []
        for _ in range(1 + SECOND_LOOKS):
            with contention(torch.get_num_threads()) as found:
                runs += measure(assembled)
            if found.share <= CONTENDED and _steady(runs):
                return runs
        if found.share > CONTENDED:
            self.contended = max(self.contended, found.share)
        return runs

    def autotune(self, measure: Measure, progress: Callable[[str], None] = lambda text: None) -> Assembled:
        """Measure what is unknown, choose, measure the choice, and give the fastest program that was seen.

        One program lives at a time: all that are timed read the same memory for weights, and only the last one's are packed.
        """
        placeholders = PlaceholderWeights(self.weights)

        def timed(choice: dict[Node, Option]) -> tuple[float, dict[Node, Option]]:
            placeholders.reset()
            assembled = self.assemble(choice, placeholders)
            return self.record(assembled, self._measured_well(assembled, measure)), assembled.choice

        candidates: list[tuple[float, dict[Node, Option]]] = []
        for choice in self.uniform_candidates():
            progress(f"autotuning, round {len(candidates) + 1}")
            candidates.append(timed(choice))
        if candidates and (outliers := self._outliers()):
            progress("measuring outliers again")
            timed(self.best() | outliers)
        progress("choosing")
        chosen = self.best()
        if not candidates and not self._unmeasured(chosen):
            return self.assemble(chosen)
        for _ in range(CHOICES):  # each measures the reorders that the last choice brought in
            seconds, chosen = timed(chosen)
            again = self.best()
            if again == chosen:
                break
            chosen = again
        if candidates:
            best_uniform, rival = min(candidates, key=lambda candidate: candidate[0])
            if rival != chosen and seconds > CLEARLY * best_uniform:
                # The times of steps carry noise, and a choice built on them may be a mirage: both wholes once more.
                progress("comparing the two best plans")
                if min(best_uniform, timed(rival)[0]) < min(seconds, timed(chosen)[0]):
                    chosen = rival
        placeholders.release()
        return self.assemble(chosen)

    def _unmeasured(self, choice: dict[Node, Option]) -> bool:
        return any(self.cache.get(self.key(node, option)) is None for node, option in choice.items())


def _takes(node: Node, implementation: Implementation, layout: Layout) -> bool:
    if implementation is ATEN:
        return not options(node)[0]
    return (
        isinstance(node.op, implementation.op)
        and not implementation.refuses(node)
        and any(layout == possible for possible in implementation.layouts(node))
    )


def _steady(runs: list[list[float]]) -> bool:
    """Whether the steps' two shortest times are alike, on the whole."""
    shortest = [sorted(times)[:2] for times in zip(*runs, strict=True)]
    return sum(times[-1] for times in shortest) <= UNSTEADY * sum(times[0] for times in shortest)


def _held(found: list[Option], format: str) -> tuple[list[Option], list[Option]]:
    """The options that keep to ``format`` as far as the operator can, and the others, the nearest to it first."""
    layouts = list(dict.fromkeys(option[1] for option in found))
    order = []
    while layouts:
        order.append(uniform_layout(layouts, format))
        layouts.remove(order[-1])
    ranked = sorted(found, key=lambda option: order.index(option[1]))
    held = sum(option[1] == order[0] for option in found) if order else 0
    return ranked[:held], ranked[held:]
