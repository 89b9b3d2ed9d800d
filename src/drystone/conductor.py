"""The conductor: capture, passes, plan and runtime meet here, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from drystone import native
from drystone.capture.export import Captured, check_model
from drystone.capture.export import capture as capture_module
from drystone.capture.isolated import alone
from drystone.capture.kept_modules import Choice, chosen_modules, names_of
from drystone.capture.shapes import LEAST, batch_inputs, batch_shapes, dynamic_dims, resize
from drystone.capture.signature import Signature
from drystone.errors import CaptureError, ShapeError, UnsupportedError, warn
from drystone.factories import on_cpu
from drystone.forks import Lock
from drystone.graph.build import build
from drystone.graph.graph import Graph, Node, mark_strict
from drystone.graph.ops import Aten, Operator
from drystone.graph.traced import resized
from drystone.layouts import Piece, optimize_layers
from drystone.options import Options, check_arguments, check_eager, check_release
from drystone.parted import optimize_in_parts
from drystone.passes import simplify
from drystone.passes.in_precision import bfloat16_notice, in_precision
from drystone.plan.assemble import Assembled, Ends
from drystone.plan.environment import environment
from drystone.plan.formats import CHANNELS_LAST, PLAIN, dense
from drystone.plan.implementations import Option
from drystone.plan.implementations import options as operator_options
from drystone.plan.implementations.base import WeightStore
from drystone.plan.rehearse import Planner
from drystone.plan.tuning_cache import TuningCache
from drystone.runtime.explain import ExplainedStep, Explanation
from drystone.runtime.layouts import LayoutModule
from drystone.runtime.memory import Memory
from drystone.runtime.module import OptimizedModule, Prepared
from drystone.runtime.parts import PartedModule
from drystone.runtime.program import Program
from drystone.runtime.stand_in import StandIn, threads_in_force
from drystone.runtime.timing import against_eager, step_seconds
from drystone.runtime.weights import Weights
from drystone.spinner import spinner

# A model of more operators is captured anew for each other batch: with a symbol for the batch, a capture takes four times as long,
# and the first call that brings one would wait for it.
SYMBOLIC_NODES = 2000


def optimize(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | torch.Tensor | PackedSequence | None = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    keep_fp32: Sequence[Choice] | Choice | None = None,
    dynamic_shapes: Any = None,
    accuracy: Literal["default", "strict"] = "default",
    tuning: Literal["measure", "estimate"] = "measure",
    capture: Literal["auto", "whole", "eager"] = "auto",
    strict: bool = False,
    formats: str | None = None,
    release_originals: bool = False,
) -> OptimizedModule | PartedModule | LayoutModule:
    """Prepare ``model`` for inference on this CPU: a module of the same signature.

    The model is captured, simplified, planned as a whole (implementation and memory format of every operator, by measuring)
    and becomes one native program. Where it can't be captured whole, its largest submodules that can be become programs, and
    the rest runs eagerly; a DrystoneWarning says which. The model itself is left as it is; it must be in eval mode.

    Args:
        model: any ``nn.Module`` in eval mode, on the CPU; or a TorchScript module, traced, scripted or frozen. For a module that
            was optimised, alone or as a submodule, its original is taken.
        example_inputs: a tuple of its positional inputs (or one tensor); shapes and dtypes decide what is prepared.
        example_kwargs: its inputs by name.
        dtype: ``torch.bfloat16`` computes in bfloat16 with float32 accumulation; inputs and outputs keep the model's dtypes.
            Where the CPU does not multiply bfloat16, weights are stored in it and all is computed in float32.
            None or ``torch.float32``: the model's own precision.
        keep_fp32: submodules that stay float32 where ``dtype`` is bfloat16, with all inside them: themselves, their
            qualified names ("encoder.layer.0"), or functions of (name, module) that say so of each submodule.
        dynamic_shapes: which input dimensions may vary, as ``torch.export.export`` takes it. None lets the batch vary (the
            first dimension, where the model allows it). A new shape makes a program at its first call, planned from the
            times that are known; ``fast.prepare(*inputs)`` measures it. The 16 last used are kept.
        accuracy: ``"strict"`` bars algorithms that reorder the arithmetic.
        tuning: ``"measure"`` rehearses candidates; ``"estimate"`` plans from known times and a cost model.
        capture: ``"auto"`` captures the model whole or, where torch.export can't and no ``dynamic_shapes`` are asked for, in
            parts; ``"whole"`` raises instead. ``"eager"`` captures nothing: the model's Python runs at each call, its layers run
            packed, and tensors between them keep the memory format in which the model was fastest, or eager runs.
        strict: raise instead of running an operator on ATen, or a part of the model eagerly.
        formats: hold all tensors to one format where operators have it ("plain", "channels_last", "blocked16", "blocked8"),
            to compare; None chooses freely.
        release_originals: free the model's plain parameters once they are packed, so that memory holds one copy: the model
            itself is left with empty ones and can't be called any more, and the optimised module takes the shapes of the
            example alone. Where eager turns out the faster, they are kept, with a DrystoneWarning.

    Raises:
        CaptureError: the model is in training mode, or neither it nor any of its submodules can be captured.
        UnsupportedError: ``strict`` and something would run on ATen; or a dtype that is not served.
        InputError: example inputs missing, not on the CPU, or an argument out of range; one in ``keep_fp32`` that the model
            does not have.

    >>> fast = optimize(nn.Linear(4, 2).eval(), torch.zeros(1, 4))
    >>> fast(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    if isinstance(model, StandIn):
        model = model.original()
    single = isinstance(example_inputs, (torch.Tensor, PackedSequence))
    args = (example_inputs,) if single else tuple(example_inputs or ())
    kwargs = dict(example_kwargs or {})
    check_arguments(args, kwargs, dtype, accuracy, tuning, capture, formats)
    threads_in_force()
    if release_originals:
        check_release(model, dynamic_shapes)
    options = Options(dtype, tuning, strict, formats, accuracy, chosen_modules(model, keep_fp32))
    if dtype is torch.bfloat16 and (notice := bfloat16_notice()):
        warn(notice, stacklevel=2)
    if capture == "eager":
        check_eager(model, dtype, dynamic_shapes, strict, release_originals)
        return _optimize_layers(model, args, kwargs, options)
    conductor = Conductor(model, args, kwargs, options)
    try:
        fast = conductor.module(dynamic_shapes, any_batch=not release_originals)
        if release_originals:
            conductor.release(fast)
        return fast
    except (CaptureError, UnsupportedError) as error:
        whole = capture == "whole" or strict or release_originals
        if whole or dynamic_shapes is not None or isinstance(model, torch.jit.ScriptModule):
            raise
        reason = error
    check_model(model, args, kwargs)  # what is wrong with the whole model is no matter of its parts

    def prepare(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: torch.dtype | None) -> OptimizedModule:
        inner = Conductor(part, args, kwargs, replace(options, dtype=dtype))
        inner.weights, inner.memory, inner.lock = conductor.weights, conductor.memory, conductor.lock
        inner.warned = True  # explain() lists what runs on ATen inside the parts
        # A part may meet another first size at every call, which is no batch: a program for each would cost more than eager.
        return inner.module(None, any_batch=False)

    race = against_eager if tuning == "measure" else None
    return optimize_in_parts(model, args, kwargs, reason, dtype, options.float32_modules, prepare, race)


def _optimize_layers(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> LayoutModule:
    """``optimize_layers`` with programs of this conductor's making."""
    stores: list[WeightStore] = []
    caches: dict[int, TuningCache] = {}
    contended = [0.0]
    memory = Memory()

    def pieces() -> Piece:
        weights = WeightStore()
        stores.append(weights)

        @on_cpu()
        def program(captured: Captured, format: str, inputs: Sequence[str], output: str, measure: bool) -> Program:
            threads = torch.get_num_threads()
            native.set_threads(threads)
            if threads not in caches:
                caches[threads] = TuningCache(environment(threads))
            graph = in_precision(simplify(build(captured)), None)
            if options.accuracy == "strict":
                mark_strict(graph)
            ends = Ends(tuple(inputs), (output,))
            planner = Planner(graph, weights, caches[threads], format, ends=ends)
            if not measure:
                return Program(planner.assemble(planner.best()), threads, memory)
            tensors = [
                torch.rand(dense(value, lies).bytes // value.dtype.itemsize, dtype=value.dtype)
                for value, lies in zip(graph.inputs, inputs, strict=True)
            ]
            assembled = planner.rehearse(lambda candidate: step_seconds(Program(candidate, threads), tensors))
            contended.append(planner.contended)
            return Program(assembled, threads, memory)

        return program

    def refusal(graph: Graph) -> str | None:
        """Why torch must compute some of it, or None."""
        return next((reason for found, reason in map(operator_options, graph) if not found), None)

    measured = options.tuning == "measure"
    formats = [options.formats] if options.formats else _carried_formats() if measured else _carried_formats()[:1]
    race = against_eager if measured else None
    fast = optimize_layers(model, args, kwargs, formats, pieces, refusal, lambda: sum(store.bytes for store in stores), race)
    for cache in caches.values():
        keep_times(cache, max(contended))
    return fast


def _carried_formats() -> list[str]:
    return [PLAIN] if native.isa() == "none" else [native.blocked().name, CHANNELS_LAST, PLAIN]


class Conductor:
    """Takes one model from capture to a module, and again for each new shape or thread count."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> None:
        # torch.export takes one tensor given twice for one input: later calls may give two.
        self.args, self.kwargs = _distinct(args, kwargs)
        self.model, self.options = model, options
        self.weights, self.memory = WeightStore(), Memory()
        self.lock = Lock()  # of whoever makes programs with these
        self.warned = False
        self.kin: Planner | None = None  # the first program's
        self.verdict: str | None = None  # whether eager was faster then: what was not compared follows it
        self.released = False  # the model has no weights any more

    def module(self, dynamic_shapes: Any, any_batch: bool = True) -> OptimizedModule:
        """``any_batch``: where no dimension is declared to vary, the first one may."""
        with on_cpu(), spinner("preparing") as say:
            say("capturing")
            captured = self._capture_example(dynamic_shapes)
            self._report_changes(captured.changed)
            tensors = captured.signature.flatten(self.args, self.kwargs)
            batch = batch_inputs(tensors) if dynamic_shapes is None and any_batch else []
            dynamic = [({0} if i in batch else set()) | dims for i, dims in enumerate(dynamic_dims(captured))]
            fast = OptimizedModule(
                self.model,
                captured.signature.flatten,
                [leaf.name for leaf in captured.inputs if leaf.tensor],
                self.graph.inputs,
                self.prepare,
                dynamic,
                batch,
                Weights(captured, lambda: self._capture_again(dynamic_shapes)),
            )
            del captured
            fast._find(
                [tensor.resolve_neg().resolve_conj().contiguous() for tensor in tensors],
                torch.get_num_threads(),
                rehearse=self.options.tuning == "measure",
            )
        return fast

    def release(self, fast: OptimizedModule) -> None:
        """Free the plain weights, of which ``fast`` has packed copies."""
        if fast.explain().runs == "eager":
            warn("eager is faster than the program, so the model keeps its weights", stacklevel=3)
            return
        fast._weights.release(self.model, self.graph)
        self.released = True
        native.trim()

    def _capture_example(self, dynamic_shapes: Any) -> Captured:
        captured = capture_module(self.model, self.args, self.kwargs, dynamic_shapes)
        long = len(captured.program.graph.nodes) > SYMBOLIC_NODES
        with on_cpu():
            self.graph, self.signature = self._graph(captured), captured.signature
        # The capture that is resized for other shapes; None until one is made, False where none can be, or it would take too long.
        self.symbolic: Captured | Literal[False] | None = captured if dynamic_shapes is not None else False if long else None
        return captured

    def _capture_again(self, dynamic_shapes: Any) -> Captured:
        """After the weights have changed: nothing of what was made from the old ones is kept, but the times."""
        self.weights = WeightStore()
        return self._capture_example(dynamic_shapes)

    def _for_shapes(self, tensors: list[torch.Tensor]) -> tuple[Graph, Signature]:
        """The graph for inputs of these shapes, from a symbolic capture where one holds, and how results are put together."""
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if shapes == [value.shape for value in self.graph.inputs]:
            return self.graph, self.signature
        args, kwargs = _refilled(self.args, self.kwargs, tensors)
        if self.symbolic is None and all(size >= LEAST for shape in shapes for size in shape[:1]):
            self.symbolic = self._capture_batch(args, kwargs)
        if self.symbolic and (found := resize(self.symbolic, shapes)):
            captured, symbols = found
            with resized(symbols), suppress(UnsupportedError):
                return self._graph(captured), captured.signature
        try:
            captured = capture_module(self.model, args, kwargs)
        except CaptureError as error:
            given = ", ".join(str(list(shape)) for shape in shapes)
            raise ShapeError(f"the model was prepared for other shapes, and does not take {given}: {error}") from error
        return self._graph(captured), captured.signature

    def _capture_batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured | Literal[False]:
        try:
            return capture_module(self.model, args, kwargs, batch_shapes(self.signature.parameters, args, kwargs))
        except (CaptureError, TypeError):
            return False

    def _graph(self, captured: Captured) -> Graph:
        graph = build(captured)
        kept = names_of(self.model, self.options.float32_modules)
        for node in graph:
            if node.module in kept:
                node.float32 = True
        simplify(graph)
        if self.options.accuracy == "strict":
            mark_strict(graph)
        return in_precision(graph, self.options.dtype)

    def prepare(self, tensors: list[torch.Tensor], rehearse: bool = False) -> Prepared:
        """The program for inputs of these shapes, under the thread count in force.

        Without ``rehearse`` it is planned at once, from times that are known for these shapes or others.
        """
        threads = threads_in_force()
        native.set_threads(threads)
        with self.lock, on_cpu(), spinner("preparing") as say:
            graph, signature = self._for_shapes(tensors)
            tensors = [tensor.detach() for tensor in tensors]
            cache = TuningCache(environment(threads))
            planner = Planner(graph, self.weights, cache, self.options.formats, self.kin)
            measure = rehearse and not self.released
            if measure:
                assembled = planner.rehearse(lambda candidate: step_seconds(Program(candidate, threads), tensors), say)
                keep_times(cache, planner.contended)
            else:
                assembled = planner.assemble(self._plan(planner, graph, threads) or planner.best())
            self.kin = self.kin or planner
            self._report_segments(assembled)
            program = Program(assembled, threads, self.memory)
            say("rehearsing against eager")
            explanation = self._explain(program, planner, tensors, compare=measure)
            self.verdict = self.verdict or explanation.runs
            return Prepared(program, explanation, signature.unflatten, graph, signature)

    def _plan(self, planner: Planner, graph: Graph, threads: int) -> dict[Node, Option] | None:
        """What is chosen already for ``graph``, or None."""
        return None

    def _report_segments(self, assembled: Assembled) -> None:
        segments = [record for record in assembled.records if record.kind == "aten"]
        if not segments or native.isa() == "none":
            return
        named = {(_named(r.node.op) if r.node else "?"): r.reason for r in segments}
        text = "; ".join(f"{name}: {reason}" for name, reason in named.items())
        if self.options.strict:
            raise UnsupportedError(f"strict=True, and {len(segments)} operators have no native implementation: {text}")
        if not self.warned:
            self.warned = True
            warn(f"{len(segments)} operators run on ATen: {text}", stacklevel=4)

    def _report_changes(self, names: list[str]) -> None:
        if not names:
            return
        text = f"each call of the model changes {', '.join(map(repr, names))}, though its result does not depend on it"
        if self.options.strict:
            raise UnsupportedError(f"strict=True, and {text}; the optimised model would leave it as it is")
        warn(f"{text}; the optimised model leaves it as it is", stacklevel=4)

    def _explain(self, program: Program, planner: Planner, tensors: list[torch.Tensor], compare: bool) -> Explanation:
        runs = step_seconds(program, tensors) if compare else [program.time_steps(tensors)]
        steps = [min(times) for times in zip(*runs, strict=True)]
        args, kwargs = _refilled(self.args, self.kwargs, tensors)
        ours, eager = sum(steps), None
        if compare:
            model = alone(self.model)
            ours, eager = against_eager(lambda: program(tensors), lambda: model(*args, **kwargs))
        return self._explanation(program, steps, ours, eager)

    def _explanation(self, program: Program, steps: list[float], ours: float, eager: float | None) -> Explanation:
        """``steps``: the seconds of each; ``ours`` and ``eager``: those of a call."""
        assembled = program.assembled
        return Explanation(
            steps=[
                ExplainedStep(
                    name=(record.node.name if record.node else record.value.name),
                    op=_named(record.node.op) if record.node else record.kind,
                    shape=list(record.value.shape),
                    dtype=str(record.value.dtype).removeprefix("torch."),
                    implementation=record.implementation,
                    format=record.layout,
                    microseconds=1e6 * seconds,
                    kind=record.kind,
                    reason=record.reason,
                )
                for record, seconds in zip(assembled.records, steps, strict=True)
            ],
            runs=self.verdict or "drystone" if eager is None else "eager" if eager < ours else "drystone",
            arena_bytes=assembled.arena_bytes,
            weights_bytes=self.weights.bytes,
            plan_milliseconds=1e3 * ours,
            eager_milliseconds=None if eager is None else 1e3 * eager,
            threads=program.threads,
            isa=native.isa(),
            onednn=native.onednn_version(),
        )


def keep_times(cache: TuningCache, contended: float) -> None:
    """Save what was measured, for the next preparation; not what was measured beside other work, which is said."""
    if not contended:
        cache.save()
        return
    warn(
        f"other work took {contended:.0%} of the cores' time while candidates were measured, so the plan may not be the "
        "fastest, and its times are not kept; prepare(*inputs) measures again",
        stacklevel=4,
    )


def _refilled(args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> tuple[Any, Any]:
    """The example call with these tensors in the place of its own."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    given = iter(tensors)
    return pytree.tree_unflatten([next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec)


def _distinct(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The same call with another tensor object wherever one comes again."""
    seen: set[int] = set()

    def once(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and id(leaf) in seen:
            return leaf.clone()
        seen.add(id(leaf))
        return leaf

    leaves, spec = pytree.tree_flatten((args, kwargs))
    return pytree.tree_unflatten([once(leaf) for leaf in leaves], spec)


def _named(op: Operator) -> str:
    return str(op.target if isinstance(op, Aten) else op)
