"""The user's own module with a fast forward: what it was it stays, and what no program is for runs as it did."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
import warnings
from collections.abc import Iterator
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from drystone import DrystoneWarning, InputError
from drystone.capture.signature import form_of
from drystone.inplace.state import InPlace
from drystone.preparer import programs_of
from drystone.runtime.module import MAX_OTHERS
from drystone.sources.whole import MAX_SINGLES

X = torch.randn(4, 8)


class Encoder(nn.Module):
    """``encode`` and ``tokens`` are what a library's methods are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.act = nn.ReLU()
        self.last = nn.Linear(16, 4)
        self.scale = 1.0

    def forward(self, x: torch.Tensor, shift: torch.Tensor | None = None, twice: bool = False) -> torch.Tensor:
        y = self.last(self.act(self.first(x))) * self.scale
        y = y if shift is None else y + shift
        return y * 2 if twice else y

    def encode(self, rows: list[list[float]]) -> list[list[float]]:
        with torch.no_grad():
            return self(torch.tensor(rows)).tolist()

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + 1


class Pair(nn.Module):
    """Nobody calls it: a method calls what is inside, as CLIP's do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.left, self.right = nn.LayerNorm(8), Encoder(), Encoder()

    @torch.no_grad()
    def match(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.left(x) @ self.right(x).T


class Counting(Encoder):
    """Decides on a number, and keeps a count: it can't be captured whole."""

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        y = self.act(self.first(x))
        if y.sum() > 1e9:
            return y
        return self.last(y) + self.count

    def reset(self) -> None:
        self.count = torch.zeros(())


def state_of(module: nn.Module) -> InPlace:
    state = vars(module)["_drystone"]
    assert isinstance(state, InPlace)
    return state


def optimize_(model: Any, *inputs: Any, **options: Any) -> Any:
    return drystone.optimize_(model, inputs or None, tuning="estimate", **options)


@pytest.fixture(params=["at the first call", "for an example"])
def pair(request: pytest.FixtureRequest) -> tuple[Encoder, Any]:
    model = Encoder().eval()
    made = copy.deepcopy(model)
    fast = optimize_(made, X) if request.param == "for an example" else optimize_(made)
    assert fast is made
    return model, fast


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


def runs_program(module: nn.Module, *args: Any, **kwargs: Any) -> bool:
    """Whether such a call calls no layer."""
    calls: list[int] = []
    first = next(inner for inner in module.modules() if isinstance(inner, nn.Linear))
    own = first.forward
    vars(first)["forward"] = lambda *given: (calls.append(1), own(*given))[1]
    try:
        module(*args, **kwargs)
    finally:
        del vars(first)["forward"]
    return not calls


def test_calls_and_methods_run_the_program(pair: tuple[Encoder, Any]) -> None:
    model, fast = pair
    torch.testing.assert_close(fast(X), model(X))
    torch.testing.assert_close(torch.tensor(fast.encode(X.tolist())), model(X))
    torch.testing.assert_close(fast(X[:3]), model(X[:3]))
    assert torch.equal(fast.tokens(X), model.tokens(X))
    assert runs_program(fast, X) and not runs_program(model, X)
    assert list(drystone.explain(fast).modules) == [""] and not drystone.explain(model).modules
    assert len(state_of(fast).fast) == 1


def test_all_but_forward_is_the_modules_own(pair: tuple[Encoder, Any]) -> None:
    model, fast = pair
    fast(X)
    assert type(fast) is Encoder
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in model.named_modules()]
    assert inspect.signature(fast.forward) == inspect.signature(model.forward)
    assert inspect.getfullargspec(fast.forward).args == inspect.getfullargspec(model.forward).args
    assert fast.forward.__doc__ == model.forward.__doc__
    seen: list[Any] = []
    with fast.register_forward_hook(lambda module, args, output: seen.append(module)):
        assert runs_program(fast, X)
    assert seen == [fast]


