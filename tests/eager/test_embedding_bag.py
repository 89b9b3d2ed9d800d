"""embedding_bag and its gradient under torch's names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import drystone

NAMES = ["embedding_bag"]
SUM, MEAN, MAX = 0, 1, 2
# Of sums of 30 numbers; torch rounds means of bfloat16 and float16 twice.
TOLERANCES = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (2e-2, 1e-2), torch.float16: (2e-3, 2e-3), torch.float64: (1e-12, 1e-12)}


def offsets_of(lengths: list[int], dtype: torch.dtype, include_last: bool = False) -> torch.Tensor:
    ends = torch.tensor([0, *lengths]).cumsum(0).to(dtype)
    return ends if include_last else ends[:-1].contiguous()


def check(*arguments: Any, forward_only: bool = False) -> tuple[torch.Tensor, ...]:
    """All four results; what is not the output must be the same, bit by bit."""
    operator = torch.ops.aten._embedding_bag_forward_only if forward_only else torch.ops.aten._embedding_bag
    with drystone.enabled(only=[]):
        expected = operator(*arguments)
    with drystone.enabled(only=NAMES):
        results = operator(*arguments)
    rtol, atol = TOLERANCES[arguments[0].dtype]
    torch.testing.assert_close(results[0], expected[0], rtol=rtol, atol=atol, equal_nan=True)
    for ours, stock in zip(results[1:], expected[1:], strict=True):
        assert ours.dtype == stock.dtype and ours.shape == stock.shape
        assert torch.equal(ours, stock)
    return tuple(results)


LENGTHS = [3, 0, 17, 1, 8, 0, 0, 30, 9, 16, 7, 0]


@pytest.mark.parametrize("forward_only", [False, True])
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("mode", [SUM, MEAN, MAX])
def test_every_width(mode: int, dtype: torch.dtype, index: torch.dtype, forward_only: bool) -> None:
    lengths = LENGTHS * 3
    for width in [*range(100, 136), 63, 64, 65, 16, 17, 31, 40, 256, 300]:
        weight = torch.randn(50, width).to(dtype)
        which = torch.randint(0, 50, (sum(lengths),), dtype=index)
        for include_last in (False, True):
            offsets = offsets_of(lengths, index, include_last)
            for padding in (-1, 7):
                check(weight, which, offsets, False, mode, False, None, include_last, padding, forward_only=forward_only)
    assert bool(which.numel() * width * weight.element_size() >= 1 << 13)  # ours, not torch's own


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("mode", [SUM, MEAN, MAX])
def test_threads_share_the_bags(mode: int, threads: int) -> None:
    torch.set_num_threads(threads)
    for lengths in ([20_000], [1] * 5000, [0, 4000, 0, 0, 1000], LENGTHS * 100):
        weight, which = torch.randint(-9, 9, (900, 65)).float(), torch.randint(0, 900, (sum(lengths),))
        weight[5] = 0
        output = check(weight, which, offsets_of(lengths, torch.int64), False, mode, False, None, False, 5)[0]
        if mode == SUM:
            bags = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
            assert torch.equal(output, torch.zeros(len(lengths), 65).index_add_(0, bags, weight[which]))


@pytest.mark.parametrize("padding", [-1, 7])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_weights_of_samples(dtype: torch.dtype, padding: int) -> None:
    lengths = LENGTHS * 3
    weight, which = torch.randn(50, 65).to(dtype), torch.randint(0, 50, (sum(lengths),))
    scale = torch.randn(sum(lengths)).to(dtype)
    check(weight, which, offsets_of(lengths, torch.int64), False, SUM, False, scale, False, padding)
    check(weight, which, offsets_of(lengths, torch.int64), False, SUM, False, scale.repeat_interleave(2)[::2], False, padding)


def test_padding_alone_and_nan() -> None:
    weight, which = torch.randn(50, 200), torch.full((30,), 7)
    weight[3, 5] = float("nan")
    which[20:] = torch.tensor([3, 4, 5, 6, 4, 3, 4, 3, 4, 3])
    offsets = torch.tensor([0, 10, 20, 25])
    for mode in (SUM, MEAN, MAX):
        check(weight, which, offsets, False, mode, False, None, False, 7)


def test_tables_of_any_strides() -> None:
    which, offsets = torch.randint(0, 50, (300,)), torch.arange(0, 300, 10)
    for weight in (torch.randn(50, 130)[:, 3:68], torch.randn(65, 50).t(), torch.randn(65).expand(50, 65)):
        for mode in (SUM, MEAN, MAX):
            check(weight, which, offsets, False, mode, False, None, False, -1)


@pytest.mark.parametrize("offsets", [[5, 10], [0, 500], [0, 30, 20, 400]])
def test_odd_offsets_are_torchs(offsets: list[int]) -> None:
    weight, which = torch.randn(50, 64), torch.randint(0, 50, (400,))

    def result() -> Any:
        try:
            return F.embedding_bag(which, weight, torch.tensor(offsets), mode="sum").shape
        except RuntimeError as error:
            return str(error)

    expected = result()
    drystone.enable(only=NAMES)
    assert result() == expected


def test_the_last_offset_need_not_be_the_end() -> None:
    weight, which = torch.randn(50, 64), torch.randint(0, 50, (400,))
    for mode in (MEAN, MAX):
        check(weight, which, torch.tensor([0, 100, 300]), False, mode, False, None, True, -1)


def test_bags_of_one_length() -> None:
    weight, which = torch.randn(50, 64), torch.randint(0, 50, (40, 10))
    with drystone.enabled(only=[]):
        expected = F.embedding_bag(which, weight, mode="mean", padding_idx=3)
    drystone.enable(only=NAMES)
    torch.testing.assert_close(F.embedding_bag(which, weight, mode="mean", padding_idx=3), expected)
    mixed = F.embedding_bag(which.flatten(), weight, torch.arange(0, 400, 10, dtype=torch.int32), mode="mean", padding_idx=3)
    torch.testing.assert_close(mixed, expected)


# -- the gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_frequency", [False, True])
@pytest.mark.parametrize("padding", [None, 7])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_torchs(dtype: torch.dtype, mode: str, padding: int | None, by_frequency: bool) -> None:
    if mode == "max" and by_frequency:
        return  # torch has none
    lengths = LENGTHS * 3
    which = torch.randint(0, 50, (sum(lengths),))
    for width in (1, 15, 65, 128):
        for index in (torch.int64, torch.int32):
            weight = torch.randn(50, width, dtype=dtype, requires_grad=True)
            factor = torch.randn(len(lengths), width, dtype=dtype)
            scale = torch.randn(sum(lengths), dtype=dtype, requires_grad=True) if mode == "sum" else None
            leaves = [weight] if scale is None else [weight, scale]
            gradients = []
            for names in ([], NAMES):
                with drystone.enabled(only=names):
                    result = F.embedding_bag(
                        which.to(index),
                        weight,
                        offsets_of(lengths, index),
                        None,
                        2.0,
                        by_frequency,
                        mode,
                        False,
                        scale,
                        False,
                        padding,
                    )
                    gradients.append(torch.autograd.grad((result * factor).sum(), leaves))
                    gradients[-1] += torch.autograd.grad(
                        F.embedding_bag(which.to(index), weight, offsets_of(lengths, index), mode=mode).sum(), weight
                    )
            for ours, stock in zip(*gradients, strict=True):
                torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_two_bytes(dtype: torch.dtype) -> None:
    weight, which = torch.randn(50, 65).to(dtype).requires_grad_(), torch.randint(0, 50, (400,))
    drystone.enable(only=NAMES)
    (gradient,) = torch.autograd.grad(F.embedding_bag(which, weight, torch.arange(0, 400, 10), mode="mean").sum(), weight)
    expected = which.bincount(minlength=50)[:, None].expand(50, 65) / 10
    # Ours is rounded once.
    torch.testing.assert_close(gradient.float(), expected, rtol=torch.finfo(dtype).eps, atol=0)
