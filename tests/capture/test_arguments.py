"""How calls are matched with the example's: arguments by position, by name, or left to their defaults."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import drystone
from drystone.errors import InputError

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
        {"unknown": 1},
    ],
    ids=str,
)
def test_any_other_is_refused(given: dict[str, Any]) -> None:
    fast = prepared(torch.zeros(3))
    with pytest.raises(InputError, match=r"structured|do not fit"):
        fast(torch.ones(3), **given)


def test_plain_values_of_the_example_are_held_to_it() -> None:
    fast, x = prepared(torch.zeros(3), times=3, mode=None, flag=False), torch.ones(3)
    want = Options()(x, times=3, mode=None, flag=False)
    assert torch.equal(fast(x, times=3, mode=None, flag=False), want)
    assert torch.equal(fast(x, flag=False, mode=None, times=3), want)
    for changed in ({"times": 4}, {"mode": "x"}, {"flag": 0}):
        with pytest.raises(InputError):
            fast(x, **{"times": 3, "mode": None, "flag": False, **changed})


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
    with pytest.raises(InputError, match="structured"):
        fast({"x": x, "inner": [{"a": a, "c": b}, None]}, named={"p": a, "q": b})
