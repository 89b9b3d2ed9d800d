"""Times are measured in place: the whole program runs with candidate assignments, so that each kernel meets the caches as
the model leaves them and its weights cold.

A few uniform candidates (``candidates.py``) time every option that may matter; equal nodes share what is measured of any of them.
From the times the assignment of least total cost follows (``choose.py``); it is autotuned too, which measures the reorders it
really has, and chosen again until that gains nothing. All of it within a budget; what it does not reach keeps its estimate.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import Linear, Permute, WeightProduct
from drystone.plan.assemble import assemble
from drystone.plan.assembled import Assembled, Ends
from drystone.plan.budget import Budget
from drystone.plan.candidates import Candidates, uniform_layout
from drystone.plan.choose import assignment_cost, choose
from drystone.plan.contention import contention
from drystone.plan.formats import PLAIN, same_memory
from drystone.plan.implementations import ATEN, Option, options
from drystone.plan.implementations.base import Implementation, Layout, PlaceholderWeights, WeightStore
from drystone.plan.implementations.movement import Movement
from drystone.plan.implementations.quantisation import InFloats
from drystone.plan.tuning_cache import TuningCache

# For what was never measured: bytes moved at this rate, plus the start of a step.
BYTES_A_SECOND = 10e9
START_SECONDS = 2e-6
FLOPS_A_SECOND = 100e9
CODES_A_SECOND = 200e9  # the same of codes

# Rounds of choosing, at most.
CHOICES = 3

# Kept in the place of a time for what can't be made, so that it is not tried again each time the model is prepared.
IMPOSSIBLE = 3600.0

# What a change of format must gain, in times of what the reorder costs: measured times carry some percent of noise, and least
# sums over many of them collect what was measured too short.
REORDER_MUST_GAIN = 2.0

# Another choice is tried where it promises to take less than this share of the time.
PROMISING = 0.98

# Programs' times that are to be left of the budget when another is begun: for those that choosing needs, and the race with eager.
RESERVE = 3

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
MIGHT_WIN = 2.0
# Before a weight is packed once more for other sizes, another implementation may take so many times as long.
PACKED_ONCE = 1.15

# Runs a program a few times; gives the seconds of its records, one list a run. A hopeless one has one run, of its first records.
Measure = Callable[[Assembled], list[list[float]]]
# Is told what is being done, and the seconds that are left, where that can be said.
Say = Callable[[str, float | None], None]


def signature(node: Node) -> str:
    """What decides a node's time: operator, shapes, dtypes, epilogue. Equal nodes have equal signatures."""
    values = [(v.shape, str(v.dtype), v.is_constant, *_of_codes(v)) for v in [*node.inputs, *node.outputs]]
    epilogue = [(op.kind, op.args, op.alpha, op.beta) for op in node.epilogue]
    text = repr((node.op, values, epilogue))
    return f"{node.op} {hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _of_codes(value: Value) -> tuple[bool, ...]:
    """What decides how long its codes take: whether a scale is for each channel, and whether there is a zero point."""
    codes = value.quantisation
    return () if codes is None else (len(codes.scales) > 1, codes.zero_point != 0)


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
        self._signatures: dict[Node, str] = {}
        self._measured: set[str] = set()  # keys that this planner has timed
        # The share of the cores' time that other work took from the worst of what it spoilt; 0 where it spoilt nothing.
        self.contended = 0.0
        self.choice: dict[Node, Option] = {}  # of the program last assembled
        self.untold = 0, 0.0  # nodes with options that autotuning has left without a time, and their share of the time
        self.look = 0.0  # seconds for which a program was measured last
        self.fastest = math.inf  # seconds of the fastest program that autotuning has timed so far
        self.took: float | None = None  # of the one that it gave, where it has timed that

    def signature(self, node: Node) -> str:
        """Made when it is first asked for: a choice that is kept for other sizes needs none."""
        if node not in self._signatures:
            self._signatures[node] = signature(node) + self._of_weight(node)
        return self._signatures[node]

    def _of_weight(self, node: Node) -> str:
        """What decides which kernels take its codes."""
        coded = isinstance(node.op, WeightProduct) and self.weights.coded(node.inputs[1]).fits_7_bits
        return " of 7 bits" if coded else ""

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
                found, self.spare[self.signature(node)] = _held(found, self.held_format)
            lists[node] = by_signature.setdefault(self.signature(node), found)
        return lists, reasons

    # -- options ---------------------------------------------------------------------------------------------------------

    def _decline(self, node: Node, option: Option, reason: str) -> Option:
        """``option`` can't be made for ``node``: strike it out, give the next."""
        left = self.options[node]
        if option in left:
            left.remove(option)
        self.cache.put(self.key(node, option), IMPOSSIBLE)
        spare = self.spare.get(self.signature(node))
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
        return f"{self.signature(node)}|{option[0].name}|{option[1]}"

    @staticmethod
    def reorder_key(value: Value, source: str, target: str) -> str:
        return f"reorder {value.dtype} {value.shape}|{source}|{target}"

    def rounding(self) -> list[Node]:
        """The nodes of the program last assembled that round their x to codes."""
        return [node for node, (made, _) in self.choice.items() if made.rounds_x]

    def assemble_exact(self) -> Assembled:
        """The program last assembled, with products in floats where it rounds x."""
        exact = {
            node: next(option for option in options(node)[0] if not option[0].rounds_x and option[1] == self.choice[node][1])
            for node in self.rounding()
        }
        return assemble(self.graph, self.choice | exact, self.weights, self._decline, self.ends)

    # -- times ---------------------------------------------------------------------------------------------------------------

    def seconds(self, node: Node, option: Option) -> float | None:
        """The measured time, None where there is none."""
        return self.cache.get(self.key(node, option))

    def record(self, assembled: Assembled, runs: list[list[float]]) -> float:
        """Keep the times of a autotuned program; gives the seconds of the whole.

        The least of a step's runs is its time: whatever else the machine does can only add to it. A program that ended early takes
        for ever, and its last nodes have no times.
        """
        steps = [min(times) for times in zip(*runs, strict=True)]
        missed = {record.node for record in assembled.records[len(steps) :]}
        spent: dict[Node, float] = {node: 0.0 for node in self.graph if node not in missed}
        for record, seconds in zip(assembled.records, steps, strict=False):
            if record.node in missed:
                continue
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
        return math.inf if len(steps) < len(assembled.records) else sum(steps)

    def _keep(self, key: str, seconds: float) -> None:
        """The least of what one autotuning run measured; a later run, under other conditions, begins anew."""
        known = self.cache.get(key)
        if key in self._measured and known is not None:
            seconds = min(seconds, known)
        self._measured.add(key)
        self.cache.put(key, seconds)

    # -- choosing --------------------------------------------------------------------------------------------------------

    def _estimate(self, node: Node, option: Option) -> float:
        """The cost model alone."""
        if isinstance(option[0], Movement) and option[0].is_view(node, option[1]):
            return 0.0
        moved = sum(v.bytes for v in [*node.inputs, *node.outputs])
        floats = isinstance(option[0], InFloats)
        if floats:
            moved += sum(2 * 4 * v.numel for v in [*node.inputs, *node.outputs] if v.quantisation is not None and not v.is_constant)
        seconds = START_SECONDS + moved / BYTES_A_SECOND
        if isinstance(node.op, WeightProduct):
            slower = 2.0 if option[1].output == PLAIN and not isinstance(node.op, Linear) else 1.0
            rate = FLOPS_A_SECOND if node.inputs[0].quantisation is None or floats else CODES_A_SECOND
            seconds += node.op.operations(node.inputs, node.output) / rate * slower
        return seconds

    def node_cost(self, node: Node, option: Option) -> float:
        for known in (self.seconds(node, option), self._kin_cost(node, option)):
            if known is not None:
                return known
        return self._estimate(node, option) * self._slowness(node)

    def _slowness(self, node: Node) -> float:
        """How many times as long as estimated the options of ``node`` take: the most, so that one without a time is no bargain."""
        estimates = ((self.seconds(node, option), self._estimate(node, option)) for option in self.options[node])
        return max((known / estimate for known, estimate in estimates if known is not None and estimate > 0), default=1.0)

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
        choice = {node: self.kin.lasting(kin_node, node) for node, kin_node in self.kin_node.items()}
        if not all(_takes(node, *option) for node, option in choice.items()):
            return None
        measured = all(self.cache.get(self.key(node, option)) is not None for node, option in choice.items())
        return None if measured else choice

    def lasting(self, node: Node, other: Node) -> Option:
        """What was chosen for ``node``, for the same node of other sizes.

        Where its weight would be packed once more for these, what is not much slower and packs it once for all sizes.
        """
        picked = self.choice[node]
        if not picked[0].packs_for_sizes or node.inputs[0].shape == other.inputs[0].shape:
            return picked
        times = {option: self.seconds(node, option) for option in self.options[node] if option[1] == picked[1]}
        limit = times.get(picked) or math.inf
        known = {option: taken for option, taken in times.items() if taken is not None and not option[0].packs_for_sizes}
        fastest = min(known, key=known.__getitem__, default=picked)
        return fastest if known.get(fastest, math.inf) <= PACKED_ONCE * limit else picked

    def best(self) -> dict[Node, Option]:
        """The assignment of least total cost by the times known so far."""
        lists, costs, edges = self._problem()
        picked = choose(costs, edges)
        return {node: found[option] for node, found, option in zip(self.graph, lists, picked.options, strict=True)}

    def promises(self, one: Mapping[Node, Option], other: Mapping[Node, Option]) -> bool:
        """Whether ``one``, which is possible, costs clearly less than ``other`` by the times known so far."""
        lists, costs, edges = self._problem()

        def cost(choice: Mapping[Node, Option]) -> float:
            pairs = list(zip(self.graph, lists, strict=True))
            if any(choice[node] not in found for node, found in pairs):
                return math.inf  # an option has turned out impossible since
            return assignment_cost(costs, edges, [found.index(choice[node]) for node, found in pairs])

        return cost(one) < PROMISING * cost(other)

    def _problem(self) -> tuple[list[list[Option]], list[np.ndarray], dict[tuple[int, int], np.ndarray]]:
        """The options of each node, and the costs of these and of what must lie between two of them, as ``choose`` takes them."""
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
        return lists, costs, edges

    def _outliers(self) -> dict[Node, Option]:
        """Options, at most one a node, whose times are out of proportion, where they might win in proportion: something else may
        have run meanwhile."""
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
                seconds = self.seconds(node, option) or 0.0
                if len(others) < FEWEST_OTHERS or seconds <= OUTLYING_SECONDS or ratio <= OUTLYING * statistics.median(others):
                    continue
                usual = seconds / ratio * statistics.median(others)
                rivals = [self.seconds(node, rival) for rival in self.options[node] if rival != option]
                if usual < MIGHT_WIN * min((known for known in rivals if known is not None), default=0.0):
                    found.setdefault(node, option)
        return found

    def _measured_well(self, assembled: Assembled, measure: Measure, budget: Budget) -> list[list[float]]:
        """Runs of a program; more of them where other work was in the way, or the steps' times do not repeat.

        Other work that did not let one program be measured well goes on: the next ones do not wait for its end.
        """
        runs: list[list[float]] = []
        for _ in range(1 if self.contended else 1 + SECOND_LOOKS):
            began = budget.spent
            with contention(torch.get_num_threads()) as found:
                runs += measure(assembled)
            self.look = budget.spent - began
            if len(runs[-1]) < len(assembled.records):
                break
            if (found.share <= CONTENDED and _steady(runs)) or not budget.allows(RESERVE * self.look):
                break
        if found.share > CONTENDED:
            self.contended = max(self.contended, found.share)
        return [run for run in runs if len(run) == len(assembled.records)] or runs

    def autotune(self, measure: Measure, progress: Say = lambda text, left: None, budget: Budget | None = None) -> Assembled:
        """Measure what is unknown, choose, measure the choice, and give the fastest program that was seen, all within ``budget``.

        One program lives at a time: all that are timed read the same memory for weights, and only the last one's are packed.
        """
        placeholders = PlaceholderWeights(self.weights)
        search = _Autotuning(self, measure, progress, budget or Budget(), placeholders)
        chosen = search.run()
        self.took = min((timed.seconds for timed in search.timed if timed.choice == chosen and timed.whole), default=None)
        placeholders.release()
        return self.assemble(chosen)


