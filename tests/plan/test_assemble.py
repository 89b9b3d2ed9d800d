"""Programs in memory: live values never overlap, and what can lie in place does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import Reference
from drystone import native
from drystone.capture.export import capture
from drystone.graph.build import build
from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import Cat, Conv
from drystone.passes import simplify
from drystone.plan.assemble import ALIGNMENT
from drystone.plan.assembled import Assembled, Buffer, Place
from drystone.plan.autotune import Planner
from drystone.plan.implementations.base import Created, WeightStore
from drystone.plan.implementations.convolution import OneDnnConvolution
from drystone.plan.tuning_cache import TuningCache
from drystone.runtime.program import Program

pytestmark = [
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
    pytest.mark.usefixtures("no_tuning_cache"),
]

BLOCKED = native.blocked().name
FORMATS = (None, "plain", "channels_last", BLOCKED)


class Net(nn.Module):
    def __init__(self, function: Callable[..., Any], c: int = 16) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = (nn.Conv2d(c, c, 3, padding=1) for _ in range(3))
        self.d = nn.Conv2d(2 * c, c, 1)
        self.e = nn.Linear(c, 7)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


def assemble(
    function: Callable[..., Any], *inputs: torch.Tensor, formats: str | None = None, channels: int = 16
) -> tuple[Assembled, Graph, Reference]:
    torch.manual_seed(0)
    model = Net(function, channels).eval().requires_grad_(False)
    graph = simplify(build(capture(model, inputs)))
    planner = Planner(graph, WeightStore(), TuningCache({}), formats)
    return planner.assemble(planner.best()), graph, Reference(model, inputs)


def run(plan: Assembled, expected: Reference) -> None:
    """The program is right, and is right again in the memory that the first run has left."""
    program = Program(plan, torch.get_num_threads())
    for _ in range(2):
        expected.check_float32(program(list(expected.inputs)))


def image(n: int = 1, c: int = 16) -> torch.Tensor:
    return torch.randn(n, c, 6, 7)


# -- memory


def dense_block(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.cat([x, self.a(x)], 1)
    y = torch.cat([y, F.relu(self.d(y))], 1)
    return torch.cat([y[:, :16], F.max_pool2d(y, 3, 1, 1)], 1)


def residual_chain(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.a(x))
    z = F.relu(self.b(y) + y)
    w = self.c(z) + z
    return w + y


def branches(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = self.a(x)
    left, right = y.chunk(2, 1)
    z = torch.cat([right, left], 1)
    z = z.view(x.shape[0], 2, 8, 6, 7).transpose(1, 2).reshape(x.shape)
    return self.b(z) + y, F.avg_pool2d(z, 2), self.e(z.mean((2, 3))), y


def views(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = self.a(x).permute(0, 2, 3, 1)
    z = F.gelu(self.e(y))
    return z.flatten(1), y.permute(0, 3, 1, 2) * 2, y[:, 1:3]


def with_aten(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = self.a(x)
    y = torch.cumsum(y, 3) + y
    return self.b(y) + torch.lgamma(torch.erfc(y))


NETS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (dense_block, residual_chain, branches, views, with_aten)}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize("name", NETS)
def test_live_values_never_overlap(name: str, formats: str | None, batch: int) -> None:
    plan, _, expected = assemble(NETS[name], image(batch), formats=formats)
    # From what the steps touch, independently of what the assembler noted.
    lives: dict[int, tuple[Any, int, int]] = {}
    for step, record in enumerate(plan.records):
        for place in record.places:
            assert place.offset >= 0 and place.offset + place.desc.bytes <= place.buffer.size, f"{place} reaches out of its buffer"
            if place.buffer.kind == "arena":
                _, first, _ = lives.get(id(place.buffer), (None, step, step))
                lives[id(place.buffer)] = (place.buffer, first, step)
    assert lives, "nothing lies in the arena: this test shows nothing"
    found = list(lives.values())
    for i, (a, a_first, a_last) in enumerate(found):
        assert a.offset % ALIGNMENT == 0 and a.offset >= 0 and a.offset + a.size <= plan.arena_bytes
        for b, b_first, b_last in found[:i]:
            together = a_first <= b_last and b_first <= a_last
            assert not together or a.offset + a.size <= b.offset or b.offset + b.size <= a.offset, (
                f"{a} of steps {a_first} to {a_last} and {b} of {b_first} to {b_last} overlap"
            )
    run(plan, expected)


@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize("name", NETS)
def test_no_value_is_overwritten_before_its_last_reading(name: str, formats: str | None) -> None:
    """Runs the program step by step, and after each looks at every place that a later step reads a value from."""
    plan, _, expected = assemble(NETS[name], image(), formats=formats)
    results = [torch.empty(place.desc.shape) for place in plan.outputs]
    arena = torch.zeros(plan.arena_bytes + 64, dtype=torch.uint8)
    scratchpad = torch.empty(max(plan.program.scratchpad_bytes, 1), dtype=torch.uint8)

    held: dict[Buffer, torch.Tensor] = {}

    def memory(buffer: Buffer) -> torch.Tensor:
        if buffer.kind == "held":
            return held.setdefault(buffer, torch.empty(buffer.size, dtype=torch.uint8))
        if buffer.kind == "arena":
            return arena[buffer.offset :]
        whole = {"input": expected.inputs, "output": results}[buffer.kind][buffer.index] if buffer.data is None else buffer.data
        return whole.reshape(-1).view(torch.uint8)

    def content(place: Place) -> torch.Tensor:
        mine = memory(place.buffer)[place.offset :][: place.desc.bytes]
        if place.desc.format.name.startswith("blocked"):
            return mine
        return mine.view(torch.float32).as_strided(place.desc.shape, place.desc.strides)

    addresses = [memory(buffer).data_ptr() + offset for buffer, offset in plan.slots]
    frame = native.Frame(plan.program, addresses, [], scratchpad.data_ptr(), torch.get_num_threads())
    last = {id(place): step for step, record in enumerate(plan.records) for place in record.places}
    at = {None: -1} | {id(record): step for step, record in enumerate(plan.records)}
    made_by = {record.node: step for step, record in enumerate(plan.records) if record.node}
    watched: list[tuple[Value, Place, torch.Tensor]] = []
    looks = 0
    done = 0
    for step in range(-1, len(plan.records)):
        record = plan.records[step] if step >= 0 else None
        if record and record.call:
            made = record.call([content(place) for place in record.call_inputs])
            for place, result in zip(record.call_outputs, made, strict=True):
                if place is not None:
                    content(place).copy_(result)
        elif record:
            frame.run(done, done + 1)
            done += 1
        for value, place, before in watched:
            if step < last.get(id(place), -1):
                looks += 1
                assert torch.equal(content(place), before), f"step {step} ({plan.records[step].implementation}) writes over {value}"
        for since, value, place in plan.lies:
            # What ATen makes is noted before its step.
            noted = max(at[since and id(since)], made_by.get(value.producer, -1) if value.producer else -1)
            if noted == step and place.buffer.kind != "constant":
                watched.append((value, place, content(place).clone()))
    assert looks >= 2


def test_arena_is_reused() -> None:
    """Twelve layers in a row need the memory of two values, not of twelve."""

    def deep(self: Any, x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(x))))))
        return x

    plan, _, expected = assemble(deep, image(), formats="channels_last")
    assert plan.arena_bytes <= 2 * expected.inputs[0].nbytes + 2 * ALIGNMENT
    run(plan, expected)


# -- cat in place


def cat_steps(plan: Assembled) -> list[str]:
    """The steps that copy parts of a cat."""
    return [record.implementation for record in plan.records if record.node and isinstance(record.node.op, Cat)]


@pytest.mark.parametrize("formats", ["plain", BLOCKED])
def test_cat_of_one_image_is_in_place(formats: str) -> None:
    plan, graph, expected = assemble(lambda self, x: self.d(torch.cat([self.a(x), F.relu(self.b(x))], 1)), image(), formats=formats)
    assert any(isinstance(node.op, Cat) for node in graph)
    assert cat_steps(plan) == []
    whole = next(node.output for node in graph if isinstance(node.op, Cat))
    place = next(place for _, value, place in plan.lies if value is whole)
    parts = [next(p for _, value, p in plan.lies if value is part) for part in whole.producer.inputs]  # type: ignore[union-attr]
    assert [p.buffer for p in parts] == [place.buffer] * 2
    assert [p.offset for p in parts] == [0, place.desc.bytes // 2]
    run(plan, expected)


@pytest.mark.parametrize("formats", ["plain", BLOCKED])
def test_nested_cats_are_in_place(formats: str) -> None:
    """As in DenseNet: each cat is the beginning of the next; only the input of the block has to be copied in."""

    def block(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        y = torch.cat([x, F.relu(self.b(x))], 1)
        return self.d(F.relu(torch.cat([y, self.d(y)], 1)[:, :32]))

    plan, graph, expected = assemble(block, image(), formats=formats)
    assert sum(isinstance(node.op, Cat) for node in graph) >= 1
    assert cat_steps(plan) == []
    run(plan, expected)


@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: torch.cat([self.a(x)] * 2, 1),
        lambda self, x: torch.cat([x, self.a(x)], 1),
        lambda self, x: (y := self.a(x), torch.cat([y, self.b(y)], 1)),
        lambda self, x: torch.cat([self.a(x)[:, :5], self.b(x)[:, :11]], 1),
        lambda self, x: (y := self.a(x), z := self.b(x), torch.cat([y, z], 1), torch.cat([z, y], 1)),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_cat_that_can_not_be_in_place_is_right(function: Any, formats: str | None, batch: int) -> None:
    plan, _, expected = assemble(function, image(batch), formats=formats)
    run(plan, expected)


@pytest.mark.parametrize("barred", ["channels_last", BLOCKED])
def test_part_whose_first_option_fails_is_copied(monkeypatch: pytest.MonkeyPatch, barred: str) -> None:
    """The whole was laid out for parts in its own format: a part that turns out in another must not be written into it."""
    create = OneDnnConvolution.create

    def declines(self: Any, node: Node, inputs: Any, output: native.TensorDesc, context: Any) -> Created:
        if output.format == native.FORMATS[barred]:
            raise ValueError("not today")
        return create(self, node, inputs, output, context)

    monkeypatch.setattr(OneDnnConvolution, "create", declines)
    plan, _, expected = assemble(
        lambda self, x: F.max_pool2d(torch.cat([self.a(x), F.max_pool2d(x, 3, 1, 1), self.d(torch.cat([x, x], 1))], 1), 2),
        image(),
        formats=barred,
    )
    run(plan, expected)


# -- residuals added where they lie


def test_residual_that_dies_is_added_in_place() -> None:
    def net(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(x, 3, 1, 1)
        return torch.tanh(F.relu(self.b(F.relu(self.a(y))) + y))

    for formats in ("channels_last", BLOCKED):
        plan, _, expected = assemble(net, image(), formats=formats)
        assert [record.overwrites.name for record in plan.records if record.overwrites] == ["max_pool2d"]
        run(plan, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: (y := F.relu(self.a(x)), z := self.b(x) + y, self.c(y), z)[2:],  # read by a later convolution
        lambda self, x: (y := F.relu(self.a(x)), torch.tanh(self.b(x) + y)),  # an output
        lambda self, x: torch.tanh(self.a(x) + x),  # the caller's
        lambda self, x: (y := F.relu(self.a(x)), torch.tanh(self.b(y) + y))[1],  # the convolution's own input
        lambda self, x: (y := F.relu(self.a(x)), z := y.view(1, -1), torch.tanh(self.b(x) + y), z + 1)[2:],  # a view is read later
        lambda self, x: (y := F.relu(self.a(x)), z := self.d(torch.cat([y, x], 1)), torch.tanh(self.b(z) + y), y.mean())[
            2:
        ],  # a part
        lambda self, x: (y := F.relu(self.a(x)), torch.tanh(self.b(x) + y), torch.i0(y))[1:],  # read by ATen
    ],
)
@pytest.mark.parametrize("formats", ["channels_last", BLOCKED])
def test_residual_that_lives_on_is_not_overwritten(function: Any, formats: str) -> None:
    plan, graph, expected = assemble(function, image(), formats=formats)
    convs = [node for node in graph if isinstance(node.op, Conv) and len(node.inputs) > 3]
    assert convs, "no residual is fused: this test shows nothing"
    last = {value.id: position for position, node in enumerate(graph) for value in node.inputs}
    last.update({value.id: len(graph.nodes) for value in graph.outputs})
    overwritten = {record.node: record.overwrites for record in plan.records}
    for node in convs:
        for value in node.inputs[3:]:
            if last[value.id] > graph.nodes.index(node) or value in graph.inputs or value is node.inputs[0]:
                assert overwritten[node] is not value
    run(plan, expected)


# -- what costs nothing


def steps(plan: Assembled) -> list[str]:
    return [record.node.op.name if record.node else record.kind for record in plan.records]


def test_views_take_no_step() -> None:
    plan, _, expected = assemble(lambda self, x: self.e(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1).view(1, 1, 16)), image())
    assert steps(plan) == ["reduce", "linear"]
    run(plan, expected)


def test_permute_of_channels_last_takes_no_step() -> None:
    plan, _, expected = assemble(lambda self, x: self.e(self.a(x).permute(0, 2, 3, 1)), image(), formats="channels_last")
    assert "permute" not in steps(plan)
    run(plan, expected)


@pytest.mark.parametrize("formats", [BLOCKED, "channels_last"])
def test_value_is_reordered_once_for_all_its_readers(formats: str) -> None:
    plan, _, expected = assemble(lambda self, x: (self.a(x), self.b(x), self.c(x)), image(), formats=formats)
    assert steps(plan) == ["reorder", "conv", "conv", "conv", "reorder", "reorder", "reorder"]
    run(plan, expected)


def test_output_is_written_where_the_caller_gets_it() -> None:
    plan, _, expected = assemble(lambda self, x: torch.tanh(F.max_pool2d(x, 2)), image(), formats="plain")
    assert steps(plan) == ["pool", "pointwise"]
    assert plan.outputs[0].buffer.kind == "output"
    run(plan, expected)


def test_image_of_one_pixel_needs_no_reorder() -> None:
    """Plain, channels last and (of whole blocks) blocked are the same bytes there."""
    plan, _, expected = assemble(lambda self, x: self.c(self.b(self.a(x))), torch.randn(2, 16, 1, 1))
    assert steps(plan) == ["conv"] * 3
    run(plan, expected)
