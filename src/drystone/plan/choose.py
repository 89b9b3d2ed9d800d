"""Choose one option for every variable at the least total cost: partitioned boolean quadratic programming (PBQP).

A variable is a node or a value of the graph, its options are implementations or formats; a pair of variables may have a
matrix of costs, such as the time of the reorder between two formats. Anderson and Gregg (CGO 2018) choose the primitives
of a network so; the reductions are Scholz and Eckstein's (LCTES 2002). In order:

* an edge whose costs are a sum of one term a row and one a column goes into the two vectors, options that no finite
  assignment can use are struck out;
* R0, RI, RII: a variable with at most two neighbours is minimised away. Chains, trees and series-parallel graphs
  vanish whole, so their choice is exact;
* what is left is split into its connected components and searched, depth first. One descent is the heuristic RN:
  fix the variable with the most neighbours to the option that looks best, reduce again, and so on. The search goes on
  as branch and bound until it has proved the optimum or used up its allowance; in that case a local search over
  single variables, pairs and large reducible parts improves what it found.

Costs may be infinite (impossible), never NaN or minus infinity. Say "impossible" with ``inf``, not with a large number:
large numbers swallow the digits of small ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Differences below this share of a cost are rounding, not an improvement.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Limits:
    """How long ``choose`` looks: a second or two for a core of hundreds of variables; a small one is proved optimal long before.

    Allowances are in variables copied and reduced.
    """

    search: int = 10_000
    improvement: int = 2_500  # of the local search after it
    sweeps: int = 100  # over single variables and pairs
    searchable: int = 512  # variables; each step copies what is left, so a larger core takes one descent without a way back


@dataclass
class Choice:
    """``options[i]`` is the index of the option chosen for variable i, ``cost`` the sum of the costs that this causes.

    ``exact`` says that no assignment costs less (but for floating-point rounding).
    """

    options: list[int]
    cost: float
    exact: bool


def choose(
    costs: Sequence[np.ndarray],
    edges: Mapping[tuple[int, int], np.ndarray],
    limits: Limits = Limits(),
) -> Choice:
    """The assignment of least cost: exact where the graph reduces or is small, else a good one.

    ``costs[i]`` holds the cost of each option of variable i. ``edges[i, j]``, of shape (options of i, options of j), holds
    the cost of each pair of options; ``(i, j)`` and ``(j, i)`` may both be there, they add up.

    Raises ``ValueError`` if no assignment has a finite cost, or if the costs are malformed. Where finding any finite
    assignment is itself a hard puzzle (a dense graph, mostly infinite), the time is exponential in the worst case.

    >>> choose([np.array([3.0, 1.0]), np.array([1.0, 2.0])], {(0, 1): np.array([[0.0, 5.0], [5.0, 0.0]])})
    Choice(options=[1, 1], cost=3.0, exact=True)
    """
    vectors, neighbours = _checked(costs, edges)
    exact = True
    chosen: dict[int, int] = {}
    try:
        whole = _Problem(vectors, neighbours)
        whole.reduce()
        for variables in whole.components():
            exact &= _solve_core(whole.part(variables), chosen, limits)
    except _Infeasible:
        raise ValueError("no assignment has a finite cost") from None
    _unwind(whole.trail, chosen)
    options = [chosen[i] for i in range(len(costs))]
    return Choice(options, assignment_cost(costs, edges, options), exact)


def assignment_cost(costs: Sequence[np.ndarray], edges: Mapping[tuple[int, int], np.ndarray], options: Sequence[int]) -> float:
    """The cost of choosing ``options[i]`` for each variable i; arguments as of ``choose``."""
    total = sum(float(vector[option]) for vector, option in zip(costs, options, strict=True))
    return total + sum(float(matrix[options[i], options[j]]) for (i, j), matrix in edges.items())


class _Infeasible(Exception):
    """A variable has no option left."""


@dataclass(frozen=True)
class _Eliminated:
    """A variable taken out of the problem: its best option follows from those of its then neighbours."""

    variable: int
    costs: np.ndarray
    edges: tuple[tuple[int, np.ndarray], ...]


# A linked list, newest first, so that the branches of a search share their beginnings.
_Trail = tuple[_Eliminated, "_Trail"] | None
_Edges = dict[int, dict[int, np.ndarray]]


def _checked(costs: Sequence[np.ndarray], edges: Mapping[tuple[int, int], np.ndarray]) -> tuple[dict[int, np.ndarray], _Edges]:
    """The costs in float64 and the edges as a symmetric table of neighbours, parallel edges merged."""

    def cost_array(data: np.ndarray, what: str) -> np.ndarray:
        array = np.array(data, dtype=np.float64)
        if np.isnan(array).any() or np.isneginf(array).any():
            raise ValueError(f"{what} contains NaN or minus infinity")
        return array

    vectors = {i: cost_array(vector, f"costs[{i}]") for i, vector in enumerate(costs)}
    for i, vector in vectors.items():
        if vector.ndim != 1 or not vector.size:
            raise ValueError(f"costs[{i}] must be a vector of at least one option, but has shape {vector.shape}")
    neighbours: _Edges = {i: {} for i in vectors}
    for (i, j), data in edges.items():
        if i == j or i not in vectors or j not in vectors:
            raise ValueError(f"edges[{i}, {j}] does not join two of the {len(vectors)} variables")
        matrix = cost_array(data, f"edges[{i}, {j}]")
        if matrix.shape != (vectors[i].size, vectors[j].size):
            raise ValueError(f"edges[{i}, {j}] must have shape {(vectors[i].size, vectors[j].size)}, but has {matrix.shape}")
        matrix = matrix + neighbours[i].get(j, 0.0)
        neighbours[i][j], neighbours[j][i] = matrix, matrix.T
    return vectors, neighbours


class _Problem:
    """What is left to choose. Arrays are replaced, never written to, so that copies share them.

    An option that is struck out keeps its place with an infinite cost. ``stale`` are the edges to simplify before the
    next reduction; all others have no row or column of live options with a minimum but 0, so that ``bound`` holds.
    """

    def __init__(self, costs: dict[int, np.ndarray], edges: _Edges, offset: float = 0.0, trail: _Trail = None) -> None:
        self.costs = costs
        self.edges = edges
        self.offset = offset
        self.trail = trail
        self.stale = {(i, j) for i, row in edges.items() for j in row if i < j}
        # By degree 0, 1, 2: the variables to look at. An entry may be out of date.
        self.waiting: tuple[list[int], list[int], list[int]] = ([], [], [])
        for i, vector in costs.items():
            self._live(vector)
            self._wait(i)

    def copy(self) -> _Problem:
        """A copy of a reduced problem."""
        other = object.__new__(_Problem)
        other.costs = dict(self.costs)
        other.edges = {i: dict(row) for i, row in self.edges.items()}
        other.offset, other.trail, other.stale, other.waiting = self.offset, self.trail, set(), ([], [], [])
        return other

    def part(self, variables: list[int]) -> _Problem:
        """The problem of a connected component alone, its offset and trail empty."""
        return _Problem({i: self.costs[i] for i in variables}, {i: dict(self.edges[i]) for i in variables})

    def components(self) -> Iterator[list[int]]:
        seen: set[int] = set()
        for start in self.costs:
            if start in seen:
                continue
            seen.add(start)
            component = [start]
            for i in component:
                fresh = [j for j in self.edges[i] if j not in seen]
                seen.update(fresh)
                component += fresh
            yield component

    def bound(self) -> float:
        """No assignment costs less than this: every edge's least cost is 0."""
        return self.offset + sum(float(vector.min()) for vector in self.costs.values())

    def reduce(self) -> None:
        """Simplify the edges and apply R0, RI and RII until neither changes anything."""
        while True:
            if self.stale:
                self._simplify(*self.stale.pop())
                continue
            degree = next((degree for degree in range(3) if self.waiting[degree]), None)
            if degree is None:
                return
            i = self.waiting[degree].pop()
            if i in self.costs and len(self.edges[i]) == degree:
                self._eliminate(i)

    def fix(self, i: int, option: int) -> None:
        """Decide variable i."""
        vector = np.full_like(self.costs[i], np.inf)
        vector[option] = 0.0
        self.offset += float(self.costs[i][option])
        for j, matrix in self._detach(i, vector, keep_edges=False):
            self._add_costs(j, matrix[option])

    def _eliminate(self, i: int) -> None:
        """Take out variable i, which has at most two neighbours, by its minimum over each choice of theirs."""
        vector = self.costs[i]
        neighbours = self._detach(i, vector, keep_edges=True)
        if not neighbours:
            self.offset += float(vector.min())
        elif len(neighbours) == 1:
            ((j, matrix),) = neighbours
            self._add_costs(j, (vector[:, None] + matrix).min(axis=0))
        else:
            (j, first), (k, second) = neighbours
            least = ((vector[:, None] + first)[:, :, None] + second[:, None, :]).min(axis=0)
            if k in self.edges[j]:
                least = least + self.edges[j][k]
            self._set_edge(j, k, least)
            self.stale.add((j, k))

    def _detach(self, i: int, vector: np.ndarray, keep_edges: bool) -> tuple[tuple[int, np.ndarray], ...]:
        """Remove variable i and note on the trail how to choose it; gives its neighbours and the matrices to them."""
        neighbours = tuple(self.edges.pop(i).items())
        del self.costs[i]
        for j, _ in neighbours:
            del self.edges[j][i]
            self._wait(j)
        self.trail = (_Eliminated(i, vector, neighbours if keep_edges else ()), self.trail)
        return neighbours

    def _simplify(self, i: int, j: int) -> None:
        """Move the minimum of each row and column of an edge into the vectors; drop the edge if nothing is left of it."""
        matrix = self.edges[i].get(j) if i in self.costs else None
        if matrix is None:
            return
        live = self._live(self.costs[i])[:, None] & self._live(self.costs[j])
        if not live.all():
            matrix = np.where(live, matrix, np.inf)
        rows = matrix.min(axis=1)
        finite = np.isfinite(matrix)
        scale = float(np.abs(matrix[finite]).max(initial=0.0))
        # The minimum of a row without a finite entry is infinite: it strikes the option out, and must not be subtracted.
        matrix = matrix - np.where(np.isfinite(rows), rows, 0.0)[:, None]
        columns = matrix.min(axis=0)
        matrix = matrix - np.where(np.isfinite(columns), columns, 0.0)
        self._add_costs(i, rows, but=j)
        self._add_costs(j, columns, but=i)
        live = np.isfinite(self.costs[i])[:, None] & np.isfinite(self.costs[j])
        if (matrix[live] <= _ROUNDING * scale).all():
            del self.edges[i][j], self.edges[j][i]
            self._wait(i)
            self._wait(j)
        else:
            self._set_edge(i, j, matrix)

    def _add_costs(self, i: int, more: np.ndarray, but: int | None = None) -> None:
        """Add to variable i's vector. Where that strikes an option out, its edges (the one to ``but`` aside) turn stale."""
        before = self.costs[i]
        after = before + more
        self.costs[i] = after
        live = self._live(after)
        if np.count_nonzero(live) != np.count_nonzero(np.isfinite(before)):
            self.stale.update((i, j) for j in self.edges[i] if j != but)

    def _set_edge(self, i: int, j: int, matrix: np.ndarray) -> None:
        self.edges[i][j], self.edges[j][i] = matrix, matrix.T

    def _wait(self, i: int) -> None:
        degree = len(self.edges[i])
        if degree <= 2:
            self.waiting[degree].append(i)

    @staticmethod
    def _live(vector: np.ndarray) -> np.ndarray:
        live = np.isfinite(vector)
        if not live.any():
            raise _Infeasible
        return live


