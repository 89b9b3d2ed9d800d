"""The choice of options against brute force on small graphs, and what it promises on large ones."""

import itertools
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drystone.plan.choose import Choice, Limits, assignment_cost, choose

DESCENT = Limits(search=-1)
Edges = dict[tuple[int, int], np.ndarray]


def brute_force(costs: list[np.ndarray], edges: Edges) -> float:
    """The least cost over all assignments; inf if none is finite."""
    assignments = itertools.product(*(range(len(vector)) for vector in costs))
    return min(assignment_cost(costs, edges, assignment) for assignment in assignments)


def random_problem(pairs, count: int, seed: int, options: int = 3, impossible: float = 0.0) -> tuple[list[np.ndarray], Edges]:
    """Random costs for ``count`` variables and the given pairs, a share of them infinite, some edges decomposable."""
    rng = np.random.default_rng(seed)

    def spoil(array: np.ndarray) -> np.ndarray:
        return np.where(rng.random(array.shape) < impossible, np.inf, array)

    sizes = rng.integers(1, options + 1, count)
    costs = [spoil(rng.random(size)) for size in sizes]
    edges = {}
    for i, j in pairs:
        i, j = (i, j) if rng.random() < 0.7 else (j, i)
        matrix = rng.normal(size=(sizes[i], sizes[j]))
        if rng.random() < 0.2:
            matrix = rng.normal(size=(sizes[i], 1)) + rng.normal(size=(1, sizes[j]))
        edges[i, j] = spoil(matrix)
    return costs, edges


def chain(count: int) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(count - 1)]


def clique(count: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(count), 2))


def tree(count: int, seed: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(i)), i) for i in range(1, count)]


def series_parallel(count: int, seed: int) -> list[tuple[int, int]]:
    """Each new variable hangs on one end of an edge, or on both: the graphs that R0, RI and RII reduce."""
    rng = np.random.default_rng(seed)
    pairs = [(0, 1)]
    for new in range(2, count):
        i, j = pairs[rng.integers(len(pairs))]
        pairs += [(i, new)] if rng.random() < 0.3 else [(i, new), (j, new)]
    return pairs


def check_against_brute_force(costs: list[np.ndarray], edges: Edges) -> None:
    expected = brute_force(costs, edges)
    if not np.isfinite(expected):
        with pytest.raises(ValueError, match="no assignment"):
            choose(costs, edges)
        return
    choice = choose(costs, edges)
    assert choice.cost == assignment_cost(costs, edges, choice.options)
    assert choice.exact
    assert choice.cost == pytest.approx(expected, rel=1e-9, abs=1e-12)


seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.0, 0.1, 0.3, 0.5])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["chain", "tree", "series_parallel", "clique", "any"]), st.integers(2, 7), seeds, shares)
def test_equals_brute_force(kind, count, seed, impossible):
    rng = np.random.default_rng(seed)
    pairs = {
        "chain": lambda: chain(count),
        "tree": lambda: tree(count, seed),
        "series_parallel": lambda: series_parallel(count, seed),
        "clique": lambda: clique(count),
        "any": lambda: [pair for pair in clique(count) if rng.random() < 0.6],
    }[kind]()
    check_against_brute_force(*random_problem(pairs, count, seed, impossible=impossible))


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 7), seeds, shares)
def test_heuristic_costs_what_its_assignment_costs(count, seed, impossible):
    """With no allowance at all only the first descent and the local search are left."""
    costs, edges = random_problem(clique(count), count, seed, impossible=impossible)
    expected = brute_force(costs, edges)
    if not np.isfinite(expected):
        with pytest.raises(ValueError, match="no assignment"):
            choose(costs, edges, DESCENT)
        return
    choice = choose(costs, edges, DESCENT)
    assert choice.cost == assignment_cost(costs, edges, choice.options)
    assert np.isfinite(choice.cost)
    assert choice.cost >= expected - 1e-9
    if choice.exact:
        assert choice.cost == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("allowance", [0, 500])
