"""torch.compile(model, backend="drystone"): the graphs that Dynamo finds, with and without what stands in their way."""

from __future__ import annotations

import copy
import gc
import importlib.metadata
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import drystone
from agreement import Reference, assert_close
from drystone import native
from drystone.compile_backend import drystone as backend
from drystone.errors import DrystoneWarning, UnsupportedError
from drystone.plan.implementations.base import WeightStore
from drystone.runtime.module import STEP_BYTES
from drystone.sources.compiled_graph import MAX_CHANGES, CompiledGraph
from stateful_models import PROGRAMS


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.fixture
def graphs() -> list[CompiledGraph]:
    """The graphs that ``compiled`` has compiled."""
    return []


@pytest.fixture
def compiled(graphs: list[CompiledGraph]) -> Callable[..., Any]:
    def compiled(model: Any, options: dict[str, Any] | None = None, **how: Any) -> Any:
        def noted(graph: Any, inputs: Any) -> Any:
            run = backend(graph, inputs, options={"tuning": "estimate", **(options or {})})
            graphs.append(run.__self__)
            return run

        return torch.compile(model, backend=noted, **how)

    return compiled


def implementations(graph: CompiledGraph) -> list[list[tuple[str, str]]]:
    return [[(step.op, step.implementation) for step in explanation.steps] for explanation in graph.explain()]


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Linear(16, 5)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.first(x)))
        y = torch.relu_(self.second(y) + y)
        return self.last(y.mean((2, 3)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 4)).eval()


