"""A model that is captured whole, once and again for other shapes, as a source of graphs; and the module that runs its programs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from drystone import native
from drystone.capture.declared import Dimensions
from drystone.capture.export import Captured
from drystone.capture.export import capture as capture_module
from drystone.capture.isolated import alone, can_be_captured_beside_calls, cloned_call, tensors_of
from drystone.capture.kept_modules import names_of
from drystone.capture.parts import first_line
from drystone.capture.shapes import LEAST, batch_inputs, dynamic_dims, is_text, too_large, varying_shapes
from drystone.capture.signature import Signature
from drystone.errors import CaptureError, ShapeError, UnsupportedError, warn
from drystone.factories import on_cpu
from drystone.graph.graph import Graph, Value
from drystone.options import Options
from drystone.plan.budget import Budget
from drystone.preparer import Eager, Preparer, Programs, Sizes, Source, lowered, programs_of
from drystone.runtime.module import Example, Interface, OptimizedModule, set_interface, sizes_of
from drystone.runtime.proxy import threads_in_force
from drystone.runtime.weights import Named
from drystone.sources.symbolic import SymbolicCapture
from drystone.spinner import spinner

# A model of more operators is captured anew for each other shape: with symbols for sizes, a capture takes four times as long, and
# the first call that brings one would wait for it.
SYMBOLIC_NODES = 2000

# Captures for one size alone, where eager can run the others. Each takes seconds of a call.
MAX_SINGLES = 8

# The axes that vary in a symbolic capture, each an input's number and its own, with the first of them that has the same size.
Pattern = tuple[tuple[tuple[int, int], tuple[int, int]], ...]


class WholeModel(Source):
    """Captured by torch.export: ``capture`` comes first. A symbolic capture serves other shapes, where one holds."""

    any_shape = True  # calls of other shapes, and of another form, may be captured too
    graph: Graph  # for the example
    signature: Signature

    def __init__(self, example: Example, options: Options, dynamic_shapes: Any = None) -> None:
        # torch.export takes one tensor given twice for one input: later calls may give two.
        args, kwargs = _distinct(example.args, example.kwargs)
        self.example, self.options, self.dynamic_shapes = Example(example.model, args, kwargs), options, dynamic_shapes
        self.symbolic: list[SymbolicCapture] = []  # captures that are resized for other shapes, the last made first
        self.resizable = dynamic_shapes is None  # more of them may be made
        self.tried: set[Pattern] = set()  # those that were
        self.varied: dict[int, set[int]] = {}  # the axes of each input that have varied
        self.varying: list[set[int]] = []  # that were declared to vary
        self.declared: Dimensions = []
        self.changed: list[str] = []  # what each call of the model changes, and a program does not

    def capture(self) -> list[Named]:
        captured, self.graph = self._symbolic_texts() or self._as_declared()
        self.signature, self.varying = captured.signature, dynamic_dims(captured)
        long = len(captured.program.graph.nodes) > SYMBOLIC_NODES
        self.symbolic = [SymbolicCapture(captured, self._graph)] if any(self.varying) else []
        self.varied = dict(enumerate(self.varying)) if self.dynamic_shapes is None else {}
        self.resizable = self.dynamic_shapes is None and not long
        self.tried.clear()
        self.declared, self.changed = captured.declared, captured.changed
        return captured.originals

    def _symbolic_texts(self) -> tuple[Captured, Graph] | None:
        """A capture for texts of all sizes, and its graph for the example; None where nothing asks for it, or the model refuses."""
        model, args, kwargs = self.example.model, self.example.args, self.example.kwargs
        tensors = tensors_of(args, kwargs)
        if not (self.options.varying and any(map(is_text, tensors))):
            return None
        # TorchScript has no signature (ValueError).
        with suppress(CaptureError, UnsupportedError, TypeError, ValueError), on_cpu():
            everything = [set(range(tensor.dim())) for tensor in tensors]
            captured = capture_module(
                model, args, kwargs, varying_shapes(inspect.signature(model.forward), args, kwargs, everything)
            )
            return captured, self._graph(captured)
        return None

    def _as_declared(self) -> tuple[Captured, Graph]:
        captured = self._captured()
        with on_cpu():
            return captured, self._graph(captured)

    def _captured(self) -> Captured:
        return capture_module(self.example.model, self.example.args, self.example.kwargs, self.dynamic_shapes)

    @property
    def inputs(self) -> list[Value]:
        """Those of the graph that come from the call."""
        return self.graph.inputs[: self.signature.count]

    def report_changes(self) -> None:
        if not self.changed:
            return
        text = f"each call of the model changes {', '.join(map(repr, self.changed))}, though its result does not depend on it"
        if self.options.strict:
            raise UnsupportedError(f"strict=True, and {text}; the optimised model would leave it as it is")
        warn(f"{text}; the optimised model leaves it as it is")

    def interface(self, any_size: bool) -> Interface:
        """``any_size``: where no dimension was declared to vary, each may, as far as the model allows it."""
        tensors = self.signature.flatten(self.example.args, self.example.kwargs)
        free = self.dynamic_shapes is None and any_size
        batch = batch_inputs(tensors) if free else []
        varying = [set(range(tensor.dim())) for tensor in tensors] if free else self.varying
        return Interface(self.example, self.signature, self.inputs, varying, batch, self.declared)

    def graph_for(self, sizes: Sizes, tensors: list[torch.Tensor]) -> tuple[Graph, Signature]:
        if sizes == tuple(value.shape for value in self.inputs):
            return self.graph, self.signature
        args, kwargs = self.example.with_tensors(tensors)
        for symbolic in self.symbolic:
            if found := symbolic.graph_for(sizes):
                return found
        if self.resizable and (varying := self._capture_varying(args, kwargs, sizes)):
            self.symbolic.insert(0, SymbolicCapture(varying, self._graph))
            if found := self.symbolic[0].graph_for(sizes):
                return found
        if self.singles <= 0:
            raise ShapeError(f"{self._differing(sizes)}, and {MAX_SINGLES} other sizes have captures of their own")
        try:
            captured = capture_module(self.example.model, args, kwargs)
        except CaptureError as error:
            raise ShapeError(
                f"the model was prepared for other shapes: {self._differing(sizes)}. It fails {first_line(error)}"
            ) from error
        self.singles -= 1
        return self._graph(captured), captured.signature

    def eager(self, sizes: Sizes, tensors: list[torch.Tensor]) -> Eager:
        args, kwargs = self.example.with_tensors(tensors)
        stateful = self.signature.state is not None

        def make() -> Callable[[], Any]:
            model = self.example.model
            copied = stateful and isinstance(model, torch.jit.ScriptModule)
            model = copy.deepcopy(model) if copied else alone(model)
            given, named = cloned_call(args, kwargs) if stateful else (args, kwargs)
            return lambda: model(*given, **named)

        return Eager(make, stateful)

    def _capture_varying(self, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: Sizes) -> Captured | None:
        """A capture in which the axes may vary that have varied so far, and the batch; None where such a one was tried before.

        Sizes that are equal may be one symbol of it: where they part, another is made.
        """
        batch = batch_inputs(tensors_of(args, kwargs))
        varying: list[set[int]] = []
        for i, (shape, value) in enumerate(zip(sizes, self.inputs, strict=True)):
            others = {axis for axis, size in enumerate(shape) if size != value.shape[axis]}
            varying.append(others | self.varied.get(i, set()) | ({0} if i in batch else set()))
        first: dict[int, tuple[int, int]] = {}
        places = [(i, axis) for i, axes in enumerate(varying) for axis in sorted(axes) if sizes[i][axis] >= LEAST]
        pattern = tuple([(place, first.setdefault(sizes[place[0]][place[1]], place)) for place in places])
        if not pattern or pattern in self.tried:
            return None
        self.tried.add(pattern)
        with suppress(CaptureError, UnsupportedError, TypeError):
            shapes = varying_shapes(self.signature.parameters, args, kwargs, varying)
            captured = capture_module(self.example.model, args, kwargs, shapes)
            self.varied = dict(enumerate(varying))  # not before: what the model refuses never varied
            return captured
        return None

    def _differing(self, sizes: Sizes) -> str:
        """The sizes that differ from the example's: where some are above what the model is known to take, these."""
        names = [leaf.name for leaf in self.signature.inputs if leaf.tensor]
        above = next(filter(None, (too_large(symbolic.captured, sizes) for symbolic in self.symbolic)), {})
        return "; ".join(
            f"input {name!r} has {size} instead of {usual} along dimension {axis}"
            + (f", where the model takes at most {above[i, axis]}" if above else "")
            for i, (name, shape, value) in enumerate(zip(names, sizes, self.inputs, strict=True))
            for axis, (size, usual) in enumerate(zip(shape, value.shape, strict=True))
            if size != usual and (not above or (i, axis) in above)
        )

    def _graph(self, captured: Captured) -> Graph:
        model, options = self.example.model, self.options
        return lowered(captured, options, names_of(model, options.float32_modules), names_of(model, options.kept_modules))


