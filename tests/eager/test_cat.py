"""cat under torch's name: values, strides and errors are torch's, whether our kernel runs or torch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import drystone

DTYPES = [torch.float32, torch.bfloat16, torch.int8, torch.float64, torch.bool, torch.complex64]


def values(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randint(-100, 100, shape).to(dtype)


def check(tensors: list[torch.Tensor], dim: int) -> None:
    drystone.disable()
    expected = torch.cat(tensors, dim)
    drystone.enable(only=["cat"])
    result = torch.cat(tensors, dim)
    assert result.dtype == expected.dtype
    assert result.stride() == expected.stride()
    assert torch.equal(result, expected)
    out = torch.empty_like(expected)
    assert torch.cat(tensors, dim, out=out) is out
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_every_axis_and_dtype(dtype: torch.dtype, dim: int) -> None:
    shapes = [[30, 40, 50] for _ in range(3)]
    for shape, size in zip(shapes, (1, 17, 64), strict=True):
        shape[dim] = size
    check([values(*shape, dtype=dtype) for shape in shapes], dim)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
def test_runs_of_every_length(dtype: torch.dtype) -> None:
    for run in range(1, 140):
        check([values(300, run, dtype=dtype), values(300, 140 - run, dtype=dtype)], 1)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32, torch.float64])
def test_elements_in_turn(dtype: torch.dtype) -> None:
    for rows in (*range(5000, 5070), 40_001):
        pair = [values(rows, 1, dtype=dtype), values(rows + 1, 1, dtype=dtype)[1:]]
        check(pair, 1)
        check([*pair, pair[0]], 1)


@pytest.mark.parametrize("bytes_before", [0, 1, 4, 63, 64])
@pytest.mark.parametrize("shape", [(1, 70_001), (900, 77), (40_000, 3), (3, 30_000)])
def test_no_alignment_is_taken_for_granted(shape: tuple[int, int], bytes_before: int) -> None:
    rows, columns = shape
    tensors = [values(rows * columns + 65, dtype=torch.int8)[bytes_before + i :][: rows * columns].view(shape) for i in range(2)]
    check(tensors, 1)
    memory = torch.zeros(2 * rows * columns + 128, dtype=torch.int8)
    out = memory[bytes_before:][: 2 * rows * columns].view(rows, 2 * columns)
    torch.cat(tensors, 1, out=out)
    assert torch.equal(out, torch.hstack([tensor.clone() for tensor in tensors]))
    assert not memory[:bytes_before].any() and not memory[bytes_before + out.numel() :].any()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(6_000_000, 1), (2_000_001, 3), (50_000, 117), (1, 5_000_003), (13, 400_001)])
def test_results_that_outgrow_the_caches(threads: int, shape: tuple[int, int]) -> None:
    torch.set_num_threads(threads)
    tensors = [torch.arange(i, shape[0] * shape[1] + i, dtype=torch.float32).view(shape) for i in range(2)]
    check(tensors, 1)
    out = torch.empty(2 * tensors[0].numel() + 3)[3:].view(shape[0], -1)
    torch.cat(tensors, 1, out=out)
    assert torch.equal(out[:, : shape[1]], tensors[0]) and torch.equal(out[:, shape[1] :], tensors[1])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("count", "dim"), [(1, 0), (2, 1), (9, 1), (64, 0), (65, 1), (3000, 0), (30_000, 0), (30_000, 1)])
def test_any_number_of_tensors(threads: int, count: int, dim: int) -> None:
    torch.set_num_threads(threads)
    check([values(2, 1 + i % 7) if dim else values(1 + i % 7, 2) for i in range(count)], dim)
    drystone.enable(only=["cat"])
    assert torch.equal(
        torch.stack([torch.full((3,), i) for i in range(count)], dim).movedim(dim, 0), torch.arange(count)[:, None].expand(count, 3)
    )


def spatial(rank: int) -> torch.memory_format:
    return torch.channels_last if rank == 4 else torch.channels_last_3d


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dense": lambda x: x,
    "channels last": lambda x: x.to(memory_format=spatial(x.ndim)),
    "transposed": lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
    "cut": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "cut in front": lambda x: torch.stack([x, x])[0],
    "every other": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
    "first axis last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
}


@pytest.mark.parametrize("rank", [4, 5])
@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_mixed_strides(rank: int, first: str, second: str) -> None:
    shape = (4, 16, 12, 20) if rank == 4 else (4, 8, 6, 10, 5)
    tensors = [LAYOUTS[first](values(*shape)), LAYOUTS[second](values(*shape))]
    for dim in range(rank):
        check(tensors, dim)


@pytest.mark.parametrize(
    "shape", [(40, 1, 30, 30), (40, 30, 1, 30), (4000, 1, 1, 9), (9000, 1, 1, 1), (1, 1, 90, 90), (1, 90, 90, 1)]
)
def test_ambiguous_formats(shape: tuple[int, ...]) -> None:
    for layout in ("dense", "channels last"):
        for dim in range(4):
            check([LAYOUTS[layout](values(*shape))] * 2, dim)


def test_into_tensors_of_other_strides() -> None:
    tensors = [values(8, 16, 20, 20), values(8, 16, 20, 20)]
    drystone.enable(only=["cat"])
    expected = torch.cat(tensors, 1)
    last = torch.empty_like(expected, memory_format=torch.channels_last)
    torch.cat(tensors, 1, out=last)
    assert torch.equal(last, expected) and last.is_contiguous(memory_format=torch.channels_last)
    cut = torch.zeros(8, 32, 20, 40)
    torch.cat(tensors, 1, out=cut[..., ::2])
    assert torch.equal(cut[..., ::2], expected) and not cut[..., 1::2].any()
    resized = torch.empty(0)
    torch.cat(tensors, 1, out=resized)
    assert torch.equal(resized, expected)
    wider = torch.empty_like(expected, dtype=torch.float64)
    torch.cat(tensors, 1, out=wider)
    assert torch.equal(wider, expected.double())


@pytest.mark.parametrize("rank", [8, 16, 18])
def test_strided_tensors_of_many_axes(rank: int) -> None:
    """With more axes than the copy kernel takes they are torch's."""
    plain = torch.arange(1 << 18).view((2,) * rank + (-1,)) if rank < 18 else torch.arange(1 << 18).view((2,) * 18)
    x = plain.permute(*reversed(range(rank)), *range(rank, plain.ndim))
    expected = torch.cat([x, x], 3)
    drystone.enable(only=["cat"])
    assert torch.equal(torch.cat([x, x], 3), expected)
    assert torch.equal(torch.cat([x, x], 3, out=torch.empty_like(expected)), expected)


def test_empty_tensors() -> None:
    check([values(0), values(300, 200), values(0)], 1)
    check([values(300, 0), values(300, 200)], 1)
    check([values(0, 200), values(0, 200)], 0)
    check([values(0), values(0)], 0)


def test_promotion() -> None:
    check([values(300, 200), values(300, 200, dtype=torch.int64)], 1)
    check([values(300, 200, dtype=torch.bfloat16), values(300, 200, dtype=torch.float16)], 0)


def test_tensors_that_only_the_interpreter_holds() -> None:
    # TorchScript moves the list into the call: nobody else holds the tensors.
    @torch.jit.script
    def joined(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x + 1, x + 2, x + 3], 0)

    drystone.enable()
    x = values(300, 200)
    for _ in range(3):
        assert torch.equal(joined(x), torch.vstack((x + 1, x + 2, x + 3)))
