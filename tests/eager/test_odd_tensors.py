"""Tensors of every kind that torch knows, in calls large enough for our kernels: results and errors are those without them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from operator_calls import CALLS, agree, operand

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR|.*quantized tensor creation|An output with one or more elements:UserWarning"),
]


class Marked(torch.Tensor):
    """A subclass without behaviour of its own."""


def inference(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return x.clone()


KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plain": lambda x: x,
    "that require gradients": lambda x: x.requires_grad_(),
    "of inference mode": inference,
    "parameters": torch.nn.Parameter,
    "of a subclass": lambda x: x.as_subclass(Marked),  # type: ignore[arg-type]
    "without memory": lambda x: x.to("meta"),
    "all zero, without memory": lambda x: torch._efficientzerotensor(x.shape),
    "negative views": lambda x: torch.complex(torch.zeros_like(x), x).conj().imag,
    "conjugate views": lambda x: torch.complex(x, 2 * x).conj(),
    "sparse": lambda x: x.to_sparse(),
    "sparse rows": lambda x: x.to_sparse_csr() if x.ndim == 2 else x.to_sparse(),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "oneDNN's": lambda x: x.to_mkldnn(),
    "of one row": lambda x: x[:1].expand(x.shape),
    "of one number": lambda x: x.flatten()[0].expand(x.shape),
    "that overlap themselves": lambda x: x.flatten().as_strided(x.shape, [1] * x.ndim),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every other element": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "cut out": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "at odd addresses": lambda x: torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape),
    "channels last": lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
    "channels last, cut out": lambda x: torch.cat([x, x], 1).transpose(1, -1).contiguous().transpose(1, -1)[:, : x.shape[1]],
    "channels last, every other": lambda x: x.repeat_interleave(2, 0).transpose(1, -1).contiguous().transpose(1, -1)[::2],
    "without rows": lambda x: x[:0],
    "without columns": lambda x: x[..., :0],
    "without a batch": lambda x: x[0],
    "with NaN": lambda x: torch.where(x > 1, math.nan, x),
    "with minus infinity": lambda x: torch.where(x > 1, -math.inf, x),
    **{
        f"{dtype}": lambda x, dtype=dtype: (4 * x).to(dtype)
        for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.bool, torch.float8_e4m3fn)
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_tensors(name: str, kind: str) -> None:
    if name == "embedding_bag, mean" and kind == "torch.bfloat16":
        return  # torch rounds after each row, and is further from the mean than the limit
    x = KINDS[kind](operand(name))
    agree(lambda: CALLS[name][0](x))


RESULTS: dict[str, Callable[[torch.Size], torch.Tensor]] = {
    "fitting": torch.zeros,
    "empty": lambda shape: torch.zeros(0),
    "of another shape": lambda shape: torch.zeros(5, 7),
    "wider": lambda shape: torch.zeros(shape, dtype=torch.float64),
    "of integers": lambda shape: torch.zeros(shape, dtype=torch.int64),
    "transposed": lambda shape: torch.zeros(shape[::-1]).T,
    "every other element": lambda shape: torch.zeros(*shape[:-1], 2 * shape[-1])[..., ::2],
    "of one number": lambda shape: torch.zeros(1).expand(shape),
    "that requires gradients": lambda shape: torch.zeros(shape, requires_grad=True),
    "computed": lambda shape: torch.zeros(shape, requires_grad=True) * 1,
    "of inference mode": lambda shape: inference(torch.zeros(shape)),
    "a negative view": lambda shape: torch.zeros(shape, dtype=torch.complex64).conj().imag,
    "of a subclass": lambda shape: torch.zeros(shape).as_subclass(Marked),  # type: ignore[arg-type]
    "without memory": lambda shape: torch.zeros(shape, device="meta"),
}
_INTO: dict[str, Callable[..., torch.Tensor]] = {
    "cat": lambda x, out=None: torch.cat([x, x], 0, out=out),
    "cat of columns": lambda x, out=None: torch.cat([x, x], 1, out=out),
    "index_select": lambda x, out=None: torch.index_select(x, 0, torch.arange(250, -1, -1) % len(x), out=out),
    "tanh": torch.tanh,
    "softmax": lambda x, out=None: torch.softmax(x, 0, out=out),
}


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("name", _INTO)
def test_results_that_are_given(name: str, result: str) -> None:
    x = operand(name)
    shape = _INTO[name](x).shape

    def call() -> list[torch.Tensor]:
        out = RESULTS[result](shape)
        given = _INTO[name](x, out=out)
        assert given is out
        return [given]

    agree(call)


def test_a_gradient_without_axes() -> None:
    for gradient, which in (
        (torch.ones(()), torch.zeros((), dtype=torch.int64)),
        (torch.ones(()), torch.zeros(1, dtype=torch.int64)),
    ):
        agree(lambda g=gradient, w=which: torch.ops.aten.embedding_dense_backward(g, w, 2000, -1, False))


@pytest.mark.parametrize("bad", [2000, -1, 2**31 - 1, -(2**31), 2**31, -(2**63)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_gradients_of_rows_that_are_not_there(bad: int, dtype: torch.dtype) -> None:
    if not torch.iinfo(dtype).min <= bad <= torch.iinfo(dtype).max:
        return
    which = torch.randint(0, 2000, (400,), dtype=dtype)
    which[333] = bad
    gradient = torch.randint(-9, 9, (400, 65)).float()
    agree(lambda: torch.ops.aten.embedding_dense_backward(gradient, which, 2000, 7, False))


# More than memory holds, and more than 64 bits count: torch's own says how much it lacks.
_ENDLESS: dict[str, Callable[[], torch.Tensor]] = {
    "cat": lambda: torch.cat([torch.zeros(1).expand(2**40)] * 3),
    "cat, of bytes": lambda: torch.cat([torch.zeros(1, dtype=torch.uint8).expand(2**62)] * 3),
    "cat, of many": lambda: torch.cat([torch.zeros(1).expand(2**62 - 1)] * 100),
    "embedding": lambda: F.embedding(torch.zeros(1, dtype=torch.int64).expand(2**50), operand("embedding")),
    "embedding, more": lambda: F.embedding(torch.zeros(1, dtype=torch.int64).expand(2**61), operand("embedding")),
    "index_select": lambda: operand("embedding").index_select(0, torch.zeros(1, dtype=torch.int64).expand(2**50)),
    "index_select, more": lambda: operand("embedding").index_select(0, torch.zeros(1, dtype=torch.int64).expand(2**60)),
    "topk": lambda: torch.topk(torch.randn(64).expand(2**45, 64), 3).values,
    "topk, more": lambda: torch.topk(torch.randn(64).expand(2**55, 64), 64).values,
    "conv3d": lambda: F.conv3d(operand("conv3d"), torch.ones(16, 8, 3, 3, 3), padding=(2**40, 1, 1)),
    "conv3d, more": lambda: F.conv3d(operand("conv3d"), torch.ones(16, 8, 3, 3, 3), padding=(2**40, 2**40, 1)),
    "conv_transpose3d": lambda: F.conv_transpose3d(operand("conv3d"), torch.ones(8, 16, 3, 3, 3), dilation=(2**15, 2**15, 2**15)),
}


@pytest.mark.parametrize("name", _ENDLESS)
def test_more_than_memory_holds(name: str) -> None:
    agree(_ENDLESS[name])
