"""LSTM, GRU and RNN where the model's Python runs: packed sequences and tensors of any length, in parts and with capture="eager"."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import drystone
from agreement import Reference, leaves
from drystone import InputError, WeightsChangedError, native
from drystone.options import Options
from drystone.preparer import Preparer
from drystone.runtime.module import Example
from drystone.runtime.parts import PartedModule
from drystone.runtime.recurrent import RecurrentForward, is_recurrent
from drystone.sources.whole import optimize_whole

pytestmark = [
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
    pytest.mark.usefixtures("no_tuning_cache"),
    pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

INPUTS, HIDDEN = 13, 20
KINDS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"proj_size": 9}),
    (nn.GRU, {}),
    (nn.RNN, {}),
    (nn.RNN, {"nonlinearity": "relu"}),
]
of_every_kind = pytest.mark.parametrize(("kind", "more"), KINDS, ids=["lstm", "lstm-projected", "gru", "rnn-tanh", "rnn-relu"])
LENGTHS = [[4, 6, 2], [1], [5, 5], [6, 6, 5, 1, 1, 1, 3, 2, 7, 8, 3, 4, 2]]
PREPARED: list[dict[str, Any]] = [{}, {"capture": "eager"}]


def layer(kind: type[nn.RNNBase], *sizes: int, **more: Any) -> Any:
    torch.manual_seed(0)
    return kind(*(sizes or (INPUTS, HIDDEN)), **more).eval().requires_grad_(False)


def packed_forward(own: Any, dtype: torch.dtype | None = None) -> RecurrentForward:
    return RecurrentForward(own, Preparer(), dtype)


class Packing(nn.Module):
    """A layer between pack and pad; the lengths are tensors of the call."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: torch.Tensor, lengths: torch.Tensor, *states: torch.Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths, self.own.batch_first, enforce_sorted=False)
        y, last = self.own(packed, states if len(states) == 2 else states[0]) if states else self.own(packed)
        return pad_packed_sequence(y, self.own.batch_first)[0], last


class Replaced(Packing):
    """The same, with the layer's stand-in called in its place; it must take what it is given."""

    def __init__(self, own: Any, dtype: torch.dtype | None = None) -> None:
        super().__init__(own)
        self.replacement = packed_forward(own, dtype)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor, *states: torch.Tensor) -> Any:
        self.own.forward = self.replacement.around(_never)
        return super().forward(x, lengths, *states)


def _never(*_: Any) -> None:
    raise AssertionError("the module itself was called")


def inputs_of(own: Any, lengths: list[int], states: bool = True) -> tuple[torch.Tensor, ...]:
    batch, longest = len(lengths), max(lengths)
    x = torch.randn((batch, longest, own.input_size) if own.batch_first else (longest, batch, own.input_size))
    rows = own.num_layers * (1 + own.bidirectional)
    widths = [own.proj_size or own.hidden_size, own.hidden_size][: 1 + isinstance(own, nn.LSTM)] if states else []
    return (x, torch.tensor(lengths), *(torch.randn(rows, batch, width) for width in widths))


def check(own: Any, inputs: tuple[torch.Tensor, ...], dtype: torch.dtype | None = None) -> Any:
    expected = Reference(Packing(own), inputs)
    with torch.no_grad():
        result = Replaced(copy.deepcopy(own), dtype)(*inputs)
    (expected.check_float32 if dtype is None else expected.check_bfloat16)(result)
    return result


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
@pytest.mark.parametrize("num_layers", [1, 3])
@of_every_kind
def test_packed_sequences(kind: Any, more: Any, num_layers: int, bidirectional: bool, lengths: list[int]) -> None:
    own = layer(kind, num_layers=num_layers, bidirectional=bidirectional, batch_first=bidirectional, **more)
    for states in (True, False):
        check(own, inputs_of(own, lengths, states))


@of_every_kind
def test_packed_sequences_in_bfloat16(kind: Any, more: Any) -> None:
    own = layer(kind, num_layers=2, bidirectional=True, **more)
    check(own, inputs_of(own, LENGTHS[-1]), torch.bfloat16)


