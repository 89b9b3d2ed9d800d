"""One optimised module, many shapes: the batch varies unasked, declared dimensions too; programs are made at once and bounded."""

from __future__ import annotations

import copy
import gc
import inspect
import logging
import os
import re
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import Reference, needs_unconditional_sizes
from drystone import ShapeError, native
from drystone.capture import shapes
from drystone.graph.build import build
from drystone.graph.template import difference
from drystone.plan.autotune import Planner
from drystone.preparer import programs_of
from drystone.runtime.programs import budget
from drystone.sources import whole
from drystone.sources.symbolic import SymbolicCapture


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.norm.running_var.uniform_(0.5, 2)
        self.last = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.last(y.mean((2, 3)))


class SaysItsBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x.flatten(1) * 2, x.shape[0]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.mark.parametrize("first", [1, 4])
def test_the_batch_varies_unasked(model: nn.Module, first: int) -> None:
    fast = drystone.optimize(model, torch.randn(first, 3, 10, 12), tuning="estimate")
    for batch in (3, 1, 7, 2, 3, 0):
        x = torch.randn(batch, 3, 10, 12)
        result = fast(x)
        assert result.shape == (batch, 5)
        if batch:
            Reference(model, (x,)).check_float32(result)


def test_later_batches_are_not_captured_again(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = drystone.optimize(model, torch.randn(2, 3, 10, 12), tuning="estimate")
    fast(torch.randn(3, 3, 10, 12))  # from here on there is a symbolic capture

    def never(*_: Any) -> Any:
        raise AssertionError("captured again")

    monkeypatch.setattr("drystone.sources.whole.capture_module", never)
    x = torch.randn(6, 3, 10, 12)
    Reference(model, (x,)).check_float32(fast(x))


def test_weights_are_packed_once_for_all_shapes() -> None:
    big = nn.Sequential(nn.Conv2d(64, 128, 1), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 64, 1)).eval().requires_grad_(False)
    fast = drystone.optimize(big, torch.randn(2, 64, 9, 9), tuning="estimate")
    weights = fast.explain().weights_bytes
    assert weights >= 2 * 4 * 64 * 128
    prepared = [fast.prepare(torch.randn(batch, 64, 9, 9)) for batch in (2, 3, 4, 5)]
    # A shape may want another packing; but not each its own.
    assert prepared[-1].weights_bytes <= 3 * weights


def test_a_number_that_depends_on_the_batch_is_given_back_as_it_is() -> None:
    model = SaysItsBatch().eval()
    fast = drystone.optimize(model, torch.randn(2, 3, 4), tuning="estimate")
    for batch in (2, 3, 5, 1):
        x = torch.randn(batch, 3, 4)
        tensor, said = fast(x)
        assert said == batch and torch.equal(tensor, x.flatten(1) * 2)


def test_inputs_of_one_batch_vary_together() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return x + y + shift

    fast = drystone.optimize(Two().eval(), (torch.randn(2, 3), torch.randn(2, 3), torch.randn(3)), tuning="estimate")
    x = torch.randn(4, 3)
    assert torch.equal(fast(x, x, torch.zeros(3)), x + x)
    with pytest.raises(ShapeError, match=r"'x' has 4 instead of 2 along dimension 0.*return x \+ y \+ shift"):
        fast(x, torch.randn(2, 3), torch.zeros(3))
    with pytest.raises(ShapeError, match="'shift'"):
        fast(x, x, torch.zeros(4))


class Products(nn.Module):
    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) @ w.t()


@pytest.mark.parametrize("first, second", [(7, 4), (4, 7), (7, 6), (1, 4), (7, 7)])
def test_inputs_that_share_a_size_by_chance_may_part(first: int, second: int) -> None:
    fast = drystone.optimize(Products().eval(), (torch.randn(4, 8), torch.randn(4, 8)), tuning="estimate")
    x, w = torch.randn(first, 8), torch.randn(second, 8)
    torch.testing.assert_close(fast(x, w), torch.relu(x) @ w.t())
    torch.testing.assert_close(fast(w, x), torch.relu(w) @ x.t())


