"""A model that can't be captured whole, prepared in parts: divided, put together again, and held against the model itself.

Passes and plan are not known here: each part is a model that is captured whole, and all of them have one preparer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.capture.alone import own_random_numbers
from drystone.capture.isolated import cloned_call
from drystone.capture.module_tree import bare, copy_tree
from drystone.capture.parts import Part, divide, first_line
from drystone.capture.recording import Call, Recording, record
from drystone.errors import DrystoneError, UnsupportedError, warn
from drystone.factories import on_cpu
from drystone.options import Options
from drystone.preparer import Preparer
from drystone.runtime.agreement import relative_error
from drystone.runtime.entries import Entries, tensors_of_tree
from drystone.runtime.explain import ExplainedPart, PartedExplanation
from drystone.runtime.module import Example, OptimizedModule
from drystone.runtime.parts import Forward, PartedModule, PartForward
from drystone.runtime.recurrent import RecurrentForward, is_recurrent
from drystone.runtime.timing import against_eager
from drystone.sources.whole import optimize_whole

# Programs of one part, for different ways of calling it.
MAX_CALLS = 4
# What the result in parts may differ from eager's: five times what each may differ from float64, and for bfloat16 as much more
# than autocast as one program may, within bounds that still tell a wrong result.
FLOAT32_LIMIT = 1e-4
BFLOAT16_LIMITS = 2e-2, 1e-1
BFLOAT16_TIMES_AUTOCAST = 1.5
# Parts that a message names, and characters of a reason; explain() has all.
NAMED, REASON = 8, 240

# Programs of a part, for its ways of being called; or what takes them all.
Prepared = list[OptimizedModule] | RecurrentForward
# Seconds of one and the other, called in turn.
Race = Callable[[Callable[[], Any], Callable[[], Any]], tuple[float, float]]


@dataclass
class _Verdict:
    """What calls of the whole do. ``reason`` where it is "eager"."""

    runs: str = "drystone"
    reason: str = ""
    plan_seconds: float | None = None
    eager_seconds: float | None = None


def optimize_in_parts(example: Example, options: Options, preparer: Preparer, error: DrystoneError) -> PartedModule:
    """The model with its largest capturable parts prepared, and its recurrent layers. ``error``: why it is not captured whole.

    With ``tuning="measure"`` the result is timed against eager; else the parts' word is taken. The parts share a budget, each
    takes up to half of what is left.
    Raises ``error`` again where the model does not run on the example, and with a sentence more where no part can be captured.
    """
    model, args, kwargs, dtype = example.model, example.args, example.kwargs, options.dtype
    budget = options.budget()
    race = partial(against_eager, budget=budget) if options.measures else None

    def program(module: nn.Module, call: Call, dtype: torch.dtype | None) -> OptimizedModule:
        example = Example(module, call.args, call.kwargs)
        return optimize_whole(example, replace(options, dtype=dtype), preparer, part=True, budget=budget.share(0.5))

    with undisturbed():
        recording = _recorded(model, args, kwargs, error)

        def prepared(module: nn.Module, calls: list[Call]) -> Prepared:
            own_dtype = None if module in options.float32_modules else dtype
            if is_recurrent(module):
                return _recurrent(RecurrentForward(module, preparer, own_dtype), module, calls, own_dtype, race)
            return _programs(bare(module), calls, own_dtype, program)

        parts = list(divide(model, first_line(error), recording, prepared, is_recurrent))
        quantised = any(map(_is_quantised, model.modules()))
        if not quantised and not any(part.prepared for part in parts):
            tried = [f"{part.name} ({type(part.module).__name__}): {part.reason}" for part in parts[1 : NAMED + 1]]
            raise type(error)("\n".join([str(error), "None of its submodules can be captured either.", *tried])) from error
        forwards = {part.module: _forward(part, recording) for part in parts if _native(part)}

        def assembled(forwards: dict[nn.Module, Forward]) -> nn.Module:
            return copy_tree(model, forwards, recording.stateful)[model]

        others = "all of its layers that have weights are torch's quantised ones, which have kernels of their own"
        verdict = _Verdict("eager", others if quantised else "no part that can be captured is faster in drystone")
        if forwards:
            verdict = _verdict(assembled(forwards), assembled({}), args, kwargs, recording.output, dtype, race)
        running = forwards if verdict.runs == "drystone" else {}
        fast = PartedModule(
            model,
            assembled(running),
            running,
            lambda: _explanation(parts, forwards, verdict),
            Entries(model, tensors_of_tree(model, recording.stateful)),
        )
    _report(parts, verdict)
    return fast


def _is_quantised(module: nn.Module) -> bool:
    """Whether it is one of torch.ao's, as torch.ao.quantization.quantize_dynamic makes: weights in an object of C++."""
    return type(module).__module__.startswith("torch.ao.nn.quantized")


