"""dtype=torch.bfloat16 on CPUs that do not multiply bfloat16: native whole, by every way in. Others play to be such CPUs here."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import drystone
from agreement import Reference, bfloat16_limit, leaves, program_of, relative_error
from drystone import native

BF16, F32 = torch.bfloat16, torch.float32
pytestmark = [
    pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen"),
    pytest.mark.usefixtures("no_tuning_cache"),
    pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning"),
]


@pytest.fixture(autouse=True)
def widens(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether the CPU is one that does not multiply bfloat16: it is, until a test says otherwise."""

    def set_to(answer: bool) -> None:
        monkeypatch.setattr(native, "multiplies_bfloat16", lambda: not answer)

    set_to(True)
    return set_to


class Pyramid(nn.Module):
    """Down, up, and across: the convolutions of a U-Net, pools, a norm, a resize."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, 2, 1, groups=16)
        self.grouped, self.up = nn.Conv2d(16, 32, 3, padding=2, dilation=2, groups=2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.norm, self.head = nn.GroupNorm(4, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = F.relu(self.stem(x))
        b = F.silu(self.norm(self.down(F.max_pool2d(a, 3, 1, 1))))
        c = self.up(self.grouped(b)) + a
        d = torch.cat([F.interpolate(b, scale_factor=2.0), c], 1)
        return self.head(F.avg_pool2d(c, 2).mean((2, 3))), F.pad(d, (1, 0, 2, 1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.attention = nn.Embedding(11, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm, self.mlp = nn.LayerNorm(32), nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.words((x * 3).long() % 11)
        y = self.norm(y + self.attention(y, y, y, need_weights=False)[0])
        y = y + self.mlp(y)
        return torch.bmm(y, y.transpose(1, 2)).softmax(-1) @ y


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.head = nn.LSTM(12, 20, bidirectional=True), nn.GRU(40, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.lstm(x)[0])[0])


class Axes(nn.Module):
    """Convolutions of one axis and of three."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.back = nn.Conv1d(4, 8, 3, 2, 1), nn.ConvTranspose1d(8, 4, 2, 2)
        self.three, self.volume = nn.Conv3d(1, 8, 3, padding=1), nn.ConvTranspose3d(8, 4, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.back(F.gelu(self.one(x)))
        return self.volume(F.hardswish(self.three(y.reshape(2, 1, 4, 2, 3))))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "pyramid": (Pyramid, (2, 3, 12, 12)),
    "block": (Block, (2, 7)),
    "tagger": (Tagger, (4, 1, 12)),
    "axes": (Axes, (2, 4, 6)),
}
by_model = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, shape = MODELS[name]
    return model().eval().requires_grad_(False), torch.randn(shape)


def assert_within(fast: Callable[..., object], model: nn.Module, x: torch.Tensor) -> None:
    Reference(model, (x,)).check_bfloat16(fast(x))


@by_model
@pytest.mark.parametrize("formats", [None, "channels_last", native.blocked().name])
def test_strict(name: str, formats: str | None) -> None:
    model, x = made(name)
    fast = drystone.optimize(model, x, dtype=BF16, tuning="estimate", strict=True, formats=formats)
    assert_within(fast, model, x)
    steps = fast.explain().steps
    assert {step.dtype for step in steps} <= {"float32", "int64"}, "nothing is rounded between steps"
    assert any("narrow" in step.implementation for step in steps if step.op == "linear") == (name not in ("axes",))


@by_model
def test_a_model_that_is_bfloat16_itself(name: str) -> None:
    model, x = made(name)
    low, x = copy.deepcopy(model).bfloat16(), x.bfloat16()
    fast = drystone.optimize(low, x, tuning="estimate", strict=True)
    exact = leaves(copy.deepcopy(low).double()(x.double()))
    for got, want, eager in zip(leaves(fast(x)), exact, leaves(low(x)), strict=True):
        assert got.dtype == eager.dtype == BF16
        assert relative_error(got, want) <= bfloat16_limit(relative_error(eager, want))


@by_model
def test_planned_by_measuring(name: str) -> None:
    model, x = made(name)
    fast = drystone.optimize(model, x, dtype=BF16, strict=True)
    assert_within(lambda x: program_of(fast)([x]), model, x)


