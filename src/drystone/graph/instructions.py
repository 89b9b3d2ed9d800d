"""The elementwise instructions, each once: its operands, its scalars, what it computes, and what may take it as an epilogue.

A chain of them is what a ``pointwise`` node computes, and what a product does to its results before they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


@dataclass(frozen=True)
class PointwiseOp:
    """One elementwise instruction.

    ``kind`` names it in ``INSTRUCTIONS``, ``args`` are its operands: ``("in", i)`` is the i-th tensor operand of the chain,
    ``("reg", j)`` the result of its j-th instruction. ``alpha`` and ``beta`` are its scalars.
    ``beta`` is the zero that adds nothing, unless given: x + -0.0 is x, where x + 0.0 makes a 0.0 of a -0.0.
    """

    kind: str
    args: tuple[tuple[str, int], ...]
    alpha: float = 0.0
    beta: float = -0.0

    def __str__(self) -> str:
        operands = ", ".join(f"{where}{index}" for where, index in self.args)
        scalars = f"; {self.alpha:g}, {self.beta:g}" if self.alpha or self.beta else ""
        return f"{self.kind}({operands}{scalars})"


@dataclass(frozen=True)
class Instruction:
    """``function`` of the instruction and its operands, on torch tensors.

    ``fuses``: products take it as an epilogue. ``exponential``: it takes one, which is most of its time.
    ``aten``: torch's operators that are this instruction, without further arguments.
    """

    function: Callable[..., Tensor]
    arity: int = 1
    fuses: bool = False
    commutes: bool = False
    exponential: bool = False
    aten: tuple[str, ...] = ()


def _unary(
    function: Callable[[PointwiseOp, Tensor], Tensor], *aten: str, fuses: bool = False, exponential: bool = False
) -> Instruction:
    return Instruction(function, 1, fuses, exponential=exponential, aten=aten)


def _binary(function: Callable[[Tensor, Tensor], Tensor], fuses: bool = False, commutes: bool = False) -> Instruction:
    return Instruction(lambda op, x, y: function(x, y), 2, fuses, commutes)


INSTRUCTIONS: dict[str, Instruction] = {
    "relu": _unary(lambda op, x: x.relu(), "relu", fuses=True),
    "leaky_relu": _unary(lambda op, x: F.leaky_relu(x, op.alpha), fuses=True),
    "elu": _unary(lambda op, x: F.elu(x, op.alpha), fuses=True, exponential=True),
    "gelu_erf": _unary(lambda op, x: F.gelu(x), fuses=True, exponential=True),
    "gelu_tanh": _unary(lambda op, x: F.gelu(x, approximate="tanh"), fuses=True, exponential=True),
    "silu": _unary(lambda op, x: F.silu(x), "silu", fuses=True, exponential=True),
    "mish": _unary(lambda op, x: F.mish(x), "mish", fuses=True, exponential=True),
    "hardswish": _unary(lambda op, x: F.hardswish(x), "hardswish", fuses=True),
    "hardsigmoid": _unary(lambda op, x: F.hardsigmoid(x), "hardsigmoid", fuses=True),
    "sigmoid": _unary(lambda op, x: x.sigmoid(), "sigmoid", "special_expit", fuses=True, exponential=True),
    "tanh": _unary(lambda op, x: x.tanh(), "tanh", fuses=True, exponential=True),
    "clamp": _unary(lambda op, x: x.clamp(op.alpha, op.beta), fuses=True),
    "exp": _unary(lambda op, x: x.exp(), "exp", fuses=True, exponential=True),
    "log": _unary(lambda op, x: x.log(), "log", fuses=True),
    "sqrt": _unary(lambda op, x: x.sqrt(), "sqrt", fuses=True),
    "log1p": _unary(lambda op, x: x.log1p(), "log1p"),
    "rsqrt": _unary(lambda op, x: x.rsqrt(), "rsqrt"),
    "abs": _unary(lambda op, x: x.abs(), "abs", "absolute", fuses=True),
    "neg": _unary(lambda op, x: -x, "neg", "negative"),
    "square": _unary(lambda op, x: x * x, "square", fuses=True),
    "reciprocal": _unary(lambda op, x: x.reciprocal(), "reciprocal"),
    "erf": _unary(lambda op, x: x.erf(), "erf", "special_erf"),
    "sin": _unary(lambda op, x: x.sin(), "sin"),
    "cos": _unary(lambda op, x: x.cos(), "cos"),
    "affine": _unary(lambda op, x: op.alpha * x + op.beta, fuses=True),
    "pow": _unary(lambda op, x: x**op.alpha, fuses=True),
    "floor": _unary(lambda op, x: x.floor(), "floor"),
    "round": _unary(lambda op, x: x.round(), "round.default", fuses=True),
    "sign": _unary(lambda op, x: x.sign(), "sign"),
    "replace_nan": _unary(lambda op, x: torch.where(x.isnan(), op.alpha, x)),
    "replace_inf": _unary(lambda op, x: torch.where(x.isinf(), torch.where(x > 0, op.alpha, op.beta), x)),
    "add": _binary(torch.add, fuses=True, commutes=True),
    "sub": _binary(torch.sub, fuses=True),
    "mul": _binary(torch.mul, fuses=True, commutes=True),
    "div": _binary(torch.div, fuses=True),
    "maximum": _binary(torch.maximum, fuses=True, commutes=True),
    "minimum": _binary(torch.minimum, fuses=True, commutes=True),
    "pow2": _binary(torch.pow),
    "prelu": _binary(lambda x, y: torch.where(x > 0, x, x * y)),
}


def run_instructions(ops: Sequence[PointwiseOp], operands: Sequence[Tensor]) -> Tensor:
    """A chain of instructions: the result of the last one."""
    registers: list[Tensor] = []
    for op in ops:
        args = [operands[index] if where == "in" else registers[index] for where, index in op.args]
        registers.append(INSTRUCTIONS[op.kind].function(op, *args))
    shape = torch.broadcast_shapes(*(operand.shape for operand in operands))
    return registers[-1].expand(shape)