def _unwind(trail: _Trail, chosen: dict[int, int]) -> None:
    """Choose the eliminated variables, the last first, given what they were eliminated in favour of."""
    while trail is not None:
        step, trail = trail
        vector = step.costs
        for j, matrix in step.edges:
            vector = vector + matrix[:, chosen[j]]
        chosen[step.variable] = int(vector.argmin())


def _solve_core(core: _Problem, chosen: dict[int, int], limits: Limits) -> bool:
    """Choose the variables of a connected problem that reduces no further; True if the choice is exact."""
    core.reduce()
    trail, exact = _search(core, limits) if len(core.costs) <= limits.searchable else _descend(core, limits)
    found: dict[int, int] = {}
    _unwind(trail, found)
    if not exact:
        _improve(core, found, limits)
    chosen.update(found)
    return exact


def _search(core: _Problem, limits: Limits) -> tuple[_Trail, bool]:
    """Depth-first branch and bound from a reduced problem: the best trail, and whether the search was complete.

    The allowance counts only once there is a solution: until then, going on is the only way to know whether there is one.
    """
    if not core.costs:
        return core.trail, True
    best, best_cost, spent = None, np.inf, 0
    branches = [(core, *_branch(core))]
    while branches:
        problem, variable, options = branches[-1]
        # The options come in the order of their bounds: if this one cannot win, none after it can.
        if not options or _no_better(options[-1][0], best_cost):
            branches.pop()
            continue
        if best is not None and spent > limits.search:
            return best, False
        _, option = options.pop()
        spent += len(problem.costs)
        child = problem.copy()
        try:
            child.fix(variable, option)
            child.reduce()
        except _Infeasible:
            continue
        bound = child.bound()
        if _no_better(bound, best_cost):
            continue
        if child.costs:
            branches.append((child, *_branch(child)))
        else:
            best, best_cost = child.trail, bound
    if best is None:
        raise _Infeasible
    return best, True


