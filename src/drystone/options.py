"""The options of ``optimize``, and their checks."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from drystone import native
from drystone.checkpoints import gguf
from drystone.errors import InputError, UnsupportedError
from drystone.graph.groups import Grouped
from drystone.plan.budget import Budget

# What asks for codes: alone, and with bfloat16 for what stays of floats.
INT8 = (torch.int8, (torch.int8, torch.bfloat16))


@dataclass(frozen=True)
class Options:
    """The options of ``optimize``. ``float32_modules`` stay float32 where ``dtype`` is bfloat16, ``kept_modules`` keep their
    weights where ``weights`` quantises the others."""

    dtype: torch.dtype | None = None
    tuning: str | float = "measure"
    strict: bool = False
    formats: str | None = None
    accuracy: str = "default"
    new_shapes: str = "wait"
    float32_modules: Collection[nn.Module] = ()
    weights: str | os.PathLike[str] | None = None
    group_size: int = 32
    activations: str | None = None
    kept_modules: Collection[nn.Module] = ()
    grouped: Mapping[Hashable, Grouped] = field(default_factory=dict)  # weights that have codes already, by identity
    varying: bool = False  # texts are of many lengths: the first capture has symbols for their sizes

    @property
    def measures(self) -> bool:
        return self.tuning != "estimate"

    def budget(self) -> Budget:
        """A new one, for one preparation."""
        return Budget() if isinstance(self.tuning, str) else Budget(self.tuning, math.inf)


def grouped_of(model: nn.Module, weights: Any) -> dict[Hashable, Grouped]:
    """The weights of ``model`` that have codes already, where ``weights`` is a file that holds them."""
    return gguf.grouped_of_file(model, weights) if gguf.is_path(weights) else {}


def example_call(
    example_inputs: Sequence[Any] | torch.Tensor | PackedSequence | None, example_kwargs: dict[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional inputs and those by name. One tensor, or a packed sequence, is the only positional one."""
    single = isinstance(example_inputs, (torch.Tensor, PackedSequence))
    return (example_inputs,) if single else tuple(example_inputs or ()), dict(example_kwargs or {})


def require_example(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not args and not kwargs:
        raise InputError("example_inputs is missing: optimize needs one set of inputs, as a tuple, to know shapes and dtypes")


def check_int8(
    max_error: Any, model: nn.Module, capture: Any, release_originals: bool, new_shapes: Any, dynamic_shapes: Any
) -> None:
    """Raise for options that don't go with ``dtype=torch.int8``."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedError("dtype=torch.int8: a TorchScript module can't be quantised; give the module that it was made from")
    if new_shapes != "wait":
        raise InputError("dtype=torch.int8: shapes are the example's or declared by dynamic_shapes; leave out new_shapes")
    if isinstance(dynamic_shapes, str):
        raise InputError(
            "dtype=torch.int8: shapes are the example's or declared one by one; give dynamic_shapes a dimension for each"
        )
    if capture == "eager":
        raise InputError('dtype=torch.int8: the model is captured whole; leave out capture="eager"')
    if release_originals:
        raise InputError("dtype=torch.int8: leave out release_originals; codes are held beside the model")
    number = isinstance(max_error, (int, float)) and not isinstance(max_error, bool)
    if max_error is not None and not (number and 0 < max_error < math.inf):
        raise InputError(f"max_error: expected a positive relative error such as 0.05, got {max_error!r}")


def check_generates(dynamic_shapes: Any, capture: Any, release_originals: bool) -> None:
    """Raise for options that don't go with a language model without an example, which is called for any number of tokens."""
    if dynamic_shapes is not None:
        raise InputError("dynamic_shapes: a language model takes any number of sequences and tokens; leave it out")
    if capture == "eager":
        raise InputError('capture="eager" takes example_inputs; without them a language model is captured whole: leave out capture')
    if release_originals:
        raise InputError(
            "release_originals: a language model needs its plain weights for programs of other lengths and batches; "
            'weights="int8" or "int4" adds a quarter or an eighth to them'
        )


def check_release(model: nn.Module, dynamic_shapes: Any) -> None:
    if dynamic_shapes is not None:
        raise InputError("release_originals: other shapes need the plain weights again; leave out dynamic_shapes, or keep them")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("release_originals: a TorchScript module holds its weights itself; drop your own reference to it instead")


def check_options(
    dtype: Any = None,
    accuracy: Any = "default",
    tuning: Any = "measure",
    capture: Any = "auto",
    formats: Any = None,
    new_shapes: Any = "wait",
    weights: Any = None,
    group_size: Any = 32,
    activations: Any = None,
    dynamic_shapes: Any = None,
) -> None:
    """Raise ``UnsupportedError`` or ``InputError`` for an option out of range."""
    if dtype not in (None, torch.float32, torch.bfloat16, *INT8):
        raise UnsupportedError(
            f"dtype: expected None, torch.float32, torch.bfloat16, torch.int8 or (torch.int8, torch.bfloat16), got {dtype}"
        )
    for name, given, allowed in (
        ("accuracy", accuracy, ("default", "strict")),
        ("capture", capture, ("auto", "whole", "eager")),
        ("formats", formats, (None, *native.FORMATS)),
        ("new_shapes", new_shapes, ("wait", "background")),
        ("group_size", group_size, (32, 64, 128)),
        ("activations", activations, (None, "int8")),
    ):
        if given not in allowed:
            raise InputError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {given!r}")
    if weights not in (None, "int8", "int4") and not gguf.is_path(weights):
        raise InputError(f"weights: expected None, 'int8', 'int4' or the path of a .gguf file, got {weights!r}")
    if group_size != 32 and weights not in ("int8", "int4"):
        raise InputError(f'group_size={group_size} is of weights that are quantised here; give weights="int8" or "int4" too')
    if isinstance(dynamic_shapes, str) and dynamic_shapes != "auto":
        raise InputError(f"dynamic_shapes: expected None, 'auto' or what torch.export takes, got {dynamic_shapes!r}")
    seconds = isinstance(tuning, (int, float)) and not isinstance(tuning, bool) and tuning > 0
    if not seconds and tuning not in ("measure", "estimate"):
        raise InputError(f"tuning: expected 'measure', 'estimate' or a positive number of seconds, got {tuning!r}")


def check_eager(
    model: nn.Module,
    dtype: Any,
    dynamic_shapes: Any,
    strict: bool,
    release_originals: bool,
    new_shapes: Any = "wait",
    weights: Any = None,
) -> None:
    """Raise for options that don't go with ``capture="eager"``."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError('capture="eager": a TorchScript module runs no Python between its layers; leave capture out')
    if dtype is torch.bfloat16:
        raise UnsupportedError('capture="eager": the model computes in its own precision; convert it with model.to(torch.bfloat16)')
    if weights is not None:
        raise UnsupportedError('capture="eager": the layers keep their weights; leave out weights, or capture')
    if dynamic_shapes is not None:
        raise InputError('capture="eager": inputs of any shape are taken; leave out dynamic_shapes')
    if new_shapes != "wait":
        raise InputError('capture="eager": there is nothing to wait for at a new shape; leave out new_shapes')
    if strict:
        raise UnsupportedError('capture="eager" leaves to torch what has no program, so it can\'t be strict')
    if release_originals:
        raise InputError('capture="eager": the model itself runs where a layer can\'t, so it keeps its weights')