@pytest.mark.parametrize("hidden", [1, 7, 8, 9, 15, 16, 17, 31, 33, 65])
@of_every_kind
def test_sizes_around_vectors(kind: Any, more: Any, hidden: int) -> None:
    own = layer(
        kind, INPUTS, hidden, bidirectional=True, **({"proj_size": hidden - 1} if more.get("proj_size", 0) and hidden > 1 else {})
    )
    check(own, inputs_of(own, [3, 5, 1, 5]))


@pytest.mark.parametrize("threads", [1, 2, 3])
@of_every_kind
def test_threads_share_steps_and_rows(kind: Any, more: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    own = layer(kind, 32, 150, num_layers=2, **more)
    inputs = inputs_of(own, [1 + i * 7 % 11 for i in range(40)])
    first = check(own, inputs)
    for a, b in zip(leaves(first), leaves(check(own, inputs)), strict=True):
        assert torch.equal(a, b)


@of_every_kind
def test_tensors_of_any_length_and_batch(kind: Any, more: Any) -> None:
    own = layer(kind, num_layers=2, bidirectional=True, batch_first=True, bias=False, **more)
    replacement = packed_forward(own)
    for shape in ((3, 6), (1, 2), (7, 1), (6,)):
        x = torch.randn(*shape, INPUTS)
        Reference(own, (x,)).check_float32(replacement.call(x, None))
    strided = torch.randn(6, 3, 2 * INPUTS)[:, :, ::2].transpose(0, 1)
    Reference(own, (strided,)).check_float32(replacement.call(strided, None))


def test_an_input_without_a_batch_has_states_without_one() -> None:
    own = layer(nn.LSTM)
    x, h, c = torch.randn(5, INPUTS), torch.randn(1, HIDDEN), torch.randn(1, HIDDEN)
    got, want = packed_forward(own).call(x, (h, c)), own(x, (h, c))
    for a, b in zip(leaves(got), leaves(want), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_module_that_is_bfloat16_itself(kind: Any) -> None:
    own = layer(kind, num_layers=2, bidirectional=True)
    low = copy.deepcopy(own).bfloat16()
    x, lengths = inputs_of(own, [4, 6, 2], states=False)
    packed = pack_padded_sequence(x.bfloat16(), lengths, enforce_sorted=False)
    got = packed_forward(low).call(packed, None)
    exact = copy.deepcopy(low).double()(packed.to(torch.float64))
    for a, b, eager in zip(leaves(got), leaves(exact), leaves(low(packed)), strict=True):
        assert a.dtype == eager.dtype and a.shape == b.shape
        assert (a.double() - b).norm() <= 1.5 * (eager.double() - b).norm()


@of_every_kind
def test_not_a_number_and_infinity(kind: Any, more: Any) -> None:
    own = layer(kind, bidirectional=True, **more)
    inputs = inputs_of(own, [4, 6, 2])
    inputs[0][1, 0, 3], inputs[0][3, 1, 4] = math.nan, math.inf
    with torch.no_grad():
        got = Replaced(copy.deepcopy(own))(*inputs)
    for a, b in zip(leaves(got), leaves(Packing(own)(*inputs)), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


BROKEN: dict[str, Callable[[], tuple[Any, ...]]] = {
    "rising": lambda: (PackedSequence(torch.randn(5, INPUTS), torch.tensor([2, 3])),),
    "more rows than there are": lambda: (PackedSequence(torch.randn(4, INPUTS), torch.tensor([3, 2])),),
    "a step without rows": lambda: (PackedSequence(torch.randn(3, INPUTS), torch.tensor([0, 3])),),
    "negative": lambda: (PackedSequence(torch.randn(3, INPUTS), torch.tensor([4, -1])),),
    "another width": lambda: (torch.randn(3, 2, INPUTS + 1),),
    "another dtype": lambda: (torch.randn(3, 2, INPUTS).double(),),
    "four axes": lambda: (torch.randn(3, 2, 2, INPUTS),),
    "a state of another batch": lambda: (torch.randn(3, 2, INPUTS), torch.randn(1, 3, HIDDEN)),
    "a state without batch": lambda: (torch.randn(3, 2, INPUTS), torch.randn(1, HIDDEN)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_wrong_raises_what_torch_raises(broken: str) -> None:
    own = layer(nn.GRU)
    inputs = BROKEN[broken]()
    with pytest.raises(Exception) as torchs:
        own(*inputs)
    with torch.no_grad(), pytest.raises(torchs.type) as ours:
        packed_forward(own).around(own.forward)(*inputs)
    assert str(ours.value) == str(torchs.value)


def test_rows_past_the_last_step_are_left_out_as_in_torch() -> None:
    own = layer(nn.GRU)
    packed = PackedSequence(torch.randn(7, INPUTS), torch.tensor([3, 2]))
    with torch.no_grad():
        got = packed_forward(own).around(own.forward)(packed)
    for a, b in zip(leaves(got), leaves(own(packed)), strict=True):
        assert torch.equal(a, b)


def test_modules_that_compute_something_else_are_left_alone() -> None:
    class Own(nn.LSTM):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x)[0]

    class Named(nn.LSTM):
        pass

    assert is_recurrent(layer(nn.LSTM)) and is_recurrent(layer(Named))
    assert not any(map(is_recurrent, (layer(Own), nn.LSTMCell(2, 2), nn.Linear(2, 2), layer(nn.LSTM).double())))
    normed = nn.utils.parametrizations.weight_norm(layer(nn.LSTM), "weight_hh_l0")
    assert not is_recurrent(normed)


class Tagger(nn.Module):
    """Embeds, runs through words of different lengths, labels each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, INPUTS)
        self.lstm = nn.LSTM(INPUTS, HIDDEN, 2, bidirectional=True, batch_first=True)
        self.gru, self.head = nn.GRU(2 * HIDDEN, HIDDEN), nn.Linear(HIDDEN, 5)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        self.lstm.flatten_parameters()
        packed = pack_padded_sequence(self.embed(words), lengths, batch_first=True, enforce_sorted=False)
        y, (h, _) = self.lstm(packed)
        y, _ = self.gru(y, h[:1])
        return self.head(pad_packed_sequence(y, batch_first=True)[0].relu())


def tagger() -> Tagger:
    torch.manual_seed(0)
    return Tagger().eval().requires_grad_(False)


def words(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 50, (len(lengths), max(lengths))), torch.tensor(lengths)


def runs(fast: Any) -> dict[str, str]:
    explanation = fast.explain()
    entries = explanation.parts if isinstance(fast, PartedModule) else explanation.layers
    return {entry.name: entry.runs for entry in entries}


@pytest.mark.parametrize("options", PREPARED, ids=str)
def test_within_a_model(options: dict[str, Any]) -> None:
    model = tagger()
    fast = drystone.optimize(model, words([4, 6, 2]), tuning="estimate", **options)
    for lengths in ([4, 6, 2], [1, 1], [9, 3, 3, 8, 5]):
        inputs = words(lengths)
        Reference(model, inputs).check_float32(fast(*inputs))
    assert {runs(fast)[name] for name in ("lstm", "gru")} <= {"drystone", "packed"}


def test_in_parts_in_bfloat16() -> None:
    model, inputs = tagger(), words([4, 6, 2])
    low = drystone.optimize(model, inputs, tuning="estimate", dtype=torch.bfloat16)
    Reference(model, inputs).check_bfloat16(low(*inputs))
    kept = drystone.optimize(model, inputs, tuning="estimate", dtype=torch.bfloat16, keep_fp32=[model.lstm, model.gru, model.head])
    Reference(model, inputs).check_float32(kept(*inputs))
    assert not torch.equal(low(*inputs), kept(*inputs))


@pytest.mark.parametrize("options", PREPARED, ids=str)
def test_changed_weights_are_noticed(options: dict[str, Any]) -> None:
    model, inputs = tagger(), words([4, 6, 2])
    fast = drystone.optimize(model, inputs, tuning="estimate", **options)
    with torch.no_grad():
        model.gru.weight_hh_l0.mul_(1.5)
    with pytest.raises(WeightsChangedError, match="weight_hh_l0"):
        fast(*inputs)
    fast.refresh()
    Reference(model, inputs).check_float32(fast(*inputs))


@pytest.mark.parametrize("options", PREPARED, ids=str)
def test_calls_from_several_threads(options: dict[str, Any]) -> None:
    model, cases = tagger(), [words(lengths) for lengths in ([4, 6, 2], [1, 3], [8, 8, 2, 5])]
    fast = drystone.optimize(model, cases[0], tuning="estimate", **options)
    want = [fast(*inputs) for inputs in cases]
    with ThreadPoolExecutor(4) as pool:
        for i, got in enumerate(pool.map(lambda i: fast(*cases[i % 3]), range(24))):
            assert torch.equal(got, want[i % 3])


def with_program(own: Any, x: torch.Tensor, preparer: Preparer) -> drystone.OptimizedModule:
    return optimize_whole(Example(own, (x,), {}), Options(tuning="estimate"), preparer)


@of_every_kind
def test_packed_weights_are_shared_with_programs(kind: Any, more: Any) -> None:
    own, x = layer(kind, num_layers=2, bidirectional=True, **more), torch.randn(5, 3, INPUTS)
    alone, both = Preparer(), Preparer()
    forwards = [RecurrentForward(own, preparer) for preparer in (alone, both)]
    program = with_program(own, x, both)
    of_program = both.weights.bytes
    for forward in forwards:
        forward.call(x, None)
    gates = own.weight_hh_l0.shape[0] // HIDDEN
    hidden = native.RecurrentWeights(native.DTYPES[torch.float32], gates, HIDDEN, own.weight_hh_l0.shape[1])
    assert of_program + alone.weights.bytes - both.weights.bytes >= 2 * 2 * hidden.packed_bytes
    Reference(own, (x,)).check_float32(program(x))


def test_a_program_of_old_weights_shares_nothing_with_new_ones() -> None:
    own, x, preparer = layer(nn.GRU), torch.randn(5, 3, INPUTS), Preparer()
    program, forward = with_program(own, x, preparer), RecurrentForward(own, preparer)
    forward.call(x, None)
    own.weight_hh_l0.mul_(1.5)
    with pytest.raises(WeightsChangedError):
        forward.call(x, None)
    forward.refresh()
    Reference(own, (x,)).check_float32(forward.call(x, None))
    program.refresh()
    Reference(own, (x,)).check_float32(program(x))


@of_every_kind
def test_a_layer_alone_on_a_packed_sequence(kind: Any, more: Any, recwarn: pytest.WarningsRecorder) -> None:
    own = layer(kind, **more)
    x, lengths = inputs_of(own, [4, 6, 2], states=False)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    fast = drystone.optimize(own, packed, tuning="estimate")
    assert not [warning for warning in recwarn if issubclass(warning.category, drystone.DrystoneWarning)]
    assert runs(fast) == {"": "drystone"}
    for sequence in (packed, pack_padded_sequence(x[:4], lengths.clamp(max=3), enforce_sorted=False), x):
        for a, b in zip(leaves(fast(sequence)), leaves(own(sequence)), strict=True):
            torch.testing.assert_close(a, b)
    with pytest.raises(InputError, match="requires grad"):
        fast(x.clone().requires_grad_())


class Stateful(nn.Module):
    """Sets what its layer knows of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(INPUTS, INPUTS)

    def forward(self, x: torch.Tensor, first: bool) -> torch.Tensor:
        self.gru.batch_first = bool(x.sum() < math.inf) and first
        return self.gru(x)[0]


@pytest.mark.parametrize("options", PREPARED, ids=str)
def test_a_layer_that_the_model_changes_runs_eagerly_from_then_on(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Stateful().eval().requires_grad_(False)
    x = torch.randn(4, 3, INPUTS)
    fast = drystone.optimize(model, (x, False), tuning="estimate", **options)
    for first in (False, True, False):
        torch.testing.assert_close(fast(x, first), model(x, first))
    assert runs(fast)["gru"] == "eager"
