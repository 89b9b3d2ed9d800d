"""How calls are matched with the example's: arguments by position, by name, or left to their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import drystone
from drystone.errors import InputError
from drystone.runtime.module import MAX_OTHERS

DEFAULT = torch.ones(3)


class Options(nn.Module):
    def forward(
        self,
        x: torch.Tensor,
        scale: float = 1.5,
        times: int = 1,
        mode: str | None = "plain-mode",
        flag: bool = True,
        shift: float = 0.0,
        sizes: tuple[Any, ...] = (1, (2.5, "a")),
        other: torch.Tensor = DEFAULT,
    ) -> torch.Tensor:
        return x * scale + times + (1 if flag else 0)


def prepared(*args: Any, **kwargs: Any) -> Any:
    return drystone.optimize(Options().eval(), args, example_kwargs=kwargs, tuning="estimate", capture="whole")


@pytest.mark.parametrize(
    "given",
    [
        {"scale": float("1.5")},
        {"times": 1, "flag": True},
        {"mode": "-".join(["plain", "mode"])},
        {"sizes": tuple([1, (float("2.5"), "a")])},
        {"other": DEFAULT},
    ],
    ids=str,
)
def test_an_argument_that_equals_its_default_may_be_given(given: dict[str, Any]) -> None:
    fast, x = prepared(torch.zeros(3)), torch.ones(3)
    assert torch.equal(fast(x, **given), Options()(x))


@pytest.mark.parametrize(
    "given",
    [
        {"scale": 2.5},
        {"times": True},
        {"times": 1.0},
        {"flag": 1},
        {"shift": -0.0},
        {"mode": None},
        {"sizes": (True, (2.5, "a"))},
        {"sizes": (1, (2.5,))},
        {"sizes": [1, (2.5, "a")]},
        {"other": torch.ones(3)},
    ],
    ids=str,
)
def test_any_other_has_a_program_of_its_own(given: dict[str, Any]) -> None:
    fast, x = prepared(torch.zeros(3)), torch.ones(3)
    for _ in range(2):
        assert torch.equal(fast(x, **given), Options()(x, **given))
        assert torch.equal(fast(x), Options()(x))
    assert len(fast._others) == 1
    fast.refresh()
    assert torch.equal(fast(x, **given), Options()(x, **given))


def test_what_the_model_does_not_take_is_refused() -> None:
    fast = prepared(torch.zeros(3))
    with pytest.raises(InputError, match=r"do not fit.*unknown"):
        fast(torch.ones(3), unknown=1)
    with pytest.raises(InputError, match="'scale' was not in the example"):
        fast(torch.ones(3), scale="a")


def test_plain_values_of_the_example_are_held_to_it() -> None:
    fast, x = prepared(torch.zeros(3), times=3, mode=None, flag=False), torch.ones(3)
    want = Options()(x, times=3, mode=None, flag=False)
    assert torch.equal(fast(x, times=3, mode=None, flag=False), want)
    assert torch.equal(fast(x, flag=False, mode=None, times=3), want)
    with pytest.raises(InputError, match="'times': the model was captured with 3, got 4"):
        fast(x, times=4, mode=None, flag=False)
    for changed in ({"mode": "x"}, {"flag": 0}):
        given: dict[str, Any] = {"times": 3, "mode": None, "flag": False, **changed}
        assert torch.equal(fast(x, **given), Options()(x, **given))
    assert len(fast._others) == 2


def test_ways_of_calling_are_bounded() -> None:
    fast, x = prepared(torch.zeros(3)), torch.ones(3)
    for length in range(MAX_OTHERS):
        fast(x, sizes=(1,) * length)
    with pytest.raises(InputError, match="'sizes'"):
        fast(x, sizes=(1,) * MAX_OTHERS)
    assert torch.equal(fast(x, sizes=(1,)), Options()(x))


def test_what_is_missing_is_named() -> None:
    fast = drystone.optimize(Two().eval(), (X, X), example_kwargs={"mask": X}, tuning="estimate")
    with pytest.raises(InputError, match="missing a required argument: 'y'"):
        fast(X, mask=X)
    assert torch.equal(fast(X, X), 2 * X), "one that has a default is another way of calling it"
    with pytest.raises(InputError, match="'mask' is missing; 'y' is "):
        fast(X, (X, "a"))


X = torch.arange(6.0).reshape(2, 3)


class Two(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x + y if mask is None else (x + y) * mask


class Boxes(nn.Module):
    """A detector: a list of images of their own sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [{"boxes": self.layer(image)} for image in images]