def test_a_batch_that_the_model_does_not_take() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, 6) + 1

    fast = drystone.optimize(Fixed().eval(), torch.randn(2, 6), tuning="estimate")
    with pytest.raises(ShapeError, match="other shapes"):
        fast(torch.randn(3, 6))
    assert fast(torch.zeros(2, 6)).sum() == 12  # and nothing is lost


def test_a_decision_on_the_batch_is_made_for_each() -> None:
    class Decides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[0] > 4 else x + 1

    fast = drystone.optimize(Decides().eval(), torch.zeros(3, 2), tuning="estimate")
    for batch in (2, 4, 5, 9, 1, 3):
        x = torch.randn(batch, 2)
        assert torch.equal(fast(x), x * 2 if batch > 4 else x + 1), batch


@needs_unconditional_sizes
def test_two_hundred_shapes_keep_memory_bounded(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_MEMORY", "2M")
    dims = ({2: torch.export.Dim("height", min=4, max=400), 3: torch.export.Dim("width", min=4, max=400)},)
    fast = drystone.optimize(model, (torch.randn(2, 3, 10, 12),), tuning="estimate", dynamic_shapes=dims)
    process = psutil.Process(os.getpid())
    used = []
    for i in range(200):
        x = torch.randn(2, 3, 4 + i % 37, 4 + i)
        result = fast(x)
        if i % 20 == 0:
            Reference(model, (x,)).check_float32(result)
        if i % 50 == 49:
            gc.collect()
            native.trim()  # what is free is not counted
            used.append(process.memory_info().rss)
    kept = [entry.bytes for _, entry in programs_of(fast).items()]
    assert 4 <= len(kept) < 50 and sum(kept) <= 2 << 20
    assert used[-1] - used[0] < 16 << 20


def test_sizes_below_two_are_never_taken_from_a_symbolic_capture(model: nn.Module) -> None:
    from drystone.capture.export import capture

    captured = capture(
        model,
        (torch.randn(3, 3, 8, 8),),
        None,
        shapes.varying_shapes(inspect.signature(model.forward), (torch.randn(3, 3, 8, 8),), {}, [{0}]),
    )
    assert shapes.dynamic_dims(captured) == [{0}]
    symbolic = SymbolicCapture(captured, build)
    assert symbolic.graph_for([(5, 3, 8, 8)]) is not None
    for shape in ((1, 3, 8, 8), (0, 3, 8, 8), (5, 3, 8, 9)):
        assert symbolic.graph_for([shape]) is None


def test_a_new_size_takes_over_what_was_chosen_for_the_first(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = drystone.optimize(model, torch.randn(2, 3, 10, 12), tuning="estimate")
    chosen = [(step.implementation, step.format) for step in fast.explain().steps if step.kind == "node"]

    def never(*_: Any) -> Any:
        raise AssertionError("planned again")

    monkeypatch.setattr(Planner, "best", never)
    x = torch.randn(6, 3, 10, 12)
    Reference(model, (x,)).check_float32(fast(x))
    prepared = next(entry for (_, sizes), entry in programs_of(fast).items() if sizes[0][0] == 6)
    assert [(step.implementation, step.format) for step in prepared.explanation.steps if step.kind == "node"] == chosen
    assert all(step.microseconds > 0 for step in prepared.explanation.steps if step.kind == "node")


def test_what_refuses_a_new_size_is_planned_anew(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = drystone.optimize(model, torch.randn(2, 3, 10, 12), tuning="estimate")
    first = next(iter(programs_of(fast).kin.choice.values()))[0]  # type: ignore[union-attr]
    refuses = type(first).refuses
    monkeypatch.setattr(type(first), "refuses", lambda self, node: "not six" if node.output.shape[0] == 6 else refuses(self, node))
    for batch in (6, 5):
        x = torch.randn(batch, 3, 10, 12)
        Reference(model, (x,)).check_float32(fast(x))
    assert any(type(option[0]) is type(first) for option in programs_of(fast).kin.choice.values())  # type: ignore[union-attr]


def test_a_size_that_was_measured_is_planned_from_its_own_times(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = drystone.optimize(model, torch.randn(2, 3, 10, 12), tuning="estimate")
    x = torch.randn(6, 3, 10, 12)
    fast.prepare(x)
    planned = []
    best = Planner.best
    monkeypatch.setattr(Planner, "best", lambda self: planned.append(self) or best(self))
    programs_of(fast).clear()
    fast(x)
    assert planned
    fast(torch.randn(7, 3, 10, 12))
    assert len(planned) == 1


class Text(nn.Module):
    """As encoders have it: a table of positions, attention, and nothing that says how long a text is."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(50, 32), nn.Embedding(40, 32)
        self.register_buffer("ids", torch.arange(40))
        self.qkv, self.last = nn.Linear(32, 96), nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.positions(self.ids[: ids.shape[1]])
        q, k, v = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())
        return self.last(y.transpose(1, 2).flatten(2))


def texts(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, length // 2 + 1 :] = 0
    return torch.randint(0, 50, (batch, length)), mask


def test_any_size_varies_undeclared(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    model = Text().eval().requires_grad_(False)
    fast = drystone.optimize(model, texts(1, 12), tuning="estimate")
    captures = []
    capture = whole.capture_module
    monkeypatch.setattr("drystone.sources.whole.capture_module", lambda *args: captures.append(args) or capture(*args))
    sizes = [(1, 7), (1, 9), (1, 20), (4, 9), (3, 12), (1, 5), (6, 6), (6, 5), (2, 13)]
    for batch, length in sizes:
        inputs = texts(batch, length)
        Reference(model, inputs).check_float32(fast(*inputs))
    assert len(captures) <= 3, "one for lengths, one for batches too, one where a batch may equal a length"
    logged = logging.getLogger("torch._subclasses.fake_tensor")
    monkeypatch.setattr(logged, "handlers", [caplog.handler])
    with pytest.raises(ShapeError, match=r"'ids' has 41 instead of 12 along dimension 1.*self\.positions"):
        fast(*texts(1, 41))
    assert all(record.name != logged.name for record in caplog.records)
    with pytest.raises(
        ShapeError, match=r"'mask' has 41 instead of 12 along dimension 1, where the model takes at most 40\."
    ) as said:
        fast(*texts(3, 41))
    assert "dimension 0" not in str(said.value), "the batch, which may vary"


def captures_counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What dynamic_shapes each capture from now on is given."""
    given: list[Any] = []
    capture = whole.capture_module

    def counted(model: nn.Module, args: Any, kwargs: Any, dynamic_shapes: Any = None) -> Any:
        given.append(dynamic_shapes)
        return capture(model, args, kwargs, dynamic_shapes)

    monkeypatch.setattr("drystone.sources.whole.capture_module", counted)
    return given


@needs_unconditional_sizes
@pytest.mark.parametrize("in_place", [False, True])
def test_one_capture_serves_texts_of_all_sizes(in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = captures_counted(monkeypatch)
    model = Text().eval().requires_grad_(False)
    plain = copy.deepcopy(model)
    if in_place:
        fast: nn.Module = drystone.optimize_(model, tuning="estimate")
    else:
        fast = drystone.optimize(model, texts(3, 12), tuning="estimate", dynamic_shapes="auto")
    with torch.inference_mode():
        for batch, length in [(3, 12), (3, 7), (4, 9), (2, 20), (5, 13)]:
            inputs = texts(batch, length)
            Reference(plain, inputs).check_float32(fast(*inputs))
    assert len(given) == 1


@needs_unconditional_sizes
def test_the_graph_of_a_symbolic_first_capture_is_that_of_a_fixed_one() -> None:
    model = Text().eval().requires_grad_(False)
    one, other = (drystone.optimize(model, texts(3, 12), tuning="estimate", dynamic_shapes=said) for said in (None, "auto"))
    assert not difference(programs_of(one).source.graph, programs_of(other).source.graph)  # type: ignore[attr-defined]


@needs_unconditional_sizes
def test_one_text_at_first_then_more(monkeypatch: pytest.MonkeyPatch) -> None:
    given = captures_counted(monkeypatch)
    model = Text().eval().requires_grad_(False)
    fast = drystone.optimize(model, texts(1, 12), tuning="estimate", dynamic_shapes="auto")
    for batch, length in [(1, 7), (1, 9), (4, 9), (3, 12), (6, 5)]:
        inputs = texts(batch, length)
        Reference(model, inputs).check_float32(fast(*inputs))
    assert len(given) == 2, "a batch of one is no symbol"


def test_pictures_are_captured_for_the_example_first(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    given = captures_counted(monkeypatch)
    drystone.optimize(model, torch.randn(2, 3, 10, 12), tuning="estimate", dynamic_shapes="auto")
    assert given == [None]


def test_texts_of_a_model_that_takes_no_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counts(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.relu(ids.float()) * ids.shape[1]

    given = captures_counted(monkeypatch)
    capture = whole.capture_module

    def refusing(model: nn.Module, args: Any, kwargs: Any, dynamic_shapes: Any = None) -> Any:
        if dynamic_shapes is not None:
            given.append(dynamic_shapes)
            raise drystone.CaptureError("symbols")
        return capture(model, args, kwargs)

    monkeypatch.setattr("drystone.sources.whole.capture_module", refusing)
    ids = torch.randint(0, 50, (3, 12))
    fast = drystone.optimize(Counts().eval(), ids, tuning="estimate", dynamic_shapes="auto")
    assert torch.equal(fast(ids), ids.float() * 12) and given[0] is not None and given[1:] == [None]


def test_a_wrong_word_for_dynamic_shapes() -> None:
    for prepare in (drystone.optimize, drystone.optimize_):
        with pytest.raises(
            drystone.InputError, match=r"dynamic_shapes: expected None, 'auto' or what torch\.export takes, got 'any'"
        ):
            prepare(Table().eval(), torch.randn(2, 12, 8), dynamic_shapes="any")
    with pytest.raises(drystone.InputError, match=r"dtype=torch\.int8: shapes are the example's or declared one by one"):
        drystone.optimize(Table().eval(), torch.randn(2, 12, 8), dynamic_shapes="auto", dtype=torch.int8, calibration=[])


def test_pictures_of_any_size(model: nn.Module) -> None:
    fast = drystone.optimize(model, torch.randn(1, 3, 16, 16), tuning="estimate")
    for shape in ((1, 3, 24, 24), (1, 3, 24, 18), (2, 3, 9, 31), (1, 3, 8, 8), (1, 3, 2, 2)):
        x = torch.randn(shape)
        Reference(model, (x,)).check_float32(fast(x))
    with pytest.raises(ShapeError, match=r"'x' has 4 instead of 3 along dimension 1"):
        fast(torch.randn(1, 4, 16, 16))


@needs_unconditional_sizes
def test_what_was_declared_is_a_promise_and_a_bound(model: nn.Module) -> None:
    dims = ({2: torch.export.Dim("height", min=4, max=40)},)
    fast = drystone.optimize(model, torch.randn(1, 3, 16, 16), tuning="estimate", dynamic_shapes=dims)
    x = torch.randn(1, 3, 20, 16)
    Reference(model, (x,)).check_float32(fast(x))
    with pytest.raises(ShapeError, match=r"\[1, 3, \*, 16\]"):
        fast(torch.randn(1, 3, 20, 17))


def test_no_program_is_made_for_a_new_size_where_eager_was_faster(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = drystone.optimize(model, torch.randn(1, 3, 16, 16), tuning="estimate")
    monkeypatch.setattr(programs_of(fast), "verdict", "eager")
    x = torch.randn(2, 3, 20, 16)
    assert torch.equal(fast(x), model(x)) and len(programs_of(fast)) == 1
    with pytest.raises(RuntimeError, match="channels"):
        fast(torch.randn(1, 4, 16, 16))  # the model's own error
    fast.prepare(x)
    assert len(programs_of(fast)) == 2


def test_constants_of_a_size_count_and_go_with_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_MEMORY", "1M")
    model = Text().eval().requires_grad_(False)
    fast = drystone.optimize(model, texts(2, 12), tuning="estimate")
    for length in range(3, 40):
        fast(*texts(2, length))
    programs = programs_of(fast)
    one, other = (programs.at(((2, length), (2, length)), [*texts(2, length)], torch.get_num_threads()) for length in (39, 3))
    assert one.bytes - other.bytes == 36 * 32 * 4, "the slices of the table of positions"
    assert sum(entry.bytes for _, entry in programs.items()) <= budget() == 1 << 20
    small, large = programs.preparer.weights.bytes, sum(tensor.nbytes for tensor in model.state_dict().values())
    assert small < 4 * large


@pytest.mark.parametrize("said, bytes", [("", 256 << 20), ("500M", 500 << 20), ("2g", 2 << 30), ("1.5 KB", 1536), ("7", 7)])
def test_the_budget_that_is_said(monkeypatch: pytest.MonkeyPatch, said: str, bytes: int) -> None:
    monkeypatch.setenv("DRYSTONE_MEMORY", said)
    assert budget() == bytes


def test_the_program_last_used_is_kept_whatever_the_budget(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_MEMORY", "0")
    fast = drystone.optimize(model, torch.randn(1, 3, 10, 12), tuning="estimate")
    for batch in (1, 2, 1, 3):
        x = torch.randn(batch, 3, 10, 12)
        Reference(model, (x,)).check_float32(fast(x))
        assert len(programs_of(fast)) == 1


def test_choices_are_kept_though_times_were_not(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = drystone.optimize(model, torch.randn(2, 3, 10, 12), tuning="estimate")
    programs_of(fast).preparer.times._caches.clear()  # as where other work ran beside an autotuning run
    monkeypatch.setattr(Planner, "best", None)
    x = torch.randn(5, 3, 10, 12)
    Reference(model, (x,)).check_float32(fast(x))


class Sums(nn.Module):
    """Nothing in it says that the lengths of both are one."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).sum(1) + y.sum(1)


SEQ = torch.export.Dim("seq", min=1, max=64)


@pytest.mark.parametrize("size", [0, 65])
def test_a_call_outside_of_a_declared_range(size: int) -> None:
    fast = drystone.optimize(Sums().eval(), (torch.randn(2, 12, 8),) * 2, dynamic_shapes=({1: SEQ}, {1: SEQ}), tuning="estimate")
    for length in (1, 7, 64):
        x = torch.randn(2, length, 8)
        torch.testing.assert_close(fast(x, x), torch.relu(x).sum(1) + x.sum(1))
    x = torch.randn(2, size, 8)
    with pytest.raises(
        ShapeError, match=f"input 'x' has {size} along dimension 1, and dynamic_shapes declares it as seq from 1 to 64"
    ):
        fast(x, x)
    with pytest.raises(ShapeError, match="seq from 1 to 64"):
        fast.prepare(x, x)
    with pytest.raises(ShapeError, match="seq from 1 to 64"):
        copy.deepcopy(fast)(x, x)


@pytest.mark.parametrize(
    "dims, first, sizes, both",
    [
        (({1: SEQ}, {1: SEQ}), (12, 12), (7, 8), "both as seq"),
        ({"x": {1: SEQ}, "y": {1: SEQ}}, (12, 12), (7, 12), "both as seq"),
        (((None, SEQ, None), [None, SEQ, None]), (12, 12), (12, 7), "both as seq"),
        (({1: SEQ}, {1: 2 * SEQ}), (12, 24), (7, 13), "them as seq and 2*seq"),
        (({1: 2 * SEQ}, {1: SEQ + 1}), (24, 13), (14, 7), "them as 2*seq and seq + 1"),
    ],
)
def test_inputs_that_share_a_declared_dimension_agree(dims: Any, first: tuple[int, int], sizes: tuple[int, int], both: str) -> None:
    example, other = (tuple(torch.randn(2, size, 8) for size in pair) for pair in (first, sizes))
    fast = drystone.optimize(Sums().eval(), example, dynamic_shapes=dims, tuning="estimate")
    place = (
        f"'x' has {sizes[0]} along dimension 1 and input 'y' has {sizes[1]} along dimension 1, and dynamic_shapes declares {both}"
    )
    with pytest.raises(ShapeError, match=re.escape(place)):
        fast(*other)


def test_a_derived_dimension_alone_is_a_multiple() -> None:
    fast = drystone.optimize(nn.ReLU().eval(), torch.randn(2, 12), dynamic_shapes=({1: 4 * SEQ},), tuning="estimate")
    assert fast(torch.ones(2, 8)).sum() == 16
    with pytest.raises(ShapeError, match=r"'input' has 9 along dimension 1, and dynamic_shapes declares it as 4\*seq"):
        fast(torch.ones(2, 9))


class Declares(nn.Module):
    """``inner`` of a dict in a list, as libraries pass batches."""

    def forward(self, batch: list[dict[str, torch.Tensor]], *, scale: torch.Tensor) -> torch.Tensor:
        return torch.relu(batch[0]["inner"]) * scale


def test_declarations_inside_of_containers() -> None:
    call = {"batch": [{"inner": torch.randn(2, 12)}], "scale": torch.randn(12)}
    dims = {"batch": [{"inner": {1: SEQ}}], "scale": {0: SEQ}}
    fast = drystone.optimize(Declares().eval(), example_kwargs=call, dynamic_shapes=dims, tuning="estimate")
    x, scale = torch.randn(2, 7), torch.randn(7)
    assert torch.equal(fast(batch=[{"inner": x}], scale=scale), torch.relu(x) * scale)
    with pytest.raises(ShapeError, match=r"inner.* has 7 along dimension 1 and input 'scale' has 1 along dimension 0.*both as seq"):
        fast(batch=[{"inner": x}], scale=torch.randn(1))
    with pytest.raises(ShapeError, match=r"input \"batch\[0\]\['inner'\]\" has 65 along.*seq from 1 to 64"):
        call = {"batch": [{"inner": torch.randn(2, 65)}], "scale": torch.randn(65)}
        drystone.optimize(Declares().eval(), example_kwargs=call, dynamic_shapes=dims, tuning="estimate")


class Heads(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).reshape(x.shape[0], -1, 4, 8)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(40, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) + self.positions[: x.shape[1]]


@pytest.mark.parametrize(
    "model, dims, fault, mend",
    [
        (Heads(), ({1: SEQ},), r"seq = x\.shape\[1\]", r"_seq = Dim\('_seq', (min=1, )?max=16\)\n +seq = 4\*_seq"),
        (Table(), ({1: SEQ},), r"seq = x\.shape\[1\]", r"seq = Dim\('seq', max=40\)"),
        (Table(), ({2: SEQ},), "a constant", "seq = 8"),
        (Table(), {"z": {1: SEQ}}, r"\['x'\]", ""),
        (Table(), (None, None), "1 elements", ""),
    ],
)
def test_what_torch_says_of_a_wrong_declaration_reaches_the_user(model: nn.Module, dims: Any, fault: str, mend: str) -> None:
    with pytest.raises(
        drystone.CaptureError, match=f"(?s)does not fit {type(model).__name__}: .*{fault}.*{mend}.*Without dynamic_shapes"
    ):
        drystone.optimize(model.eval(), torch.randn(2, 12, 8), dynamic_shapes=dims, tuning="estimate")


@pytest.mark.parametrize("dims, fault", [(7, "got 7"), (({4: SEQ},), "'x' has 3 dimensions, and no dimension 4")])
def test_declarations_of_another_kind(dims: Any, fault: str) -> None:
    with pytest.raises(drystone.InputError, match=fault):
        drystone.optimize(Table().eval(), torch.randn(2, 12, 8), dynamic_shapes=dims, tuning="estimate")


class Rows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).reshape(-1, 12, 8)


@pytest.mark.parametrize("model, line", [(Rows(), r"reshape\(-1, 12, 8\)"), (Table(), r"self\.positions\[: x\.shape\[1\]\]")])
def test_what_the_model_fixes_is_named_with_its_line(model: nn.Module, line: str) -> None:
    fast = drystone.optimize(model.eval(), torch.randn(2, 12, 8), tuning="estimate")
    fast(torch.randn(3, 12, 8))  # the second capture: it lets vary the batch, and fixes the rest
    with pytest.raises(ShapeError) as said:
        fast(torch.randn(3, 41, 8))
    assert re.search(rf"'x' has 41 instead of 12 along dimension 1. It fails at .*test_shapes\.py:\d+: .*{line}", str(said.value))
    assert "torch.where" not in str(said.value)