def optimize_whole(
    example: Example,
    options: Options,
    preparer: Preparer,
    dynamic_shapes: Any = None,
    *,
    release_originals: bool = False,
    part: bool = False,
    quiet: bool = False,
    budget: Budget | None = None,
    source: WholeModel | None = None,
) -> OptimizedModule:
    """The model with programs, that of the example among them. ``budget``: what autotuning may spend; None: what the options say.

    ``part``: of a model, at whose calls it may meet another first size, which is no batch: a program for each would cost more than
    eager. What runs on ATen inside is for explain() to list. ``source``: of the graphs, if not the model as it is.
    """
    if options.new_shapes == "background" and not can_be_captured_beside_calls(example.model):
        warn(
            'new_shapes="background": a capture would disturb calls, as functions stand for forwards in the model; new shapes wait'
        )
        options = replace(options, new_shapes="wait")
    with on_cpu(), spinner("preparing") as say:
        say("capturing")
        source = source or WholeModel(example, options, dynamic_shapes)
        fixed = part or release_originals or not source.any_shape
        originals = source.capture()
        source.report_changes()
        if part and source.signature.state:
            raise UnsupportedError("it keeps state between calls, or changes its input")
        interface = source.interface(any_size=not fixed)
        if options.new_shapes == "background":
            source.singles = MAX_SINGLES  # eager goes on with the others
        programs = Programs(preparer, source, options, originals, interface.sizes, quiet=part or quiet)
        tensors = source.signature.flatten(source.example.args, source.example.kwargs)
        budget = (budget or options.budget()) if options.measures else None
        programs.at(sizes_of(tensors), tensors, threads_in_force(), budget)
        other = None if fixed else partial(another, programs)
        fast = OptimizedModule(example.model, interface, programs, other)
    if release_originals:
        if fast.explain().runs == "eager":
            warn("eager is faster than the program, so the model keeps its weights")
        else:
            programs.originals.release(example.model, source.graph)
            programs.released = True
            native.trim()
    return fast


def another(programs: Programs, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OptimizedModule:
    """The model of ``programs`` captured whole for another way of calling it, on the same packed weights."""
    first = programs.source
    assert isinstance(first, WholeModel)
    return optimize_whole(Example(first.example.model, args, kwargs), first.options, programs.preparer, quiet=programs.quiet)


def for_one_form(fast: OptimizedModule, while_making: Callable[[], AbstractContextManager[None]]) -> None:
    """Let ``fast`` take any size that was not declared otherwise, but few that need a capture for themselves. Calls of another form
    than the example's raise, whatever the model takes. ``while_making`` is entered whenever a program is made."""
    source = programs_of(fast).source
    assert isinstance(source, WholeModel)
    source.while_making, source.singles = while_making, MAX_SINGLES
    set_interface(fast, source.interface(any_size=True), None)


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