@contextmanager
def undisturbed() -> Iterator[None]:
    """As parts run later, whatever holds around the call of optimize."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        on_cpu(),
        own_random_numbers(),
    ):
        yield


def run_once(module: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call that leaves the example alone and draws the same random numbers each time."""
    args, kwargs = cloned_call(args, kwargs)
    with own_random_numbers():
        return module(*args, **kwargs)


def record_once(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recording:
    recording: Recording = run_once(lambda *args, **kwargs: record(model, args, kwargs), args, kwargs)
    return recording


def _recorded(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: DrystoneError) -> Recording:
    try:
        return record_once(model, args, kwargs)
    except Exception as failure:  # the capture has met it too, and said on which line
        raise error from failure


def _programs(
    module: nn.Module,
    calls: list[Call],
    dtype: torch.dtype | None,
    prepare: Callable[[nn.Module, Call, torch.dtype | None], OptimizedModule],
) -> list[OptimizedModule]:
    """A program for each way of calling the module, held against the module; the first must succeed."""

    def program(call: Call) -> OptimizedModule:
        with own_random_numbers():  # autotuning draws numbers too
            made = prepare(module, call, dtype)
        differs = difference(run_once(made, call.args, call.kwargs), module, call.args, call.kwargs, dtype)
        if differs:
            raise UnsupportedError(f"its program's results differ from its own {differs}")
        return made

    programs = [program(calls[0])]
    for call in calls[1:MAX_CALLS]:
        try:
            programs.append(program(call))
        except DrystoneError:
            continue
    return programs


def _recurrent(
    made: RecurrentForward, module: nn.Module, calls: list[Call], dtype: torch.dtype | None, race: Race | None
) -> RecurrentForward:
    """The module on packed weights, held against itself in each way of calling it."""
    alone, fast = bare(module), made.around(module.forward)
    for call in calls:
        differs = difference(run_once(fast, call.args, call.kwargs), alone, call.args, call.kwargs, dtype)
        if differs:
            raise UnsupportedError(f"on packed weights its results differ from its own {differs}")
    call = calls[0]
    if race is not None:
        ours, eager = race(lambda: fast(*call.args, **call.kwargs), lambda: alone(*call.args, **call.kwargs))
        if eager < ours:
            raise UnsupportedError("eager was faster in autotuning")
    return made


def _programs_of(part: Part[Prepared]) -> list[OptimizedModule]:
    return part.prepared if isinstance(part.prepared, list) else []


def _native(part: Part[Prepared]) -> bool:
    """Whether a program of the part computes anything itself, faster than eager."""
    if isinstance(part.prepared, RecurrentForward):
        return True
    explanations = [program.explain() for program in _programs_of(part)]
    return any(explained.runs == "drystone" and len(explained.segments) < len(explained.steps) for explained in explanations)


def _why_eager(part: Part[Prepared]) -> str:
    steps = [step for program in _programs_of(part) for step in program.explain().steps]
    if part.prepared and all(step.kind == "aten" for step in steps):
        return "none of its operators has a native implementation"
    return part.reason or "eager was faster in autotuning"


def _forward(part: Part[Prepared], recording: Recording) -> Forward:
    if isinstance(part.prepared, RecurrentForward):
        return part.prepared
    programs, calls = _programs_of(part), recording.calls[part.module]
    left = len(calls) - len(programs)
    return PartForward(part.name, programs, f"eager in {left} of {len(calls)} ways of calling it" if left else "")


def _verdict(
    tree: nn.Module,
    eager: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    want: Any,
    dtype: torch.dtype | None,
    race: Race | None,
) -> _Verdict:
    """Whether the model in parts gives what the model gives, and sooner."""
    try:
        got = run_once(tree, args, kwargs)
    except Exception as failure:  # some way of using a module that a copy of it does not bear
        return _Verdict("eager", f"in parts the model raises {type(failure).__name__}: {first_line(failure)}")
    differs = difference(got, eager, args, kwargs, dtype, want)
    if differs:
        return _Verdict("eager", f"with its parts in drystone the model's results differ from its own {differs}")
    if race is None:
        return _Verdict()

    def called(module: nn.Module) -> Any:
        given, named = cloned_call(args, kwargs)  # a cache would grow with each call
        return module(*given, **named)

    ours, theirs = race(lambda: called(tree), lambda: called(eager))
    slower = theirs < ours
    return _Verdict("eager" if slower else "drystone", "eager was faster in autotuning" if slower else "", ours, theirs)


def difference(
    got: Any,
    eager: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dtype: torch.dtype | None,
    want: Any = None,
    least: float = 0.0,
) -> str | None:
    """How ``got`` differs from ``want`` (None: what ``eager`` gives) by more than rounding and ``least``; None where it doesn't."""
    want = run_once(eager, args, kwargs) if want is None else want
    limit, error = max(_limit(eager, args, kwargs, want, dtype), least), relative_error(got, want)
    if error <= limit:
        return None
    return f"by {error:.1e}, allowed is {limit:.0e}" if math.isfinite(error) else "in structure or in whole numbers"


def _limit(eager: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], want: Any, dtype: torch.dtype | None) -> float:
    """The relative error that is put down to rounding."""
    low, high = BFLOAT16_LIMITS
    if dtype is torch.bfloat16:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounding = relative_error(_floats(run_once(eager, args, kwargs)), _floats(want))
        return min(max(low, BFLOAT16_TIMES_AUTOCAST * rounding), high)
    dtypes = {leaf.dtype for leaf in pytree.tree_leaves(want) if isinstance(leaf, torch.Tensor)}
    reduced = not dtypes.isdisjoint((torch.bfloat16, torch.float16))
    return low if reduced else FLOAT32_LIMIT


