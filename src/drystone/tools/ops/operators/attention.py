"""Attention by length: BERT-base's 12 heads of 64, batch 1, causal or not.

drystone and torch read their operands as linears leave them, (B, T, H, D). OpenVINO gets them heads first, (B, H, T, D), as its
operator is defined: a model would have to bring them into that order, or its plugin to fuse that away. Operands are hot: in a
model, the linears have just written them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from drystone import native

from ...bench.workload import DTYPES
from ..case import Call, Case, Contest
from ..step import call_of, desc

LENGTHS = (64, 128, 256, 512, 1024, 2048)
HEADS, SIZE = 12, 64


def cases(dtype: str) -> Iterator[Case]:
    """Every length, causal and not."""
    for length in LENGTHS:
        for causal in (False, True):
            yield case(dtype, length, causal)


def case(dtype: str, length: int, causal: bool) -> Case:
    pairs = length * (length + 1) // 2 if causal else length * length
    return Case(
        operator="attention",
        tag="bert-base",
        dtype=dtype,
        sizes={"T": length, "causal": "yes" if causal else "no"},
        axis="T",
        group="causal" if causal else "not causal",
        flops=4 * HEADS * SIZE * pairs,
        bytes=4 * length * HEADS * SIZE * DTYPES[dtype].itemsize,
        copies=1,
        make=lambda: attention(length, DTYPES[dtype], causal),
    )


def attention(length: int, dtype: torch.dtype, causal: bool) -> Contest:
    """The contenders; each gives its result as (B, H, T, D)."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, length, HEADS, SIZE, generator=generator).to(dtype) for _ in range(3))
    heads_q, heads_k, heads_v = (x.transpose(1, 2) for x in (q, k, v))

    def drystone() -> Call:
        y = torch.empty_like(q)
        scale = 1 / math.sqrt(SIZE)
        step = native.attention(desc(q), desc(k), desc(v), None, desc(y), (False,) * 4, scale, causal, False)
        return call_of(step, [[q, k, v, y]], y.transpose(1, 2))

    def stock() -> Call:
        return lambda _: F.scaled_dot_product_attention(heads_q, heads_k, heads_v, is_causal=causal)

    def exact() -> torch.Tensor:
        return F.scaled_dot_product_attention(heads_q.double(), heads_k.double(), heads_v.double(), is_causal=causal)

    return Contest({"drystone": drystone, "torch": stock, "openvino": lambda: openvino([heads_q, heads_k, heads_v], causal)}, exact)


def openvino(operands: list[torch.Tensor], causal: bool) -> Call:
    """A model of the one operator. Timed is ``infer()`` on memory that it was given before: it converts and copies nothing."""
    import openvino as ov
    from openvino import opset13

    dtype = operands[0].dtype
    kind, hint = (ov.Type.f32, "f32") if dtype == torch.float32 else (ov.Type.bf16, "bf16")
    tensors = [x.contiguous() for x in operands]
    result = torch.empty_like(tensors[0])
    parameters = [opset13.parameter(list(x.shape), kind) for x in tensors]
    model = ov.Model([opset13.scaled_dot_product_attention(*parameters, causal=causal)], parameters, "attention")
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": hint}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()

    def shared(x: torch.Tensor) -> ov.Tensor:
        """numpy has no bfloat16: it passes the memory on as integers, which OpenVINO reads as ``kind``."""
        return ov.Tensor(x.view(torch.int16 if x.dtype == torch.bfloat16 else x.dtype).numpy(), ov.Shape(list(x.shape)), kind)

    for i, x in enumerate(tensors):
        request.set_input_tensor(i, shared(x))
    request.set_output_tensor(0, shared(result))

    def call(_: int) -> torch.Tensor:
        assert tensors  # the request has no more than their addresses
        request.infer()
        return result

    return call


OPERATORS = {"attention": cases}
