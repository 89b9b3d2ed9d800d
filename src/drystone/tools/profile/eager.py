"""An eager model's operators: times from torch's profiler, and from oneDNN's verbose output which of them reorder, and by what each
was computed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from drystone.runtime.explain import ExplainedStep, Explanation
from drystone.tools.bench.environment import onednn_of_torch

from .onednn_verbose import Primitive, Verbose, mark, verbose
from .results import EagerFigures

# What the profiler knows an operator by: this and its number.
_MARK = "drystone_mark:"
# Operators that do no more than move elements.
_COPIES = {"aten::copy_", "aten::clone", "aten::_to_copy", "aten::contiguous", "aten::to_mkldnn", "aten::_to_dense"}
# Of the batch: a product before takes its scales and shifts, or its weights do.
_FOLDED = {"aten::native_batch_norm", "aten::_native_batch_norm_legit_no_training", "aten::cudnn_batch_norm"}
# They make a tensor, or another view of one, and touch no elements.
_IDLE = {"aten::empty", "aten::empty_strided", "aten::empty_like", "aten::resize_"}

# Else the profiler writes lines of its own to standard error.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


@dataclass
class _Operator:
    """One operator of a call. ``fuses``: it reads what a product has just written, or what fuses into one."""

    name: str
    module: str
    shape: list[int]
    dtype: str
    format: str
    operations: int
    bytes: int
    idle: bool
    fuses: bool


@dataclass
class _Seen:
    """What the profiler and oneDNN said of an operator in one call."""

    microseconds: float
    deepest: str
    primitives: list[Primitive]


@dataclass
class EagerProfile:
    """``steps``: the operators, and the reorders inside them as steps of their own. Medians over the ``calls``.

    ``fusible``: those that a plan fuses into a product before them. ``references``: those that ran oneDNN's plain loops.
    """

    steps: list[ExplainedStep] = field(default_factory=list)
    fusible: list[ExplainedStep] = field(default_factory=list)
    references: list[ExplainedStep] = field(default_factory=list)
    calls: int = 0
    seconds: float = 0.0  # of an observed call

    def explanation(self, milliseconds: float, module: nn.Module) -> Explanation:
        """``milliseconds``: of a call."""
        return Explanation(
            steps=self.steps,
            runs="eager",
            arena_bytes=0,
            weights_bytes=sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values()),
            plan_milliseconds=milliseconds,
            eager_milliseconds=milliseconds,
            threads=torch.get_num_threads(),
            isa=torch.backends.cpu.get_cpu_capability().lower(),
            onednn=f"{onednn_of_torch()} (torch's)",
        )

    def figures(self, explained: Explanation) -> EagerFigures:
        reorders = explained.reorders
        # Small operators take longer while they are looked at: then only their shares count.
        scale = min(1.0, 1e3 * explained.plan_milliseconds / explained.microseconds) if self.steps else 1.0

        def milliseconds(steps: list[ExplainedStep]) -> float:
            return scale * sum(step.microseconds for step in steps) / 1e3

        saving = {
            f"{len(reorders)} reorders and copies": milliseconds(reorders),
            f"{len(self.fusible)} operators that fuse into a product": milliseconds(self.fusible),
            "between the operators": explained.between_microseconds / 1e3,
        }
        references = [f"{step.op} ({step.module}): {step.implementation}" for step in self.references]
        return EagerFigures(explained.plan_milliseconds, len(reorders), explained.reorder_share, saving, references)


def profile_eager(module: nn.Module, call: Callable[[], object], calls: int = 5) -> EagerProfile:
    """Calls it ``calls`` times, and once before, under torch's profiler and oneDNN's verbose output, which takes longer than it
    does alone. Calls whose operators are not those of the last one do not count.
    """
    kept: list[tuple[list[_Operator], list[_Seen], float]] = []
    for _ in range(1 + calls):
        with (
            _watched(module) as (watch, said),
            torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler,
        ):
            began = time.perf_counter()
            call()
            took = time.perf_counter() - began
        kept.append((watch.operators, list(_seen(watch.operators, profiler, said)), took))
    operators = kept[-1][0]
    names = [operator.name for operator in operators]
    kept = [entry for entry in kept[1:] if [operator.name for operator in entry[0]] == names]
    result = EagerProfile(calls=len(kept), seconds=statistics.median(took for _, _, took in kept))
    for number, operator in enumerate(operators):
        if not operator.idle:
            _add(result, number, operator, [seen[number] for _, seen, _ in kept])
    return result


def _add(result: EagerProfile, number: int, operator: _Operator, seen: list[_Seen]) -> None:
    """The steps of one operator: the reorders of its operands, itself, and the reorder of its result."""
    last = seen[-1]
    seen = [one for one in seen if len(one.primitives) == len(last.primitives)]
    reordering = 0.0
    own: list[Primitive] = []
    before: list[ExplainedStep] = []
    after: list[ExplainedStep] = []
    for place, primitive in enumerate(last.primitives):
        if primitive.kind != "reorder":
            own.append(primitive)
            continue
        took = statistics.median(one.primitives[place].microseconds for one in seen)
        reordering += took
        formats = " → ".join(primitive.formats.values())
        step = ExplainedStep(
            name=f"{number}.{place}",
            op="reorder",
            shape=primitive.shape,
            dtype=operator.dtype,
            implementation=primitive.implementation,
            format=formats,
            microseconds=took,
            kind="reorder",
            module=operator.module,
        )
        (after if own else before).append(step)
    implementation = ", ".join(dict.fromkeys(primitive.implementation for primitive in own)) or last.deepest
    main = ExplainedStep(
        name=str(number),
        op=operator.name,
        shape=operator.shape,
        dtype=operator.dtype,
        implementation=implementation,
        format=own[-1].formats.get("dst", operator.format) if own else operator.format,
        microseconds=max(0.0, statistics.median(one.microseconds for one in seen) - reordering),
        kind="copy" if operator.name in _COPIES else "node",
        module=operator.module,
        operations=operator.operations,
        bytes=operator.bytes,
    )
    result.steps += [*before, main, *after]
    if operator.fuses:
        result.fusible.append(main)
    if any(primitive.is_reference for primitive in last.primitives):
        result.references.append(main)


def _seen(operators: list[_Operator], profiler: torch.profiler.profile, said: Verbose) -> Iterator[_Seen]:
    times = {event.name: event for event in profiler.events() or () if event.name.startswith(_MARK)}
    for number, _ in enumerate(operators):
        event = times[f"{_MARK}{number}"]
        yield _Seen(event.time_range.elapsed_us(), _deepest(event), said.between.get(number, []))


def _deepest(event: Any) -> str:
    """The operator inside that took the most time by itself."""
    inside = list(event.cpu_children)
    longest = max(inside, key=lambda child: child.cpu_time_total, default=None)
    if longest is None:
        return ""
    found = max([longest, *longest.cpu_children], key=lambda child: child.self_cpu_time_total)
    return str(found.name)


@contextmanager
def _watched(module: nn.Module) -> Iterator[tuple[_Watch, Verbose]]:
    """Each operator that is dispatched within is marked, with the module that calls it."""
    names = {id(inside): name for name, inside in module.named_modules()}
    stack = [""]

    def enter(inside: nn.Module, args: Any) -> None:
        if id(inside) in names:
            stack.append(names[id(inside)])

    def leave(inside: nn.Module, args: Any, result: Any) -> None:
        if id(inside) in names:
            stack.pop()

    with ExitStack() as hooks:
        for handle in (
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave, always_call=True),
        ):
            hooks.callback(handle.remove)
        said = hooks.enter_context(verbose())
        watch = _Watch(stack)
        with watch:
            yield watch, said


class _Watch(TorchDispatchMode):
    def __init__(self, stack: list[str]) -> None:
        super().__init__()
        self.operators: list[_Operator] = []
        self._stack = stack
        self._products: set[int] = set()  # where lies what a product wrote last, or what fuses into one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        number = len(self.operators)
        mark(number)
        with record_function(f"{_MARK}{number}"):
            result = func(*args, **kwargs)
        mark(-1)
        self.operators.append(self._described(func, args, kwargs, result))
        return result

    def _described(self, func: Any, args: Any, kwargs: Any, result: Any) -> _Operator:
        read = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        written = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        packet = func._overloadpacket
        name = func._schema.name
        counts = packet in flop_registry and written
        operations = int(flop_registry[packet](*args, **kwargs, out_val=result)) if counts else 0
        fuses = (torch.Tag.pointwise in func.tags or name in _FOLDED) and any(_where(x) in self._products for x in read)
        if not func.is_view:
            for tensor in written:
                (self._products.add if operations or fuses else self._products.discard)(_where(tensor))
        first = written[0] if written else None
        return _Operator(
            name=name,
            module=self._stack[-1],
            shape=list(first.shape) if first is not None else [],
            dtype=str(first.dtype).removeprefix("torch.") if first is not None else "",
            format=_format(first),
            operations=operations,
            bytes=sum(tensor.numel() * tensor.element_size() for tensor in [*read, *written]),
            idle=func.is_view or name in _IDLE,
            fuses=fuses,
        )


def _where(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() if tensor.layout == torch.strided else 0


def _format(tensor: torch.Tensor | None) -> str:
    if tensor is None or tensor.layout != torch.strided:
        return "" if tensor is None else str(tensor.layout).removeprefix("torch.")
    if tensor.is_contiguous():
        return "plain"
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    return "channels_last" if last is not None and tensor.is_contiguous(memory_format=last) else "strided"
