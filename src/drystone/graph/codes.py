"""Constants as codes, and as the floats that these stand for. Each is made when it is used."""

from __future__ import annotations

import torch

from drystone.graph.graph import Value
from drystone.graph.quantisation import Quantisation


def coded(x: Value, quantisation: Quantisation, dtype: torch.dtype, low: int, high: int) -> Value:
    """A constant of floats as codes."""

    def codes() -> torch.Tensor:
        return quantisation.codes(x.constant.detach().float(), dtype).clamp(low, high)

    identity = ("coded", x.key, quantisation, dtype, low, high)
    return Value(x.shape, dtype, x.name, data=codes, identity=identity, quantisation=quantisation)


def codes_of(x: Value, quantisation: Quantisation) -> Value:
    """A constant of int8 or uint8 with what its codes stand for."""
    if x.quantisation == quantisation:
        return x
    return Value(x.shape, x.dtype, x.name, data=x.data, identity=("codes", x.key, quantisation), quantisation=quantisation)


def dequantised(codes: Value, dtype: torch.dtype) -> Value:
    """A constant of floats that keeps the codes that it is made of. It is made when it is used."""

    def real() -> torch.Tensor:
        assert codes.quantisation is not None
        return codes.quantisation.real(codes.constant.detach()).to(dtype)

    return Value(codes.shape, dtype, codes.name, data=real, identity=("real", codes.key, dtype), codes=codes)
