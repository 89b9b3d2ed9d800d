"""embedding, index_select and their gradient under torch's names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import drystone

NAMES = ["embedding", "index_select"]


def table(rows: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randint(-100, 100, (rows, width)).to(dtype)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float64])
def test_rows_of_every_width(dtype: torch.dtype, index: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    for width in [*range(1, 36), 63, 64, 65, 128, 1000, 5000]:
        weight, which = table(70, width, dtype), torch.randint(0, 70, (max(1, 80_000 // width),), dtype=index)
        expected = weight[which.long()]
        with drystone.enabled(only=NAMES):
            assert torch.equal(F.embedding(which, weight), expected)
            assert torch.equal(torch.index_select(weight, 0, which), expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [64, 67, 128, 500])
def test_results_that_outgrow_the_caches(width: int, threads: int) -> None:
    torch.set_num_threads(threads)
    weight, which = torch.arange(1000 * width, dtype=torch.float32).view(1000, width), torch.randint(0, 1000, ((5 << 20) // width,))
    out = torch.full((which.numel() * width + 7,), -1.0)[7:].view(-1, width)
    drystone.enable(only=NAMES)
    torch.index_select(weight, 0, which, out=out)
    assert torch.equal(out, weight[which])
    assert torch.equal(F.embedding(which, weight), out)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_every_axis(dim: int) -> None:
    x = torch.randn(31, 40, 29)
    which = torch.randint(0, 29, (57,))
    expected = torch.index_select(x, dim, which)
    drystone.enable(only=NAMES)
    for index in (which, which.int(), which.repeat_interleave(3)[::3], which[:1].expand(57)):
        result = torch.index_select(x, dim, index)
        assert torch.equal(result, x.index_select(dim, index.clone().long())) and result.is_contiguous()
    out = torch.empty(0)
    assert torch.index_select(x, dim, which, out=out) is out and torch.equal(out, expected)
    last = torch.empty_like(expected.movedim(0, 2)).movedim(2, 0)
    torch.index_select(x, dim, which, out=last)
    assert torch.equal(last, expected)
    turned = x.transpose(0, 2)
    assert torch.equal(torch.index_select(turned, 1, which), turned.contiguous()[:, which])


@pytest.mark.parametrize("shape", [(), (1,), (0,), (40, 50), (3, 0), (20, 10, 10)])
def test_indices_of_any_shape(shape: tuple[int, ...]) -> None:
    weight, which = table(70, 33), torch.randint(0, 70, shape)
    drystone.enable(only=NAMES)
    result = F.embedding(which, weight)
    assert result.shape == (*shape, 33) and torch.equal(result, weight[which])
    if len(shape) > 1:
        assert torch.equal(F.embedding(which.transpose(0, 1), weight), weight[which.transpose(0, 1)])
    cut = table(140, 66)[::2, :33]
    assert torch.equal(F.embedding(which, cut), cut[which])


# -- the gradient -----------------------------------------------------------------------------------------------------


def expected_gradient(gradient: torch.Tensor, which: torch.Tensor, rows: int, padding: int, by_frequency: bool) -> torch.Tensor:
    """In float64. Sums of few small integers are exact in every dtype."""
    flat, wide = which.flatten().long(), gradient.flatten(0, which.ndim - 1).double()
    if by_frequency:
        wide = wide / flat.bincount(minlength=rows)[flat][:, None]
    wide = wide * (flat != padding)[:, None]
    return torch.zeros(rows, wide.shape[1], dtype=torch.float64).index_add_(0, flat, wide)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_of_every_width(dtype: torch.dtype, index: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    for width in [*range(1, 36), 63, 64, 65, 127, 128, 129, 300]:
        for rows, count in ((1, 20), (7, 100), (3000, 900)):
            gradient = torch.randint(-2, 3, (count, width)).to(dtype)
            which = torch.randint(0, rows, (count,), dtype=index)
            with drystone.enabled(only=NAMES):
                result = torch.ops.aten.embedding_dense_backward(gradient, which, rows, -1, False)
            assert result.dtype == dtype and torch.equal(result.double(), expected_gradient(gradient, which, rows, -1, False))


@pytest.mark.parametrize("padding", [-1, 0, 5, 299])
@pytest.mark.parametrize("by_frequency", [False, True])
def test_gradients_are_torchs(padding: int, by_frequency: bool) -> None:
    gradient, which = torch.randn(40, 50, 65), torch.randint(0, 300, (40, 50))
    arguments = (gradient, which, 300, padding, by_frequency)
    stock = torch.ops.aten.embedding_dense_backward(*arguments)
    drystone.enable(only=NAMES)
    ours = torch.ops.aten.embedding_dense_backward(*arguments)
    expected = expected_gradient(gradient, which, 300, padding, by_frequency)
    if by_frequency:
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(ours, stock)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("width", [64, 65, 3])
def test_gradients_that_outgrow_the_caches(width: int, threads: int) -> None:
    torch.set_num_threads(threads)
    rows = (5 << 20) // width
    gradient = torch.randint(-2, 3, (5000, width)).float()
    which = torch.randint(0, rows, (5000,))
    which[:3000] = 17  # one row has most of the work
    drystone.enable(only=NAMES, reuse_pages=True)
    for _ in range(2):  # the second time in memory that is not zero
        result = torch.ops.aten.embedding_dense_backward(gradient, which, rows, 3, False)
        assert torch.equal(result.double(), expected_gradient(gradient, which, rows, 3, False))
        result.fill_(7)
        del result


def test_gradients_of_any_strides() -> None:
    which = torch.randint(0, 300, (40, 50))
    drystone.enable(only=NAMES)
    for gradient in (
        torch.ones(1).expand(40, 50, 65),
        torch.randn(65, 50, 40).permute(2, 1, 0),
        torch.randn(40, 50, 130)[..., ::2],
    ):
        result = torch.ops.aten.embedding_dense_backward(gradient, which, 300, -1, False)
        torch.testing.assert_close(result.double(), expected_gradient(gradient, which, 300, -1, False), rtol=1e-5, atol=1e-5)
    turned = torch.ops.aten.embedding_dense_backward(torch.ones(50, 40, 65), which.t(), 300, -1, False)
    assert torch.equal(turned.double(), expected_gradient(torch.ones(50, 40, 65), which.t(), 300, -1, False))


def test_a_gradient_of_more_axes_than_the_copy_kernel_takes() -> None:
    """It is torch's, as torch's axes have no limit."""
    which = torch.arange(1 << 17).view((2,) * 17) % 7
    gradient = torch.randint(-2, 3, (1 << 18,)).float().view((2,) * 18).permute(*range(16, -1, -1), 17)
    drystone.enable(only=NAMES)
    result = torch.ops.aten.embedding_dense_backward(gradient, which, 7, -1, False)
    assert torch.equal(result.double(), expected_gradient(gradient, which, 7, -1, False))