def test_restored_as_it_was() -> None:
    for model in (Encoder().eval(), Counting().eval()):
        before = [dict(vars(module)) for module in model.modules()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DrystoneWarning)
            optimize_(model)(X)
        changed = {key for module in model.modules() for key in vars(module).keys() - before[0].keys()}
        assert {"_drystone", "forward"} <= changed
        assert drystone.restore(model) is model
        assert [dict(vars(module)) for module in model.modules()] == before
        drystone.restore(model)


def test_a_forward_of_the_instance_is_put_back() -> None:
    model = Encoder().eval()
    own = model.forward
    replaced = lambda x: own(x) + 1  # noqa: E731
    model.forward = replaced  # type: ignore[method-assign]
    want = model(X)
    torch.testing.assert_close(optimize_(model)(X), want)
    assert state_of(model).fast
    drystone.restore(model)
    assert model.forward is replaced


def test_optimising_again_takes_the_model_as_it_is(pair: tuple[Encoder, Any]) -> None:
    _, fast = pair
    fast(X)
    nn.init.zeros_(fast.last.weight)
    fast.last.bias.data.fill_(2)
    assert torch.equal(optimize_(fast, X)(X), torch.full((4, 4), 2.0))
    drystone.restore(fast)
    assert "forward" not in vars(fast)


def test_what_training_needs_is_the_original(pair: tuple[Encoder, Any]) -> None:
    _, fast = pair
    fast(X)
    assert not runs_program(fast.train(), X)
    assert runs_program(fast.eval(), X)
    with torch.enable_grad():
        with pytest.warns(DrystoneWarning, match="carries a gradient.*no_grad"):
            assert fast(X).requires_grad
        fast(X).sum().backward()
        assert fast.first.weight.grad is not None
        fast.requires_grad_(False)
        assert not fast(X).requires_grad and runs_program(fast, X)
        assert fast(X.clone().requires_grad_()).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.warns(DrystoneWarning, match=r"under autocast.*dtype=torch\.bfloat16"):
        assert fast(X).dtype is torch.bfloat16
    fast.last.train()
    assert not runs_program(fast, X)


def test_hooks_and_traces_see_the_original(pair: tuple[Encoder, Any]) -> None:
    model, fast = pair
    fast(X)
    seen = []
    with fast.act.register_forward_hook(lambda module, args, output: seen.append(output)):
        fast(X)
    assert len(seen) == 1 and runs_program(fast, X)
    with nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module)):
        fast(X)
    assert seen[1:] == [fast.first, fast.act, fast.last, fast]
    assert "aten::addmm" in str(torch.jit.trace(fast, X).inlined_graph) or "aten::linear" in str(
        torch.jit.trace(fast, X).inlined_graph
    )
    torch.testing.assert_close(torch.func.vmap(fast)(X), model(X))


def test_copies_prepare_themselves_and_pickles_are_plain(pair: tuple[Encoder, Any]) -> None:
    model, fast = pair
    fast(X)
    copied = copy.deepcopy(fast)
    copied.last.bias.data += 1
    torch.testing.assert_close(copied(X), model(X) + 1)
    assert state_of(copied).fast and state_of(copied).fast[0] is not state_of(fast).fast[0]
    data = pickle.dumps(fast)
    assert b"drystone" not in data.replace(b"_drystone", b"")
    loaded = pickle.loads(data)
    assert torch.equal(loaded(X), model(X)) and not runs_program(loaded, X)
    torch.testing.assert_close(optimize_(loaded)(X), model(X))
    assert runs_program(loaded, X)
    drystone.restore(loaded)
    assert vars(loaded).keys() == vars(model).keys()


def test_modules_that_methods_call_prepare_themselves() -> None:
    model, fast = Pair().eval(), optimize_(Pair().eval())
    fast.load_state_dict(model.state_dict())
    assert model.match(X).allclose(fast.match(X), atol=1e-5)
    assert list(drystone.explain(fast).modules) == ["left", "right"], "those that match calls, but for the single layer"
    assert "_drystone" not in vars(fast.left.first), "and nothing inside them"
    assert runs_program(fast.left, X) and runs_program(fast.right, X)
    drystone.restore(fast)
    assert not any("_drystone" in vars(module) or "forward" in vars(module) for module in fast.modules())


