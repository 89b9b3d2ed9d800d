"""The planner: the choice against brute force, autotuning, and what it does when an option turns out impossible."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import Reference
from drystone import native
from drystone.capture.export import capture
from drystone.conductor import optimize
from drystone.graph.build import build
from drystone.graph.graph import Graph, Node, Value, constant, make_node
from drystone.graph.instructions import PointwiseOp
from drystone.graph.ops import Conv, Pointwise, Pool
from drystone.passes import simplify
from drystone.plan.assembled import Assembled
from drystone.plan.autotune import REORDER_MUST_GAIN, Planner
from drystone.plan.formats import PLAIN, formats_of, same_memory
from drystone.plan.implementations import Option
from drystone.plan.implementations.base import PlaceholderWeights, WeightStore
from drystone.plan.implementations.convolution import OneDnnConvolution
from drystone.plan.tuning_cache import TuningCache
from drystone.runtime.program import Program

pytestmark = [
    pytest.mark.skipif(native.isa() == "none", reason="there is nothing to choose"),
    pytest.mark.usefixtures("no_tuning_cache"),
]

C, SIZE = 16, 6
BLOCKED = native.blocked().name


CONV = Conv((1, 1), (0, 0), (0, 0), (1, 1), groups=1, has_bias=False)


def random_graph(seed: int, count: int) -> Graph:
    """Convolutions and additions, each of what came before; several may read the same value, one or two are outputs."""
    rng = random.Random(seed)
    graph = Graph(inputs=[Value((1, C, SIZE, SIZE), torch.float32, "x")])
    values = list(graph.inputs)
    for i in range(count):
        if len(values) > 1 and rng.random() < 0.5:
            operands = rng.sample(values, 2)
            node = make_node(Pointwise((PointwiseOp("add", (("in", 0), ("in", 1))),)), operands, name=f"add{i}")
        else:
            weight = constant(torch.randn(C, C, 1, 1), f"weight{i}")
            node = make_node(CONV, [rng.choice(values[-2:]), weight], name=f"conv{i}")
        graph.nodes.append(node)
        values.append(node.output)
    read = {value.id for node in graph for value in node.inputs}
    graph.outputs = [value for value in values[1:] if value.id not in read or rng.random() < 0.15]
    graph.check()
    return graph


def planner_for(graph: Graph, **options: Any) -> Planner:
    return Planner(graph, WeightStore(), TuningCache({}), **options)


def invent_times(planner: Planner, seed: int) -> None:
    """A time for every option of every node, and for every reorder."""
    rng = random.Random(seed)
    for node in planner.graph:
        for option in planner.options[node]:
            planner.cache.put(planner.key(node, option), rng.uniform(1e-6, 5e-6))
        for value in [*node.inputs, node.output]:
            for source, target in itertools.permutations(formats_of(value), 2):
                planner.cache.put(planner.reorder_key(value, source, target), rng.uniform(1e-7, 4e-6))


def total_cost(planner: Planner, choice: dict[Node, Option]) -> float:
    """What an assignment costs: its nodes, a reorder wherever a reader wants another format, plain inputs and outputs."""

    def reorder(value: Value, source: str, target: str) -> float:
        if same_memory(value, source, target):
            return 0.0
        seconds = planner.cache.get(planner.reorder_key(value, source, target))
        assert seconds is not None
        return REORDER_MUST_GAIN * seconds

    cost = 0.0
    for node, option in choice.items():
        seconds = planner.cache.get(planner.key(node, option))
        assert seconds is not None
        cost += seconds
        for value, wanted in zip(node.inputs, option[1].inputs, strict=True):
            if wanted is not None:
                cost += reorder(value, choice[value.producer][1].output if value.producer else PLAIN, wanted)
    for value in planner.graph.outputs:
        if value.producer:
            cost += reorder(value, choice[value.producer][1].output, PLAIN)
    return cost


@pytest.mark.parametrize("seed", range(12))
def test_choice_is_that_of_brute_force(seed: int) -> None:
    graph = random_graph(seed, 3 + seed % 3)
    planner = planner_for(graph)
    invent_times(planner, seed)
    nodes = graph.nodes
    least = min(
        total_cost(planner, dict(zip(nodes, options, strict=True)))
        for options in itertools.product(*(planner.options[n] for n in nodes))
    )
    assert total_cost(planner, planner.best()) == pytest.approx(least, rel=1e-9)


def test_choice_moves_with_the_times() -> None:
    """A convolution that is much faster in one format is worth two reorders; one that is a little faster is not."""
    graph = random_graph(0, 0)
    weight = constant(torch.randn(C, C, 1, 1))
    node = make_node(CONV, [graph.inputs[0], weight], name="conv")
    graph.nodes, graph.outputs = [node], [node.output]
    for gain, expected in ((10e-6, "channels_last"), (0.5e-6, PLAIN)):
        planner = planner_for(graph)
        for option in planner.options[node]:
            planner.cache.put(planner.key(node, option), 20e-6 - gain * (option[1].output == "channels_last"))
        for value in (graph.inputs[0], node.output):
            for source, target in itertools.permutations(formats_of(value), 2):
                planner.cache.put(planner.reorder_key(value, source, target), 1e-6)
        assert planner.best()[node][1].output == expected


# -- autotuning


class Small(nn.Module):
    """3×3 and 1×1 convolutions, depthwise, a residual, a cat: every implementation of a convolution has something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.d = nn.Conv2d(32, 16, 1)
        self.e = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(x))
        z = F.relu(self.b(y) + y)
        y = self.d(torch.cat([self.c(z), z], 1))
        return self.e(F.max_pool2d(y, 2).mean((2, 3)))