def _descend(core: _Problem, limits: Limits) -> tuple[_Trail, bool]:
    """RN until nothing is left, in time linear in the edges; a search where that ends in a choice of infinite cost."""
    problem = core.copy()
    by_degree: dict[int, list[int]] = {}
    for i, row in problem.edges.items():
        by_degree.setdefault(len(row), []).append(i)
    try:
        for degree in range(max(by_degree), 0, -1):
            for i in by_degree.get(degree, ()):
                now = len(problem.edges[i]) if i in problem.costs else 0  # no reduction makes it more
                if now == degree:
                    problem.fix(i, int(_bounds(problem, i).argmin()))
                    problem.reduce()
                elif now:
                    by_degree.setdefault(now, []).append(i)
    except _Infeasible:
        return _search(core, limits)
    return problem.trail, False


def _no_better(cost: float, best: float) -> bool:
    return np.isfinite(best) and cost >= best - _ROUNDING * abs(best)


def _branch(problem: _Problem) -> tuple[int, list[tuple[float, int]]]:
    """The variable to fix next, and its live options with a lower bound each, the most promising last (RN)."""
    costs, edges = problem.costs, problem.edges
    variable = max(costs, key=lambda i: (len(edges[i]), -int(np.isfinite(costs[i]).sum())))
    bounds = problem.bound() + _bounds(problem, variable)
    options = [(float(bound), option) for option, bound in enumerate(bounds) if np.isfinite(bound)]
    return variable, sorted(options, reverse=True)