@dataclass(frozen=True)
class _Timed:
    seconds: float
    choice: dict[Node, Option]

    @property
    def whole(self) -> bool:
        """Whether it ran to its end."""
        return self.seconds < math.inf


class _Autotuning:
    """One search for the fastest program."""

    def __init__(self, planner: Planner, measure: Measure, progress: Say, budget: Budget, weights: PlaceholderWeights) -> None:
        self.planner, self.measure, self.progress, self.budget, self.weights = planner, measure, progress, budget, weights
        self.candidates = Candidates(planner)
        self.seen: list[_Timed] = []  # the candidates
        self.timed: list[_Timed] = []  # all programs

    def run(self) -> dict[Node, Option]:
        with self.budget.spending():
            self._time_candidates()
            if self.seen and (outliers := self.planner._outliers()) and self._may_go_on():
                self.progress("measuring outliers again", self._left(3))
                self._time(self.planner.best() | outliers)
            self.planner.untold = self.candidates.untold()
            return self._chosen()

    def _time_candidates(self) -> None:
        while (found := self.candidates.next()) is not None and self._may_go_on():
            choice, more = found
            number = len(self.seen) + 1
            self.progress(f"autotuning, program {number} of about {number + more + 1}", self._left(more + 2))
            self.seen.append(self._time(choice))
            if not self.seen[-1].whole:
                self.candidates.ended_early()

    def _chosen(self) -> dict[Node, Option]:
        planner = self.planner
        self.progress("choosing", self._left(1))
        chosen = planner.best()
        if not self.seen and all(planner.seconds(node, option) is not None for node, option in chosen.items()):
            return chosen
        rival = min((timed for timed in self.seen if timed.whole), key=lambda timed: timed.seconds, default=None)
        if not self._may_go_on():
            return rival.choice if rival and not planner.promises(chosen, rival.choice) else chosen
        best = self._settled(chosen)
        if rival is None or rival.choice == best.choice or best.seconds <= rival.seconds:
            return best.choice
        if self._may_go_on():
            # The times of steps carry noise, and a choice built on them may be a mirage: both wholes once more.
            self.progress("comparing the two best plans", self._left(2))
            again = [self._time(timed.choice).seconds for timed in (rival, best)]
            rival, best = (
                _Timed(min(timed.seconds, seconds), timed.choice) for timed, seconds in zip((rival, best), again, strict=True)
            )
        return min(best, rival, key=lambda timed: timed.seconds).choice

    def _settled(self, chosen: dict[Node, Option]) -> _Timed:
        """The choice, timed, which measures the reorders that it brings in; or the one that these lead to, where that is faster."""
        best = self._time(chosen)
        for _ in range(CHOICES - 1):
            again = self.planner.best()
            if not self.planner.promises(again, best.choice) or not self._may_go_on():
                break
            timed = self._time(again)
            if timed.seconds >= best.seconds:
                break
            best = timed
        return best

    def _time(self, choice: dict[Node, Option]) -> _Timed:
        self.weights.reset()
        assembled = self.planner.assemble(choice, self.weights)
        seconds = self.planner.record(assembled, self.planner._measured_well(assembled, self.measure, self.budget))
        self.planner.fastest = min(self.planner.fastest, seconds)
        self.timed.append(_Timed(seconds, assembled.choice))
        return self.timed[-1]

    def _may_go_on(self) -> bool:
        """Whether another program fits into the budget."""
        return self.budget.allows(RESERVE * self.planner.look)

    def _left(self, programs: int) -> float | None:
        """Seconds that so many programs take."""
        return min(self.budget.left, programs * self.planner.look) if self.seen else None


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