@by_model
@pytest.mark.parametrize("saved_widened", [False, True])
def test_artefacts_go_from_cpu_to_cpu(name: str, saved_widened: bool, widens: Callable[[bool], None], tmp_path: Path) -> None:
    model, x = made(name)
    widens(saved_widened)
    drystone.save(drystone.optimize(model, x, dtype=BF16, tuning="estimate"), tmp_path / "m.drystone")
    for loaded_widened in (False, True):
        widens(loaded_widened)
        fast = drystone.load(tmp_path / "m.drystone")
        assert_within(fast, model, x)
        assert not loaded_widened or not fast.explain().segments
    widens(True)
    drystone.save(fast, tmp_path / "again.drystone")
    assert all(map(torch.equal, leaves(fast(x)), leaves(drystone.load(tmp_path / "again.drystone")(x))))


class Deciding(nn.Module):
    """Can't be captured whole."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Pyramid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)[1]
        return y * 2 if y.sum() > 0 else y


def test_a_model_in_parts() -> None:
    torch.manual_seed(0)
    model, x = Deciding().eval().requires_grad_(False), torch.randn(2, 3, 12, 12)
    fast = drystone.optimize(model, x, dtype=BF16, tuning="estimate")
    assert any(part.runs == "drystone" for part in fast.explain().parts) and not fast.explain().segments
    assert_within(fast, model, x)


def test_packed_sequences_in_a_part() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(12, 20, 2), nn.Linear(20, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]))
            return self.head(nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0])[0])

    torch.manual_seed(0)
    model, x = Packed().eval().requires_grad_(False), torch.randn(5, 2, 12)
    assert_within(drystone.optimize(model, x, dtype=BF16, tuning="estimate"), model, x)


@pytest.mark.parametrize("name", ["pyramid", "tagger", "axes"])
def test_torchscript(name: str) -> None:
    model, x = made(name)
    fast = drystone.optimize(torch.jit.trace(model, x), x, dtype=BF16, tuning="estimate", strict=True)
    assert_within(fast, model, x)


def test_torch_compile() -> None:
    model, x = made("pyramid")
    options = {"dtype": BF16, "tuning": "estimate", "strict": True}
    torch._dynamo.reset()
    with torch.inference_mode():
        assert_within(torch.compile(model, backend="drystone", options=options), model, x)


def test_packed_layers_of_a_bfloat16_model() -> None:
    model, x = made("pyramid")
    low, x = copy.deepcopy(model).bfloat16(), x.bfloat16()
    fast = drystone.optimize(low, x, capture="eager", tuning="estimate")
    exact = leaves(copy.deepcopy(low).double()(x.double()))
    for got, want, eager in zip(leaves(fast(x)), exact, leaves(low(x)), strict=True):
        assert got.dtype == BF16 and relative_error(got, want) <= bfloat16_limit(relative_error(eager, want))


def test_kept_modules_keep_their_weights() -> None:
    model, x = made("tagger")
    exact = drystone.optimize(model, x, tuning="estimate", strict=True)
    fast = drystone.optimize(model, x, dtype=BF16, keep_fp32=[model], tuning="estimate", strict=True)
    assert torch.equal(fast(x), exact(x))


def test_rounding_that_the_model_asks_for_stays() -> None:
    class Rounds(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.bfloat16().float() - x

    x = torch.randn(3, 5)
    fast = drystone.optimize(Rounds().eval(), x, tuning="estimate", strict=True)
    assert torch.equal(fast(x), Rounds()(x)) and fast(x).any()


def test_it_is_said_in_one_sentence(widens: Callable[[bool], None]) -> None:
    model, x = made("pyramid")

    def told(dtype: torch.dtype | None) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            drystone.optimize(model, x, dtype=dtype, tuning="estimate")
        return [str(warning.message) for warning in caught if issubclass(warning.category, drystone.DrystoneWarning)]

    (message,) = told(BF16)
    assert "bfloat16" in message and "float32" in message and native.isa() in message
    assert not told(None)
    widens(False)
    assert not any("does not multiply" in message for message in told(BF16))