def _floats(result: Any) -> list[torch.Tensor]:
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    return [leaf.float() for leaf in leaves if leaf.is_floating_point()]


def _explanation(parts: list[Part[Prepared]], forwards: dict[nn.Module, Forward], verdict: _Verdict) -> PartedExplanation:
    explained = []
    for part in parts:
        forward = forwards.get(part.module)
        reason = forward.other_inputs if forward else _why_eager(part)
        runs = "drystone" if forward and forward.runs and verdict.runs == "drystone" else "eager"
        programs = [program.explain() for program in _programs_of(part)]
        explained.append(ExplainedPart(part.name, type(part.module).__name__, runs, reason or verdict.reason, programs))
    plan, eager = (seconds and 1e3 * seconds for seconds in (verdict.plan_seconds, verdict.eager_seconds))
    return PartedExplanation(explained, verdict.runs, verdict.reason, plan, eager)


def _report(parts: list[Part[Prepared]], verdict: _Verdict) -> None:
    """The one warning: what runs in drystone, what eagerly and why. None where the model is one part that does not."""
    if _native(parts[0]) and verdict.runs == "drystone":
        return

    def listed(items: list[str]) -> str:
        more = len(items) - NAMED
        return "; ".join(items[:NAMED]) + (f"; and {more} more" if more > 0 else "")

    def shown(part: Part[Prepared]) -> str:
        return f"{part.name!r} ({type(part.module).__name__})"

    why = shorten(parts[0].reason, REASON)
    text = f"{type(parts[0].module).__name__} can't be captured whole, {why}. "
    if verdict.runs == "eager":
        text += f"It runs eagerly: {verdict.reason}."
    else:
        native = [shown(part) for part in parts if _native(part)]
        costly = [part for part in parts[1:] if next(part.module.parameters(), None) is not None]
        eager = [f"{shown(part)}: {shorten(_why_eager(part), REASON)}" for part in costly if not _native(part)]
        text += f"In drystone run {listed(native)}. Eagerly runs what is around them"
        text += f", and {listed(eager)}." if eager else "."
    warn(text + " explain() says more")