def test_lists_of_tensors_may_be_of_another_length() -> None:
    model = Boxes().eval()
    fast = drystone.optimize(model, ([X, X],), tuning="estimate")
    for images in ([X], [X, X, X], [X, 2 * X]):
        torch.testing.assert_close(fast(images), model(images))


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.table(ids) * mask[..., None], ids + 1


@pytest.mark.parametrize("mask", [torch.bool, torch.int64, torch.uint8], ids=str)
@pytest.mark.parametrize("ids", [torch.int32, torch.int64], ids=str)
def test_integers_and_truth_values_may_be_of_another_dtype(ids: torch.dtype, mask: torch.dtype) -> None:
    model = Lookup().eval()
    given = torch.tensor([[1, 2, 0]], dtype=ids), torch.tensor([[1, 1, 0]], dtype=mask)
    fast = drystone.optimize(model, (torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64)), tuning="estimate")
    torch.testing.assert_close(fast(*given), model(*given))
    with pytest.raises(InputError, match=r"'ids': expected torch.int64, got torch.float32"):
        fast(given[0].float(), given[1])


@dataclass
class Batch:
    x: torch.Tensor
    mask: torch.Tensor | None = None


@dataclass
class Request:
    batch: Batch
    name: str = "r"


class OfDataclasses(nn.Module):
    def forward(self, request: Request) -> torch.Tensor:
        batch = request.batch
        return batch.x * 2 if batch.mask is None else batch.x * batch.mask


def test_dataclasses_are_inputs() -> None:
    fast = drystone.optimize(OfDataclasses().eval(), (Request(Batch(X)),), tuning="estimate", capture="whole")
    assert torch.equal(fast(Request(Batch(X + 1))), 2 * (X + 1))
    assert torch.equal(fast(Request(Batch(X, X))), X * X)


def test_arrays_are_refused_by_name() -> None:
    fast = drystone.optimize(Two().eval(), (X, X), tuning="estimate")
    with pytest.raises(InputError, match=r"input 'y': expected a tensor, got ndarray, .*torch\.from_numpy"):
        fast(X, X.numpy())
    with pytest.raises(InputError, match=r"\['mask'\]: expected a tensor, got ndarray, .*torch\.from_numpy"):
        fast(X, X, mask=X.numpy())
    with pytest.raises(InputError, match=r"input \[1\]: expected a tensor, got ndarray, .*torch\.from_numpy"):
        drystone.optimize(Two().eval(), (X, X.numpy()))


class Nested(nn.Module):
    def forward(self, batch: dict[str, Any], more: Any = None, **rest: Any) -> torch.Tensor:
        inner = batch["inner"]
        return batch["x"] * 2 - inner[0]["a"] + 3 * inner[0]["b"] + sum(rest.get("named", {}).values())


def test_the_keys_of_dicts_may_come_in_another_order() -> None:
    x, a, b = torch.randn(3, 2)[:, None].unbind()
    example = {"x": x, "inner": [{"a": a, "b": b}, None]}
    fast = drystone.optimize(Nested().eval(), (example,), example_kwargs={"named": {"p": a, "q": b}}, tuning="estimate")
    given = {"inner": [{"b": b, "a": a}, None], "x": x}
    want = Nested()(example, named={"p": a, "q": b})
    torch.testing.assert_close(fast(given, named={"q": b, "p": a}), want)
    torch.testing.assert_close(fast(named={"q": b, "p": a}, batch=given), want)
    with pytest.raises(InputError, match=r"structured.*'batch' is"):
        fast({"x": x, "inner": [{"a": a, "c": b}, None]}, named={"p": a, "q": b})


class Unnamed(list[Any]):
    """A container that torch takes apart without names for what it holds, as it does transformers 4's outputs."""


pytree.register_pytree_node(Unnamed, lambda held: (list(held), None), lambda held, _: Unnamed(held))


class First(nn.Module):
    def forward(self, held: Unnamed) -> torch.Tensor:
        return torch.relu(held[0])


def test_a_container_without_names() -> None:
    model, x = First().eval(), torch.randn(3)
    want = model(Unnamed([x]))
    drystone.optimize_(model, tuning="estimate")
    with torch.inference_mode(), pytest.warns(drystone.DrystoneWarning, match="can't be captured"):
        assert torch.equal(model(Unnamed([x])), want)
    with pytest.raises(InputError, match="1: expected a tensor on the CPU"):
        drystone.optimize(First().eval(), (Unnamed([x, x.to("meta")]),))