def test_a_call_of_the_model_leaves_the_modules_inside_alone() -> None:
    fast = optimize_(Encoder().eval())
    fast.train()(X)
    assert "_drystone" not in vars(fast.first)


def test_of_many_modules_inside_some_are_prepared() -> None:
    """Each takes seconds, and a library may call a hundred."""
    fast = optimize_(nn.ModuleList(Encoder() for _ in range(MAX_OTHERS + 3)).eval())
    with torch.no_grad():
        for _ in range(2):
            for encoder in fast:
                encoder(X)
    prepared = [encoder for encoder in fast if "_drystone" in vars(encoder)]
    assert prepared == list(fast)[: MAX_OTHERS + 1] and all(state_of(encoder).fast for encoder in prepared)


def test_restore_leaves_a_forward_that_was_set_since() -> None:
    fast = optimize_(Encoder().eval())
    fast.first.forward = other = MethodType(nn.Linear.forward, fast.first)  # as libraries do that fuse layers
    drystone.restore(fast)
    assert fast.first.forward is other


def test_another_way_of_calling_has_a_program_of_its_own(pair: tuple[Encoder, Any]) -> None:
    model, fast = pair
    shift = torch.randn(4)
    for args, kwargs in (((X,), {}), ((X, shift), {}), ((X,), {"twice": True}), ((X,), {"x": X})):
        if "x" in kwargs:
            args = ()
        torch.testing.assert_close(fast(*args, **kwargs), model(*args, **kwargs))
        assert runs_program(fast, *args, **kwargs)
    assert len(state_of(fast).fast) == 3, "by position or by name is one way"
    assert runs_program(fast, X, None, False) and runs_program(fast, shift=shift, x=X)
    assert len(state_of(fast).fast) == 3, "defaults are one way too"
    stores = {id(programs_of(program).preparer.weights) for program in state_of(fast).fast}
    assert len(stores) == 1, "weights are packed once"


