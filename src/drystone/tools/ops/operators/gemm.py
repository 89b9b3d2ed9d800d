"""Linear layers, weights cold: y (M, N) = x (M, K) @ weight (N, K) transposed + bias (N).

In a model a layer's weights have been driven out of the caches by the other layers' when its turn comes again, while x was
written just before. So each call takes the next copy of the weights, and x stays where it is. oneDNN's matmul runs as drystone
runs it, on weights in the format of its choice; torch's linear has no such format, and its weights are as they are in a module.

int8: u8 by s8 to u8, with scales. Weights lie in [-64, 63], where oneDNN is exact without VNNI too; ``drystone_8_bits`` is told
nothing of that.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from drystone import native

from ...bench.workload import DTYPES
from ..case import Call, Case, Contest, copies_to_be_cold, last_level_cache_bytes
from ..step import call_of, desc

ROWS = (1, 4, 16, 64, 128, 512, 2048)
FEW_ROWS = 128  # up to here, most of the time goes into fetching weights
#: (N, K) of the layers; BERT-base's second is its merged queries, keys and values.
LAYERS = {
    "bert-base": ((768, 768), (2304, 768), (3072, 768), (768, 3072)),
    "bert-large": ((1024, 1024), (4096, 1024), (1024, 4096)),
    "llama-7b": ((4096, 4096), (11008, 4096), (4096, 11008)),
    # Not divisible by 32, by 16, and by anything.
    "odd": ((784, 784), (1000, 2048), (333, 1217)),
}
PATCHES = 197  # of a ViT, whose layers are BERT-base's


def cases(dtype: str) -> Iterator[Case]:
    """Every layer with every number of rows, and with a ViT's."""
    cache = last_level_cache_bytes()
    for tag, layers in LAYERS.items():
        for n, k in layers:
            for m in ROWS:
                yield case(tag, dtype, m, n, k, cache)
    for n, k in LAYERS["bert-base"]:
        yield case("odd", dtype, PATCHES, n, k, cache)


def case(tag: str, dtype: str, m: int, n: int, k: int, cache: int) -> Case:
    """``cache``: bytes of the last level cache."""
    width = DTYPES[dtype].itemsize
    copies = copies_to_be_cold(n * k * width, cache)
    return Case(
        operator="gemm",
        tag=tag,
        dtype=dtype,
        sizes={"M": m, "N": n, "K": k},
        axis="M",
        group=f"M <= {FEW_ROWS}" if m <= FEW_ROWS else f"M > {FEW_ROWS}",
        flops=2 * m * n * k,
        bytes=(m * k + n * k + n + m * n) * width,
        copies=copies,
        make=lambda: layer(m, n, k, DTYPES[dtype], copies),
    )


def layer(m: int, n: int, k: int, dtype: torch.dtype, copies: int) -> Contest:
    """The contenders on ``copies`` copies of the weights."""
    if dtype == torch.int8:
        return layer_of_codes(m, n, k, copies)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((m, k), (n, k), (n,)))
    y = torch.empty(m, n, dtype=dtype)

    def drystone() -> Call:
        return packed(native.Gemm(desc(x), n, True, desc(y), []), x, weight, bias, y, copies)

    def onednn() -> Call:
        return packed(native.Linear(False, desc(x), n, True, desc(y), []), x, weight, bias, torch.empty_like(y), copies)

    def stock() -> Call:
        weights = [weight.clone() for _ in range(copies)]
        return lambda i: F.linear(x, weights[i], bias)

    def exact() -> torch.Tensor:
        return F.linear(x.double(), weight.double(), bias.double())

    return Contest({"drystone": drystone, "onednn": onednn, "torch": stock}, exact)


def layer_of_codes(m: int, n: int, k: int, copies: int) -> Contest:
    """The same of int8. Results are given as codes, which spread over all that there are."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (m, k), generator=generator).to(torch.uint8)
    weight = torch.randint(-64, 64, (n, k), generator=generator).to(torch.int8)
    bias, y = torch.randn(n, generator=generator), torch.empty(m, n, dtype=torch.uint8)
    x_scale, x_zero, scales, y_scale, y_zero = 0.02, 128, [0.01] * n, 0.02 * 0.01 * 64 * k**0.5, 128

    def quantised(scale: float, zero_point: int, shape: torch.Size) -> native.TensorDesc:
        return native.TensorDesc.dense(native.DType.u8, native.FORMATS["plain"], list(shape), scale=scale, zero_point=zero_point)

    source, target = quantised(x_scale, x_zero, x.shape), quantised(y_scale, y_zero, y.shape)

    def drystone(fit: bool) -> Call:
        step = native.Gemm(source, n, True, target, [], weight_scales=scales, weights_fit_7_bits=fit)
        return packed(step, x, weight, bias, torch.empty_like(y), copies)

    def onednn() -> Call:
        step = native.Linear(False, source, n, True, target, [], scales, True)
        return packed(step, x, weight, bias, torch.empty_like(y), copies)

    def exact() -> torch.Tensor:
        real = (x.double() - x_zero) @ weight.double().T * (x_scale * scales[0]) + bias.double()
        return (real / y_scale + y_zero).round().clamp(0, 255)

    contenders = {"drystone": lambda: drystone(True), "drystone_8_bits": lambda: drystone(False), "onednn": onednn}
    return Contest(contenders, exact)


def packed(
    step: native.Gemm | native.Linear, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, y: torch.Tensor, copies: int
) -> Call:
    """The step on as many copies of its packed weights."""
    weights = [native.allocate(step.packed_bytes) for _ in range(copies)]
    step.pack(native.DTYPES[weight.dtype], weight.data_ptr(), weights[0].data_ptr())
    for memory in weights[1:]:
        memory.copy_(weights[0])
    wide = bias.float()  # as both steps take it
    return call_of(step, [[x, memory, wide, y] for memory in weights], y)


OPERATORS = {"gemm": cases}
ON_CODES = {"gemm"}