def test_local_search_leaves_nothing_that_a_pair_can_improve(allowance):
    inexact = 0
    for seed in range(20):
        costs, edges = random_problem(clique(9), 9, seed, options=4)
        choice = choose(costs, edges, replace(DESCENT, improvement=allowance))
        inexact += not choice.exact
        for i, j in clique(9):
            for pair in itertools.product(range(len(costs[i])), range(len(costs[j]))):
                other = list(choice.options)
                other[i], other[j] = pair
                assert assignment_cost(costs, edges, other) >= choice.cost - 1e-9
    assert inexact  # else this has tested nothing


@pytest.mark.parametrize("limits", [{"improvement": 0}, {"improvement": 500}, {"improvement": 500, "sweeps": 0}], ids=str)
def test_local_search_improves_a_poor_start_and_takes_eliminated_variables_along(limits):
    """Variable 9 hangs on the clique and is eliminated first: its option must follow its neighbour's."""
    gained = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        costs = [rng.random(3) for _ in range(9)] + [np.zeros(3)]
        edges = {pair: rng.normal(size=(3, 3)) for pair in clique(9)}
        edges[0, 9] = np.where(np.eye(3, dtype=bool), 0.0, 10.0)
        start = choose(costs, edges, replace(DESCENT, improvement=0, sweeps=0))
        choice = choose(costs, edges, replace(DESCENT, **limits))
        assert choice.options[9] == choice.options[0] and choice.cost <= start.cost
        gained += choice.options[0] != start.options[0]
    assert gained  # else no eliminated variable had to follow


def test_parallel_edges_in_both_directions_add_up():
    costs = [np.zeros(2), np.zeros(2)]
    forth, back = np.array([[0.0, 3.0], [4.0, 4.0]]), np.array([[9.0, 0.0], [0.0, 0.0]])
    assert choose(costs, {(0, 1): forth, (1, 0): back}) == Choice([0, 1], 3.0, True)


def test_reorders_that_pay_are_chosen():
    """Two fast steps in blocked between plain ends: worth two reorders of 1 when they save 3, not when they save 1."""
    reorder = np.array([[0.0, 1.0], [1.0, 0.0]])
    edges = {(i, i + 1): reorder for i in range(3)}
    plain = np.array([0.0, np.inf])
    assert choose([plain, np.array([2.0, 0.5]), np.array([2.0, 0.5]), plain], edges) == Choice([0, 1, 1, 0], 3.0, True)
    assert choose([plain, np.array([2.0, 1.5]), np.array([2.0, 1.5]), plain], edges) == Choice([0, 0, 0, 0], 4.0, True)


def test_trivial_problems():
    assert choose([], {}) == Choice([], 0.0, True)
    assert choose([np.array([2.0, 1.0])], {}) == Choice([1], 1.0, True)
    assert choose([np.array([-2.0]), np.array([np.inf, 1.0])], {}) == Choice([0, 1], -1.0, True)


def test_infinities_that_only_together_leave_nothing():
    """Three variables, two options each, neighbours must differ: no row or column is empty, and yet nothing fits."""
    differ = np.array([[np.inf, 0.0], [0.0, np.inf]])
    with pytest.raises(ValueError, match="no assignment has a finite cost"):
        choose([np.zeros(2)] * 3, {(0, 1): differ, (1, 2): differ, (0, 2): differ})
    five = np.where(np.eye(5, dtype=bool), np.inf, 0.0)
    assert sorted(choose([np.zeros(5)] * 5, {pair: five for pair in clique(5)}).options) == [0, 1, 2, 3, 4]
    four = five[:4, :4]
    with pytest.raises(ValueError, match="no assignment has a finite cost"):
        choose([np.zeros(4)] * 5, {pair: four for pair in clique(5)})


def test_the_arguments_are_not_written_to():
    costs, edges = random_problem(clique(6), 6, seed=1)
    costs[0][0] = edges[min(edges)][0, 0] = np.inf
    before = [vector.copy() for vector in costs], {pair: matrix.copy() for pair, matrix in edges.items()}
    choose(costs, edges)
    assert all(np.array_equal(a, b) for a, b in zip(before[0], costs, strict=True))
    assert all(np.array_equal(before[1][pair], edges[pair]) for pair in edges)