def test_other_sizes_have_programs_as_with_optimize(pair: tuple[Encoder, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_MEMORY", "300K")
    model, fast = pair
    fast(torch.randn(3, 4, 8))
    captures, capture = [], drystone.sources.whole.capture_module
    monkeypatch.setattr("drystone.sources.whole.capture_module", lambda *args: captures.append(args) or capture(*args))
    for shape in ((3, 5, 8), (3, 6, 8), (3, 7, 8), (2, 9, 8), (3, 5, 8), *((2, length, 8) for length in range(10, 30))):
        x = torch.randn(shape)
        torch.testing.assert_close(fast(x), model(x))
        assert runs_program(fast, x)
    assert len(captures) <= 2
    assert len(state_of(fast).fast) == (2 if state_of(fast).fast[0]._shapes[0] == X.shape else 1), "one a number of dimensions"
    programs = programs_of(state_of(fast).kinds[form_of((x,), {})])
    assert 1 < len(programs) < 20 and sum(entry.bytes for _, entry in programs.items()) <= 300 << 10


class Fixed(nn.Module):
    """Its length is in the code of each call: no program takes two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * int(str(x.shape[0] + x.shape[1]))


def test_a_declared_range_is_a_bound_in_place_too() -> None:
    model, dims = Encoder().eval(), {"x": {0: torch.export.Dim("rows", min=2, max=6)}}
    fast = optimize_(copy.deepcopy(model), X, dynamic_shapes=dims)
    assert runs_program(fast, torch.randn(6, 8))
    with pytest.warns(DrystoneWarning, match="'x' has 7 along dimension 0, and dynamic_shapes declares it as rows from 2 to 6"):
        assert not runs_program(fast, torch.randn(7, 8))
    strict = optimize_(copy.deepcopy(model), X, dynamic_shapes=dims, strict=True)
    with pytest.raises(drystone.ShapeError, match="rows from 2 to 6"):
        strict(torch.randn(7, 8))


def test_the_captures_for_single_sizes_are_bounded() -> None:
    model = Fixed().eval()
    fast = optimize_(copy.deepcopy(model))
    with pytest.warns(DrystoneWarning, match=f"'x' has .*{MAX_SINGLES} other sizes") as said:
        for size in range(2, MAX_SINGLES + 6):
            x = torch.randn(size, size + 1, 8)
            torch.testing.assert_close(fast(x), model(x))
    assert len(said) == 1
    assert len(programs_of(state_of(fast).fast[0])) == 1 + MAX_SINGLES
    assert runs_program(fast, torch.randn(2, 3, 8)) and not runs_program(fast, torch.randn(MAX_SINGLES + 9, 5, 8))


def test_the_captures_for_forms_of_calls_are_bounded() -> None:
    class Times(nn.Module):
        def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
            return x * times

    fast = optimize_(Times().eval())
    with pytest.warns(DrystoneWarning, match=f"{MAX_OTHERS} more") as said:
        for times in range(MAX_OTHERS + 4):
            assert torch.equal(fast(X, times), X * times)
    assert len(said) == 1 and len(state_of(fast).fast) == 1 + MAX_OTHERS


def test_errors_of_the_module_are_its_own(pair: tuple[Encoder, Any]) -> None:
    model, fast = pair
    left = state_of(fast).captures
    with pytest.raises(RuntimeError, match=r"cannot be multiplied|shapes"):
        fast(torch.randn(4, 7))
    with pytest.raises(TypeError, match="unexpected keyword"):
        fast(X, nothing=1)
    torch.testing.assert_close(fast(X), model(X))
    assert state_of(fast).captures == max(left, 1) and not state_of(fast).refused


def test_an_example_that_can_not_be_prepared_leaves_the_model_alone() -> None:
    model = Encoder()
    for inputs, error in (((X,), drystone.CaptureError), ((X.to("meta"),), InputError)):
        with pytest.raises(error):
            optimize_(model, *inputs)
        assert "forward" not in vars(model) and "_drystone" not in vars(model)
    with pytest.raises(InputError, match="tuning"):
        drystone.optimize_(model, tuning="guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="take the model itself"):
        drystone.optimize_(drystone.optimize(nn.Linear(8, 4).eval(), X, tuning="estimate"))


def test_weights_that_settle_are_taken_over(pair: tuple[Encoder, Any]) -> None:
    model, fast = pair
    fast(X)
    for step in range(3):
        for module in (model, fast):
            module.last.bias.add_(step + 1.0)
        torch.testing.assert_close(fast(X), model(X))
    fast.load_state_dict(model.state_dict())
    assert not runs_program(fast, X), "the next call may find others"
    fast(X)
    assert runs_program(fast, X)
    torch.testing.assert_close(fast(X), model(X))
    fast.double(), model.double()
    torch.testing.assert_close(fast(X.double()), model(X.double()))


def test_attributes_that_are_set_count(pair: tuple[Encoder, Any]) -> None:
    model, fast = pair
    fast(X)
    for change in (
        lambda module: setattr(module, "scale", 3.0),
        lambda module: setattr(module.act, "inplace", True),
        lambda module: setattr(module, "act", nn.Tanh()),
    ):
        change(model), change(fast)
        torch.testing.assert_close(fast(X), model(X))
        assert runs_program(fast, X)


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_parts_run_where_the_whole_is_not_captured() -> None:
    model = Counting().eval()
    fast = optimize_(copy.deepcopy(model))
    for _ in range(3):
        torch.testing.assert_close(fast(X), model(X))
    assert fast.count == 3, "state is kept in the module itself, but for that of trials"
    fast.reset(), model.reset()
    torch.testing.assert_close(fast(X), model(X))
    assert state_of(fast).parts and state_of(fast.first).fast
    assert list(drystone.explain(fast).modules)[:2] == ["", "first"] and "Linear" in str(drystone.explain(fast))
    torch.testing.assert_close(fast(torch.randn(2, 3, 8).fill_(1)), model(torch.ones(2, 3, 8)))
    for rows in (6, 7):
        torch.testing.assert_close(fast(torch.ones(rows, 8)), model(torch.ones(rows, 8)))
    assert len(programs_of(state_of(fast.first).kinds[form_of((X,), {})])) == 3, "parts have programs for other sizes too"
    copied = copy.deepcopy(fast)
    torch.testing.assert_close(copied(X), model(X))
    drystone.restore(fast)
    assert all("forward" not in vars(module) for module in fast.modules())


class Tagger(nn.Module):
    """Its recurrent layer takes packed sequences, which are not captured."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head(out)


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_recurrent_parts_take_any_sequence() -> None:
    model = Tagger().eval()
    fast = optimize_(copy.deepcopy(model))
    for batch, length in ((2, 5), (3, 7)):
        x, lengths = torch.randn(batch, length, 8), torch.arange(length, length - batch, -1)
        torch.testing.assert_close(fast(x, lengths), model(x, lengths))
    if drystone.native.isa() != "none":
        assert state_of(fast.lstm).layers
    for module in (model, fast):
        module.lstm.weight_hh_l0.mul_(2)
    for _ in range(3):
        torch.testing.assert_close(fast(x, lengths), model(x, lengths))


def test_a_block_records_what_is_called() -> None:
    class Pipeline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.other = Encoder(), Encoder()

        def embed(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(x).mean(0)

    model = Pipeline().eval()
    want = model.embed(X)
    with drystone.optimizing(model, tuning="estimate") as given:
        assert given is model
        model.embed(X), model.embed(X[:1]), model.embed(X[None])
    assert [name for name, module in model.named_modules() if "_drystone" in vars(module)] == ["encoder"]
    assert len(state_of(model.encoder).fast) == 2
    torch.testing.assert_close(model.embed(X), want)
    assert runs_program(model.encoder, X) and runs_program(model.encoder, X[None])
    drystone.restore(model)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_block_that_fails_or_calls_nothing_leaves_the_model_alone() -> None:
    model = Encoder().eval()
    with pytest.raises(KeyError), drystone.optimizing(model):
        model(X)
        raise KeyError
    with pytest.raises(InputError, match="has called neither the Encoder nor"), drystone.optimizing(model):
        pass
    assert all("forward" not in vars(module) and "_drystone" not in vars(module) for module in model.modules())


def test_options_reach_the_programs() -> None:
    model = Encoder().eval()
    fast = optimize_(copy.deepcopy(model), dtype=torch.bfloat16, keep_fp32="first")
    assert fast(X).dtype is torch.float32
    torch.testing.assert_close(fast(X), model(X), rtol=3e-2, atol=3e-2)
    strict = optimize_(Counting().eval(), strict=True)
    with pytest.raises(drystone.DrystoneError):
        strict(X)


@pytest.mark.parametrize("example", [(), (X,)], ids=["at the first call", "for an example"])
def test_torchscript_in_place(example: tuple[torch.Tensor, ...]) -> None:
    model = Encoder().eval()
    traced = torch.jit.trace(model, X)
    with pytest.raises(InputError, match="freeze"):
        optimize_(traced)
    for script in (torch.jit.script(model), torch.jit.freeze(traced)):
        kind = type(script)
        assert optimize_(script, *example) is script
        torch.testing.assert_close(script(X), model(X))
        assert isinstance(script, torch.jit.RecursiveScriptModule) and vars(script)["_drystone"].fast is not None
        optimize_(script, *example)
        drystone.restore(script)
        assert type(script) is kind and "_drystone" not in vars(script)
        torch.testing.assert_close(script(X), model(X))


def test_calls_from_several_threads() -> None:
    model = Encoder().eval()
    fast = optimize_(copy.deepcopy(model))
    want, got = model(X), []

    def work() -> None:
        with torch.no_grad():
            got.append(fast(X))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4 and all(torch.allclose(y, want, atol=1e-6) for y in got)
    assert len(state_of(fast).fast) == 1