@pytest.fixture(scope="module")
def expected() -> Reference:
    torch.manual_seed(0)
    return Reference(Small().eval().requires_grad_(False), (torch.randn(1, 3, 18, 21),), name="small")


def graph_of(expected: Reference) -> Graph:
    return simplify(build(capture(expected.model, expected.inputs)))


def test_every_autotuned_plan_is_right(expected: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each format and each implementation computes the same network, and all of them are autotuned (here on true weights)."""
    monkeypatch.setattr(PlaceholderWeights, "packed", lambda self, *args: self.store.packed(*args))
    planner = planner_for(graph_of(expected))
    seen: set[str] = set()

    def measure(plan: Assembled) -> list[list[float]]:
        program = Program(plan, torch.get_num_threads())
        expected.check_float32(program(list(expected.inputs)))
        seen.update(record.implementation.split()[0] + " " + record.layout for record in plan.records if record.kind == "node")
        return [program.time_steps(list(expected.inputs)) for _ in range(2)]

    expected.check_float32(Program(planner.autotune(measure), torch.get_num_threads())(list(expected.inputs)))
    for node, found in planner.options.items():
        if isinstance(node.op, Conv):
            missing = [f"{o[0].name} {o[1]}" for o in found if f"{o[0].name} {o[1]}" not in seen]
            assert not missing, f"{node.name} was never autotuned as {missing}"


def fake_times(by_layout: Callable[[str], float]) -> tuple[list[float], Callable[[Assembled], list[list[float]]]]:
    """A measure that gives every record but guards a time by its layout; the totals that it gave."""
    totals: list[float] = []

    def measure(plan: Assembled) -> list[list[float]]:
        steps = [
            by_layout(record.layout) + 1e-6 * ("winograd" in record.implementation)
            if record.kind == "node"
            else 1e-6 * (record.kind != "guard")
            for record in plan.records
        ]
        totals.append(sum(steps))
        return [steps, [2 * seconds for seconds in steps]]  # the second run is disturbed

    return totals, measure


@pytest.mark.parametrize("fastest", ["plain", "channels_last", BLOCKED])
def test_autotuning_gives_the_fastest_plan_that_it_saw(expected: Reference, fastest: str) -> None:
    planner = planner_for(graph_of(expected))
    totals, measure = fake_times(lambda layout: 10e-6 if layout.endswith(fastest) else 50e-6)
    best = planner.autotune(measure)
    # In the plain format oneDNN has only a reference implementation of a convolution that adds a residual.
    convs = [
        r.layout for r in best.records if r.node and isinstance(r.node.op, Conv) and (fastest != PLAIN or len(r.node.inputs) == 3)
    ]
    assert len(convs) == (4 if fastest != PLAIN else 3) and all(layout.endswith(fastest) for layout in convs)
    _, again = fake_times(lambda layout: 10e-6 if layout.endswith(fastest) else 50e-6)
    assert sum(again(best)[0]) <= min(totals) * (1 + 1e-9)


def test_known_times_are_not_measured_again(expected: Reference) -> None:
    cache = TuningCache({})
    totals, measure = fake_times(lambda layout: 10e-6 if layout == "channels_last" else 50e-6)
    Planner(graph_of(expected), WeightStore(), cache).autotune(measure)
    assert totals

    def no_measure(plan: Assembled) -> list[list[float]]:
        raise AssertionError("measured again")

    plan = Planner(graph_of(expected), WeightStore(), cache).autotune(no_measure)
    convs = [record for record in plan.records if record.node and isinstance(record.node.op, Conv)]
    assert [record.layout for record in convs] == ["channels_last"] * 4
    assert not any("winograd" in record.implementation for record in convs), "another choice than the known times make"
    expected.check_float32(Program(plan, torch.get_num_threads())(list(expected.inputs)))


def test_equal_nodes_share_a_time() -> None:
    planner = planner_for(random_graph(1, 5))
    convs = [node for node in planner.graph if isinstance(node.op, Conv)]
    assert len({planner.signature(node) for node in convs}) == 1
    assert len({id(planner.options[node]) for node in convs}) == 1


# -- options that turn out impossible


def without_formats(monkeypatch: pytest.MonkeyPatch, *barred: str) -> None:
    create = OneDnnConvolution.create

    def declines(self: Any, node: Node, inputs: Any, output: native.TensorDesc, context: Any) -> Any:
        if output.format.name in barred:
            raise ValueError("not today")
        return create(self, node, inputs, output, context)

    monkeypatch.setattr(OneDnnConvolution, "create", declines)


@pytest.mark.parametrize("held", [None, "channels_last"])
def test_impossible_option_is_replaced(expected: Reference, monkeypatch: pytest.MonkeyPatch, held: str | None) -> None:
    without_formats(monkeypatch, "channels_last", BLOCKED)
    planner = planner_for(graph_of(expected), held_format=held)
    plan = planner.assemble(planner.best())
    onednn = [r.layout for r in plan.records if r.node and isinstance(r.node.op, Conv) and r.implementation.startswith("onednn")]
    assert onednn and not any(layout.endswith(("channels_last", BLOCKED)) for layout in onednn)
    assert plan.segments == 0
    expected.check_float32(Program(plan, torch.get_num_threads())(list(expected.inputs)))


def test_without_any_option_aten_runs_and_says_why(expected: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drystone.plan.implementations.IMPLEMENTATIONS", [OneDnnConvolution(Conv)])
    without_formats(monkeypatch, *native.FORMATS)
    planner = planner_for(graph_of(expected))
    plan = planner.assemble(planner.best())
    segments = [record for record in plan.records if record.kind == "aten"]
    assert {record.reason for record in segments if record.node and isinstance(record.node.op, Conv)} == {"not today"}
    assert all(record.reason for record in segments)
    expected.check_float32(Program(plan, torch.get_num_threads())(list(expected.inputs)))


@pytest.mark.parametrize("held", ["plain", "channels_last", BLOCKED])
def test_held_format_is_kept(expected: Reference, held: str) -> None:
    planner = planner_for(graph_of(expected), held_format=held)
    plan = planner.assemble(planner.best())
    for record in plan.records:
        if record.node and isinstance(record.node.op, (Conv, Pool, Pointwise)) and (held != PLAIN or len(record.node.inputs) <= 3):
            assert record.layout.endswith(held), f"{record.node.name} runs in {record.layout}"
    expected.check_float32(Program(plan, torch.get_num_threads())(list(expected.inputs)))


def test_a_autotuning_packs_no_weights_but_the_last_plans(expected: Reference) -> None:
    weights = WeightStore()
    planner = Planner(graph_of(expected), weights, TuningCache({}))
    packed: list[int] = []

    def measure(plan: Assembled) -> list[list[float]]:
        packed.append(weights.bytes)
        return [Program(plan, torch.get_num_threads()).time_steps(list(expected.inputs))]

    plan = planner.autotune(measure)
    biases = max(packed)
    assert biases < 1024 < weights.bytes
    expected.check_float32(Program(plan, torch.get_num_threads())(list(expected.inputs)))


def test_another_shape_is_planned_from_the_times_of_its_kin(expected: Reference) -> None:
    first = planner_for(graph_of(expected))
    wide = (torch.randn(3, 3, 18, 21),)
    graph = simplify(build(capture(expected.model, wide)))
    for node, found in first.options.items():
        for i, option in enumerate(found):
            first.cache.put(first.key(node, option), 1e-3 * (1 + i))
    second = Planner(graph, WeightStore(), TuningCache({}), kin=first)
    for node, kin in zip(graph, first.graph, strict=True):
        for option in second.options[node]:
            if option in first.options[kin]:
                known = first.cache.get(first.key(kin, option))
                assert known is not None and second.node_cost(node, option) == pytest.approx(3 * known)
    node = graph.nodes[0]
    own = second.options[node][0]
    second.cache.put(second.key(node, own), 5e-6)
    assert second.node_cost(node, own) == 5e-6


@pytest.mark.parametrize(("slower", "lasts"), [(1.1, True), (1.3, False)])
def test_other_sizes_pack_no_weight_once_more(slower: float, lasts: bool) -> None:
    """Of oneDNN's linear layers each number of rows may have an order of its own."""

    def planner(rows: int, kin: Planner | None = None) -> Planner:
        graph = simplify(build(capture(nn.Linear(64, 64).eval().requires_grad_(False), (torch.randn(rows, 64),))))
        return Planner(graph, WeightStore(), TuningCache({}), kin=kin)

    first = planner(8)
    (linear,) = first.graph.nodes
    by_name = {option[0].name: option for option in first.options[linear]}
    for name, seconds in (("onednn_inner_product", 1e-5), ("onednn_matmul", 1e-5), ("drystone_gemm", slower * 1e-5)):
        first.cache.put(first.key(linear, by_name[name]), seconds)
    first.choice = {linear: by_name["onednn_inner_product"]}
    for rows, name in ((8, "onednn_inner_product"), (9, "drystone_gemm" if lasts else "onednn_inner_product")):
        kept = planner(rows, first).kept()
        assert kept is not None and [option[0].name for option in kept.values()] == [name]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("formats", ["plain", "channels_last", BLOCKED])
@pytest.mark.parametrize("layer", [nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_no_transposed_convolution_is_left_to_a_reference(layer: Any, formats: str, bias: bool) -> None:
    """oneDNN's gradient of a blocked convolution over one axis is one: hundreds of times another kernel's time."""
    model = layer(32, 32, 16, 8, 4, bias=bias).eval().requires_grad_(False)
    x = torch.randn(1, 32, 20) if layer is nn.ConvTranspose1d else torch.randn(1, 32, 4, 3)
    fast = optimize(model, x, tuning="estimate", formats=formats)
    steps = fast.explain().steps
    assert not any("ref" in step.implementation for step in steps) and not any(step.kind == "aten" for step in steps)
    torch.testing.assert_close(fast(x), model(x))