def test_the_same_problem_gets_the_same_answer():
    costs, edges = random_problem(clique(12), 12, seed=2, options=5)
    assert choose(costs, edges) == choose(costs, edges)


@pytest.mark.parametrize(
    ("costs", "edges", "message"),
    [
        ([np.array([])], {}, "at least one option"),
        ([np.zeros((2, 2))], {}, "must be a vector"),
        ([np.array([np.nan])], {}, "NaN"),
        ([np.array([-np.inf])], {}, "minus infinity"),
        ([np.zeros(2)], {(0, 0): np.zeros((2, 2))}, "does not join"),
        ([np.zeros(2)], {(0, 1): np.zeros((2, 2))}, "does not join"),
        ([np.zeros(2), np.zeros(3)], {(0, 1): np.zeros((3, 2))}, "must have shape"),
        ([np.zeros(1), np.zeros(1)], {(0, 1): np.array([[np.nan]])}, "NaN"),
    ],
)
def test_malformed_costs_are_refused(costs, edges, message):
    with pytest.raises(ValueError, match=message):
        choose(costs, edges)


def test_a_thousand_variables():
    """Series-parallel: exact, and fast. The limit leaves room for a busy machine."""
    pairs = series_parallel(1000, seed=3)
    costs, edges = random_problem(pairs, 1000, seed=3, options=5)
    start = time.process_time()
    assert choose(costs, edges).exact
    assert time.process_time() - start < 2.0


def test_a_large_graph_that_does_not_reduce():
    """A band of triangles and crossings: dynamic programming along the band gives the optimum to compare with."""
    count, options = 300, 3
    rng = np.random.default_rng(4)
    costs = [rng.random(options) for _ in range(count)]
    edges = {(i, i + step): rng.random((options, options)) for step in (1, 2, 3) for i in range(count - step)}
    # best[a, b, c]: the least cost so far with the last three variables at a, b, c
    best = np.zeros((options,) * 3)
    for i in range(count):
        # axes: i - 3, i - 2, i - 1, i
        total = best[:, :, :, None] + costs[i]
        for step, shape in ((1, (1, 1, -1, options)), (2, (1, -1, 1, options)), (3, (-1, 1, 1, options))):
            if i >= step:
                total = total + edges[i - step, i].reshape([options if size == -1 else size for size in shape])
        best = total.min(axis=0)
    optimum = best.min()
    choice = choose(costs, edges)
    assert choice.cost == assignment_cost(costs, edges, choice.options)
    assert optimum - 1e-9 <= choice.cost <= 1.05 * optimum
    if choice.exact:
        assert choice.cost == pytest.approx(optimum)


@pytest.mark.parametrize("seed", range(20))
def test_a_core_too_large_to_search_takes_one_descent(seed: int) -> None:
    costs, edges = random_problem(clique(9), 9, seed, impossible=0.2 if seed % 2 else 0.0)
    large = Limits(searchable=0)
    try:
        best = choose(costs, edges)
    except ValueError:
        with pytest.raises(ValueError, match="no assignment"):
            choose(costs, edges, large)
        return
    found = choose(costs, edges, large)
    assert np.isfinite(found.cost) and best.cost - 1e-9 <= found.cost <= best.cost + 1.0
    assert found.cost == assignment_cost(costs, edges, found.options)


def test_a_large_core_is_not_copied_at_each_step() -> None:
    count, rng = 700, np.random.default_rng(0)
    edges = {(i, j): rng.normal(size=(2, 2)) for i in range(count) for j in range(i + 1, min(i + 5, count))}
    costs = [rng.random(2) for _ in range(count)]
    tracemalloc.start()
    try:
        choice = choose(costs, edges, Limits(sweeps=2))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not choice.exact and peak < 20 << 20  # a copy takes half a megabyte
