"""Small models that keep state between calls, in the ways in which models do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)


class Average(Base):
    def __init__(self) -> None:
        super().__init__()
        self.kept = {"mean": torch.zeros(4)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept["mean"].mul_(0.9).add_(x.mean(0))
        return self.layer(x) - self.kept["mean"]


class Assigned(Base):
    """A buffer that each call replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = torch.tanh(self.layer(x) + self.h)
        return self.h * 2

    def reset(self) -> None:
        self.h = torch.zeros(2, 4)


class Attribute(Assigned):
    """A tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        del self.h
        self.h = torch.zeros(2, 4)


class Written(Assigned):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.layer(x) + self.h)
        self.h.copy_(h)
        return h * 2

    def reset(self) -> None:
        self.h.zero_()


class Decaying(Assigned):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.mul_(0.9).add_(x)
        return self.layer(x) - self.h


class Given(Assigned):
    """Gives its state back itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = torch.tanh(self.layer(x) + self.h)
        return self.h


class Pair(Base):
    """As an LSTM's state: a tuple, None at first."""

    state: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = (torch.zeros(2, 4), torch.zeros(2, 4)) if self.state is None else self.state
        c = 0.5 * c + self.layer(x)
        self.state = (torch.tanh(c) + h, c)
        return h - c

    def reset(self) -> None:
        self.state = None


class Inner(Base):
    """State of submodules, one in a dict and one in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.average, self.items = Average(), [torch.zeros(2, 4), torch.ones(2, 4)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.items[0] = self.items[0] + self.items[1] * self.layer(x)
        return self.average(x) + self.items[0]

    def reset(self) -> None:
        self.items = [torch.zeros(2, 4), torch.ones(2, 4)]


class Frames(Assigned):
    """The last frames, whose number decides on nothing, and a count that goes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.frames, self.started = torch.zeros(2, 3, 4), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.started = True
        self.frames = torch.cat([self.frames[:, 1:], self.layer(x)[:, None]], 1)
        self.count += 1
        return self.frames.sum(1) / self.count

    def reset(self) -> None:
        self.frames, self.started = torch.zeros(2, 3, 4), False
        self.count.zero_()


class Slots(Assigned):
    """A cache that is written at a given position."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("at", torch.zeros(1, dtype=torch.long))
        self.register_buffer("cache", torch.zeros(2, 5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row = self.layer(x)[:, None]
        if self.how == "index_copy":
            self.cache.index_copy_(1, self.at, row)
        else:
            self.cache[:, self.at] = row
        self.at.add_(1).remainder_(5)
        return self.cache.sum(1)

    def reset(self) -> None:
        self.at.zero_()
        self.cache.zero_()


PROGRAMS: dict[str, Callable[[], nn.Module]] = {
    **{kind.__name__: kind for kind in (Assigned, Attribute, Written, Decaying, Given, Pair, Inner, Frames)},
    "index_copy": lambda: Slots("index_copy"),
    "index_put": lambda: Slots("index_put"),
}