def _bounds(problem: _Problem, variable: int) -> np.ndarray:
    """By how much each option of the variable raises the bound."""
    bounds = problem.costs[variable] - float(problem.costs[variable].min())
    for j, matrix in problem.edges[variable].items():
        other = problem.costs[j]
        bounds = bounds + (matrix + other).min(axis=1) - float(other.min())
    return bounds


def _improve(core: _Problem, chosen: dict[int, int], limits: Limits) -> None:
    """Local search, in place: single variables and pairs, then, as long as the allowance lasts, large random parts.

    A part is what the reductions eliminate, exactly, while the other variables are fixed one by one to their present
    options in random order; so it is never worse than before. Keeps ``chosen`` for eliminated variables in step.
    """
    _improve_pairs(core, chosen, limits.sweeps)
    rng = np.random.default_rng(0)
    for _ in range(limits.improvement // len(core.costs)):
        problem = core.copy()
        order = list(core.costs)
        rng.shuffle(order)
        for i in order:
            if i in problem.costs:
                problem.fix(i, chosen[i])
                problem.reduce()
        _unwind(problem.trail, chosen)
    _improve_pairs(core, chosen, limits.sweeps)
    _unwind(core.trail, chosen)


def _improve_pairs(core: _Problem, chosen: dict[int, int], sweeps: int) -> None:
    """Re-choose single variables, then pairs of neighbours, until nothing gets cheaper."""

    def given_others(i: int, but: int | None = None) -> np.ndarray:
        vector = core.costs[i]
        for k, matrix in core.edges[i].items():
            if k != but:
                vector = vector + matrix[:, chosen[k]]
        return vector

    for _ in range(sweeps):
        improved = False
        for i in core.costs:
            vector = given_others(i)
            if not _no_better(float(vector.min()), float(vector[chosen[i]])):
                chosen[i] = int(vector.argmin())
                improved = True
        if improved:
            continue
        for i, row in core.edges.items():
            for j, matrix in row.items():
                if i < j:
                    pairs = given_others(i, but=j)[:, None] + given_others(j, but=i) + matrix
                    if not _no_better(float(pairs.min()), float(pairs[chosen[i], chosen[j]])):
                        chosen[i], chosen[j] = (int(index) for index in np.unravel_index(pairs.argmin(), pairs.shape))
                        improved = True
        if not improved:
            return
