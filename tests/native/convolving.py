"""An own convolution's result beside that in float64."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from layout import dense, lay, outcome, place, read, run

from drystone import native
from drystone.native import Depthwise, Direct, PostOp

Sides = tuple[int, ...]


def reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, before: Sides, after: Sides, **options: Any
) -> torch.Tensor:
    padded = F.pad(x, [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair])
    convolution = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    return convolution(padded, weight, bias, groups=x.shape[1] // weight.shape[1], **options)


def within(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, before: tuple[int, int], stride: int
) -> torch.Tensor:
    """The reference of one image by the taps that lie in it: its padding is no zero that an infinite weight makes NaN."""
    inputs, *kernel = weight.shape[1:]
    sides = [before[1]] * 2 + [before[0]] * 2
    inside = F.unfold(F.pad(torch.ones_like(x[:, :1]), sides), kernel, stride=stride)[0] > 0  # (taps, positions)
    groups = x.shape[1] // inputs
    met = F.unfold(F.pad(x, sides), kernel, stride=stride).view(groups, 1, inputs, *inside.shape)
    products = (met * weight.view(groups, -1, inputs, len(inside), 1)).where(inside, 0.0)
    want = products.sum((2, 3)).view_as(reference(x, weight, None, before, before, stride=stride))
    return want if bias is None else want + bias[:, None, None]


def convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    format: str,
    before: Sides = (),
    after: Sides = (),
    stride: int = 1,
    dilation: int = 1,
    ops: list[PostOp] | None = None,
    operands: list[torch.Tensor] | None = None,
    held: torch.Tensor | None = None,
    threads: int = 2,
    kind: type[Depthwise] | type[Direct] = Depthwise,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel of ``kind`` gives, and the same in float64 before ``ops``. ``held`` is what the output's memory holds before."""
    axes = x.ndim - 2
    before, after = before or (0,) * axes, after or before or (0,) * axes
    wide = None if bias is None else bias.double()
    want = reference(x.double(), weight.double(), wide, before, after, stride=stride, dilation=dilation)
    source, buffer = lay(x, format)
    target = dense(want.shape, format, x.dtype)
    steps = [stride] * axes, list(before), list(after), [dilation] * axes
    step = kind(source, list(weight.shape), bias is not None, target, *steps, ops or [])
    packed = torch.full((step.packed_bytes // 4,), float("nan"))
    step.pack(native.DTYPES[weight.dtype], weight.contiguous().data_ptr(), packed.data_ptr())
    given = [buffer, packed, *([] if bias is None else [bias])]
    if held is None and not operands:
        return outcome(step, target, *given, threads=threads), want
    out = place(torch.zeros(want.shape) if held is None else held, target)
    run(step, *given, out, *(operands or []), threads=threads)
    return read(target, out), want


def check(*results: torch.Tensor) -> None:
    got, want = results
    assert torch.equal(got.double(), want)