def test_conv_net_gets_the_program_that_optimize_makes(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model, x = ConvNet().eval(), torch.randn(2, 3, 12, 12)
    fast = compiled(model)
    result = fast(x)
    Reference(model, (x,)).check_float32(result)
    assert torch.equal(fast(x), result), "the same bits at each call"
    direct = drystone.optimize(model, x, tuning="estimate")
    assert torch.equal(direct(x), result)
    assert implementations(graphs[0]) == [[(s.op, s.implementation) for s in direct.explain().steps]]


def test_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch finds the backend by what the project declares; the name alone is enough."""
    declared = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    found = re.search(r'\[project\.entry-points\.torch_dynamo_backends\]\n(\w+) = "(.+)"\n', declared)
    assert found
    name, value = found.groups()
    point = importlib.metadata.EntryPoint(name, value, "torch_dynamo_backends")
    assert point.load() is backend
    registry = importlib.import_module("torch._dynamo.backends.registry")
    registry._lazy_import()
    monkeypatch.setitem(registry._BACKENDS, name, point)
    monkeypatch.delitem(registry._COMPILER_FNS, name, raising=False)
    model, x = mlp(), torch.randn(3, 12)
    try:
        result = torch.compile(model, backend="drystone", options={"tuning": "estimate"})(x)
    finally:
        registry._COMPILER_FNS.pop(name, None)
    Reference(model, (x,)).check_float32(result)


class Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x))
        torch._dynamo.graph_break()
        return self.second(y)


def test_graph_break_gives_two_programs(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model, x = Breaks().eval(), torch.randn(3, 12)
    Reference(model, (x,)).check_float32(compiled(model)(x))
    assert [len(graph.explain()) for graph in graphs] == [1, 1]


def test_varying_sizes(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model = ConvNet().eval()
    fast = compiled(model, dynamic=True)
    for batch, side in ((2, 12), (5, 12), (3, 9), (2, 12)):
        x = torch.randn(batch, 3, side, side)
        Reference(model, (x,)).check_float32(fast(x))
    assert len(graphs) == 1 and len(graphs[0].explain()) == 3


@pytest.mark.skipif(native.isa() == "none", reason="nothing is packed below AVX2")
def test_weights_are_packed_once_for_all_sizes(compiled: Any, graphs: list[CompiledGraph]) -> None:
    def filled() -> set[int]:
        gc.collect()
        return {id(item) for item in gc.get_objects() if isinstance(item, WeightStore) and item.bytes}

    before = filled()
    fast = compiled(mlp(), dynamic=True)
    for batch in (2, 5, 3):
        fast(torch.randn(batch, 12))
    assert len(graphs[0].explain()) == 3
    assert len(filled() - before) == 1


def test_a_number_that_varies(compiled: Any, graphs: list[CompiledGraph]) -> None:
    class Pads(nn.Module):
        def forward(self, x: torch.Tensor, count: int) -> torch.Tensor:
            return nn.functional.pad(x, (0, count)).exp() * count

    model, x = Pads().eval(), torch.randn(3, 12)
    fast = compiled(model, dynamic=True)
    for count in (2, 5, 3):
        torch.testing.assert_close(fast(x, count), model(x, count))
    assert len(graphs[-1].explain()) >= 2


def test_programs_are_bounded(compiled: Any, graphs: list[CompiledGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_MEMORY", str(8 * STEP_BYTES))
    fast = compiled(nn.Sequential(nn.ReLU(), nn.Tanh()).eval(), dynamic=True)
    for size in range(2, 14):
        fast(torch.randn(size, 2))
    assert len(graphs[-1].explain()) == 8


def test_options(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model, x = ConvNet().eval(), torch.randn(2, 3, 12, 12)
    result = compiled(model, {"dtype": torch.bfloat16})(x)
    Reference(model, (x,)).check_bfloat16(result)
    assert result.dtype == torch.float32
    computes_bfloat16 = not {"avx512_bf16", "amx_bf16"}.isdisjoint(native.features())  # else float32 may be faster
    assert any(step.dtype == "bfloat16" for step in graphs[0].explain()[0].steps) or not computes_bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tunnig": "estimate"}, "unknown options 'tunnig'"),
        ({"tuning": "fast"}, "tuning: expected 'measure', 'estimate' or a positive number of seconds, got 'fast'"),
        ({"dtype": torch.float16}, "dtype: expected None, torch.float32, torch.bfloat16"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendCompilerFailed, match=message):
        torch.compile(mlp(), backend=backend, options=options)(torch.randn(3, 12))


def test_needed_gradients_run_eagerly_and_are_right(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model, x = mlp(), torch.randn(3, 12)
    fast = compiled(model)
    with torch.enable_grad():
        with pytest.warns(DrystoneWarning, match="needs gradients.*no_grad") as told:
            loss = fast(x).square().sum()
        loss.backward()
        got = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        model(x).square().sum().backward()
        fast(x)
    assert len(told) == 1
    assert all(torch.equal(ours, parameter.grad) for ours, parameter in zip(got, model.parameters(), strict=True))
    fast(x)
    assert [len(graph.explain()) for graph in graphs] == [0, 1], "without gradients it is prepared"


def test_no_gradients_where_none_flow(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model, x = mlp().requires_grad_(False), torch.randn(3, 12)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", DrystoneWarning)
        Reference(model, (x,)).check_float32(compiled(model)(x))
    with torch.inference_mode():
        Reference(model, (x,)).check_float32(compiled(model)(x))
    assert all(graph.explain() for graph in graphs)


def test_structured_results(compiled: Any) -> None:
    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            y = self.body(x)
            return {"y": y, "parts": [y.exp(), None, 3], "input": x}

    model, x = Gives().eval(), torch.randn(3, 12)
    got, want = compiled(model)(x), model(x)
    assert list(got) == ["y", "parts", "input"] and got["parts"][1:] == [None, 3] and got["input"] is x
    torch.testing.assert_close((got["y"], got["parts"][0]), (want["y"], want["parts"][0]))


class WithTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)
        self.register_buffer("table", torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.table


CHANGES: dict[str, Callable[[WithTable], Any]] = {
    "a parameter in place": lambda model: model.linear.weight.mul_(2),
    "a buffer in place": lambda model: model.table.add_(1),
    "a buffer replaced": lambda model: setattr(model, "table", torch.randn(4)),
    "a parameter's memory replaced": lambda model: setattr(model.linear.weight, "data", torch.randn(4, 12)),
    "a parameter replaced": lambda model: setattr(model.linear, "weight", nn.Parameter(torch.randn(4, 12))),
    "other weights loaded": lambda model: model.load_state_dict(WithTable().state_dict()),
}


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_weights_are_packed_again(compiled: Any, graphs: list[CompiledGraph], change: Callable[[WithTable], Any]) -> None:
    model, x = WithTable().eval(), torch.randn(3, 12)
    fast = compiled(model)
    change(model)  # between compiling and the first call
    Reference(model, (x,)).check_float32(fast(x))
    change(model)
    Reference(model, (x,)).check_float32(fast(x))
    assert graphs[-1].explain()


def test_weights_that_change_at_each_call(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model, x = WithTable().eval(), torch.randn(3, 12)
    fast = compiled(model)
    with pytest.warns(DrystoneWarning, match="change from call to call"):
        for _ in range(MAX_CHANGES + 2):
            torch.testing.assert_close(fast(x), model(x))
            model.table.add_(1)
    assert not graphs[0].explain()
    torch.testing.assert_close(fast(x), model(x))


def test_equal_blocks_share_a_graph_and_keep_their_weights(compiled: Any, graphs: list[CompiledGraph]) -> None:
    blocks, x = [WithTable().eval() for _ in range(3)], torch.randn(3, 12)
    fast = [compiled(block) for block in blocks]
    for _ in range(2):
        for block, ours in zip(blocks, fast, strict=True):
            Reference(block, (x,)).check_float32(ours(x))
    assert sum(len(graph.explain()) for graph in graphs) == 3


class CountsCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count


def test_what_a_graph_changes_is_changed(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model, x = CountsCalls().eval(), torch.ones(3)
    fast = compiled(model)
    assert fast(x).tolist() == [1, 1, 1]
    assert fast(x).tolist() == [2, 2, 2] and model.count == 2
    assert graphs[0].explain() and len(graphs) == 1


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_batch_norm_in_training_mode_moves_its_statistics(compiled: Any) -> None:
    normalise, x = nn.BatchNorm1d(3).train(), torch.randn(4, 3) + 1
    eager = copy.deepcopy(normalise)
    fast = compiled(normalise)
    for _ in range(3):
        torch.testing.assert_close(fast(x), eager(x))
        torch.testing.assert_close(normalise.state_dict(), eager.state_dict())


@pytest.mark.filterwarnings("ignore:weights have changed", "ignore:.*operators run on ATen")
@pytest.mark.parametrize("kind", PROGRAMS)
def test_state_goes_on_from_call_to_call(kind: str, compiled: Any, graphs: list[CompiledGraph]) -> None:
    torch.manual_seed(0)
    model = PROGRAMS[kind]().eval()
    eager = copy.deepcopy(model)
    fast = compiled(model)
    for call in range(8):
        if call == 6:
            model.reset()
            eager.reset()
        x = torch.randn(2, 4)
        assert_close(fast(x), eager(x))
        assert_close(model.state_dict(), eager.state_dict())
    assert all(graph.explain() for graph in graphs)  # none runs eagerly


@pytest.mark.filterwarnings("ignore:.*operators run on ATen")
def test_an_input_is_written_to(compiled: Any, graphs: list[CompiledGraph]) -> None:
    layer = nn.Linear(4, 4)

    def write(x: torch.Tensor, cache: torch.Tensor, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cache.index_copy_(1, at, layer(x)[:, None])
        return cache.sum(1), cache

    fast, caches = compiled(write), [torch.zeros(2, 5, 4) for _ in range(2)]
    for call in range(3):
        x, at = torch.randn(2, 4), torch.tensor([call])
        ours, want = fast(x, caches[0], at), write(x, caches[1], at)
        assert_close((ours, caches[0]), (want, caches[1]))
        assert ours[1] is caches[0]
    shared = torch.randn(2, 5, 4)
    pair = [shared, shared.clone()]
    for function, tensor in zip((fast, write), pair, strict=True):
        function(tensor[:, 0], tensor, torch.tensor([1]))  # x lies in the cache: the graph runs eagerly
    assert_close(*pair)
    assert len(graphs[0].explain()) == 1


def test_results_that_share_memory(compiled: Any) -> None:
    def views(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[1:], x.exp()

    x = torch.zeros(3)
    with pytest.warns(DrystoneWarning, match="view of an input"):
        view, _ = compiled(views)(x)
    view.add_(1)
    assert x.tolist() == [0, 1, 1]


def test_autocast_around_the_call(compiled: Any, graphs: list[CompiledGraph]) -> None:
    model, x = ConvNet().eval(), torch.randn(2, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        result, want = compiled(model)(x), model(x)
    assert result.dtype == want.dtype == torch.bfloat16
    Reference(model, (x,)).check_bfloat16(result.float())
    assert graphs[0].explain()


def test_what_cannot_be_captured(compiled: Any) -> None:
    def unknown(x: torch.Tensor) -> torch.Tensor:
        return (x.to(torch.complex128) + 1).real.float()

    x = torch.ones(3)
    with pytest.warns(DrystoneWarning, match="runs eagerly: .*too wide"):
        assert compiled(unknown)(x).tolist() == [2, 2, 2]
    torch._dynamo.reset()
    with pytest.raises(UnsupportedError, match="too wide"):
        compiled(unknown, {"strict": True})(x)


def test_control_flow_on_data(compiled: Any) -> None:
    def decides(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    fast = compiled(decides)
    assert fast(torch.ones(3)).tolist() == [2, 2, 2] and fast(-torch.ones(3)).tolist() == [-2, -2, -2]


def test_strict(compiled: Any) -> None:
    with pytest.raises(UnsupportedError, match="no native implementation"):
        compiled(lambda x: torch.linalg.inv(x), {"strict": True})(torch.eye(3))
    with torch.enable_grad(), pytest.raises(UnsupportedError, match="needs gradients"):
        compiled(mlp(), {"strict": True})(torch.randn(3, 12))


def test_the_process_ends_quietly() -> None:
    """Nothing of the native side outlives it, though torch keeps backends and graphs."""
    code = (
        "import torch\n"
        "from drystone.compile_backend import drystone\n"
        "torch._dynamo.register_backend(drystone)\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU()).eval().requires_grad_(False)\n"
        "fast = torch.compile(model, backend='drystone', options={'tuning': 'estimate'})\n"
        "print(*fast(torch.ones(1, 3, 8, 8)).shape)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert ended.stdout == "1 16 6 6\n" and "leaked" not in ended.stderr


def test_the_model_is_left_as_it_is(compiled: Any) -> None:
    model, x = ConvNet().eval(), torch.randn(2, 3, 12, 12)
    before = {name: (tensor.data_ptr(), tensor._version, tensor.clone()) for name, tensor in model.state_dict().items()}
    compiled(model)(x)
    after = model.state_dict()
    assert list(after) == list(before)
    for name, (pointer, version, values) in before.items():
        assert (after[name].data_ptr(), after[name]._version) == (pointer, version) and torch.equal(after[name], values)
    assert not any(module.training for module in model.modules())
