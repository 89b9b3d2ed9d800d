"""``save`` and ``load``: a prepared model as a folder that needs no model code, no capture and no measuring to start again.

The format is in docs/artefact.md; ``drystone.artefact`` reads and checks it. Here it is taken out of a module, and becomes one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NoReturn

import psutil
import torch
from torch import nn

from drystone import native
from drystone.artefact import folder, graphs, plans, structures, weights
from drystone.artefact.document import entries, listed, require, truth, whole, wholes, word
from drystone.capture.export import Captured
from drystone.capture.signature import Signature
from drystone.conductor import Conductor
from drystone.errors import ArtefactError, InputError, ShapeError, UnsupportedError
from drystone.graph.graph import Graph, Node, mark_strict
from drystone.options import Options
from drystone.passes.in_precision import in_precision
from drystone.plan.environment import environment
from drystone.plan.implementations import Option
from drystone.plan.rehearse import Planner
from drystone.plan.tuning_cache import TuningCache
from drystone.runtime.explain import Explanation
from drystone.runtime.module import OptimizedModule, Prepared
from drystone.runtime.program import Program
from drystone.runtime.stand_in import NoModel, threads_in_force
from drystone.runtime.weights import Weights
from drystone.spinner import spinner


def save(fast: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module that ``optimize`` gave to the folder ``path``; an older artefact there is replaced, in one step.

    Weights, graphs for all the shapes that are prepared, what was chosen for them, and the times that were measured go into it;
    code does not. ``load`` gives the module back.

    Raises:
        UnsupportedError: the model was not captured whole, or holds something that no artefact can.
        WeightsChangedError: its weights were changed since it was prepared.
        ArtefactError: ``path`` holds something else, or can't be written.
    """
    if not isinstance(fast, OptimizedModule):
        raise UnsupportedError(f"only models that were captured whole can be saved; this is a {type(fast).__name__}")
    fast._weights.check()
    conductor: Conductor = fast._prepare.__self__  # type: ignore[attr-defined]
    shapes: dict[int, tuple[Graph, Signature]] = {id(conductor.graph): (conductor.graph, conductor.signature)}
    with fast._lock:
        known = list(fast._programs.items())
    shapes |= {id(prepared.graph): (prepared.graph, prepared.signature) for _, prepared in known}
    number = {graph: index for index, graph in enumerate(shapes)}
    choices = [
        (number[id(prepared.graph)], threads, list(prepared.program.assembled.choice.values())) for (threads, _), prepared in known
    ]

    def program(file: Path) -> Any:
        constants = weights.Constants()
        described = [
            {"graph": graphs.of_graph(graph, constants), "result": structures.of_result(signature)}
            for graph, signature in shapes.values()
        ]
        constants.write(file)
        content = {
            "call": structures.of_call(conductor.signature),
            "varying": [sorted(axes) for axes in fast._dynamic],
            "batch": fast._batch,
            "strict_accuracy": conductor.options.accuracy == "strict",
            "format": conductor.options.formats,
            "programs": described,
            "constants": constants.described,
        }
        with open(file, "rb") as written:
            _Content(content, written)  # what can't be loaded is refused now
        return content

    times = plans.of_times(conductor.kin, conductor.graph)
    threads = next((threads for (threads, _), _ in known), torch.get_num_threads())
    folder.check_replaceable(Path(path))
    try:
        with spinner(f"drystone: saving {os.fspath(path)}"):
            folder.write(Path(path), program, plans.of_plan(environment(threads), choices, times))
    except OSError as error:
        raise ArtefactError(f"{path} can't be written: {error.strerror or error}; what was there is as it was") from error
    except ArtefactError as error:
        raise UnsupportedError(f"this module can't be saved: {error}") from None


@dataclass
class Original:
    """The model of a module that is copied, and what it takes to capture it again."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options  # without the modules that stay float32
    float32: set[str]  # their names
    weights: list[str]  # the names of those that were packed
    verdict: str | None


def load(path: str | os.PathLike[str]) -> OptimizedModule:
    """The module that was saved to the folder ``path``, without the model's code.

    Results are bitwise those of the module that was saved, where machine, versions and threads are the same; where they are not, a
    plan is made at once from the times in the file. Inputs of shapes that were not prepared raise ``ShapeError``.

    Raises ``ArtefactError`` for a folder that is damaged, of another version, or not what ``save`` writes.
    """
    return read(Path(path), None)


def read(path: Path, original: Original | None) -> OptimizedModule:
    """``load``; with the ``original``, other shapes and ``refresh()`` are as of a module that was optimised."""
    threads_in_force()
    program, plan, file = folder.read(path)
    content = _Content(program, file)
    fast = _Loaded(content, plans.plan(plan), original).restored()
    weights.check_all(content.constants)
    return fast


class _Content:
    """What program.json and the weights hold, checked."""

    def __init__(self, program: Any, file: BinaryIO) -> None:
        call, varying, batch, strict, format, described, constants = entries(
            program, folder.PROGRAM, "call", "varying", "batch", "strict_accuracy", "format", "programs", "constants"
        )
        self.memory = psutil.virtual_memory().total
        self.constants = weights.read(file, constants, self.memory)
        self.shapes: list[tuple[Graph, Signature]] = []
        self.widened = False  # products of another CPU's that this one computes in float32
        for item in listed(described, "the programs"):
            given_graph, result = entries(item, "a program", "graph", "result")
            graph = graphs.graph(given_graph, self.constants, self.memory)
            nodes = graph.nodes
            self.widened |= in_precision(graph, None).nodes is not nodes
            self.shapes.append((graph, structures.signature(call, result, len(graph.inputs), len(graph.outputs))))
        require(self.shapes, "the artefact holds no program")
        inputs = self.shapes[0][0].inputs
        kinds = [(value.dtype, len(value.shape)) for value in inputs]
        for graph, _ in self.shapes:
            require([(value.dtype, len(value.shape)) for value in graph.inputs] == kinds, "the programs differ in their inputs")
        if truth(strict, "strict_accuracy"):
            for graph, _ in self.shapes:
                mark_strict(graph)
        self.format = None if format is None else word(format, "format", native.FORMATS)
        lists = zip(inputs, listed(varying, "varying", len(inputs)), strict=True)
        self.varying = [set(wholes(entry, "a varying axis", 0, len(value.shape) - 1)) for value, entry in lists]
        self.batch = [whole(index, "batch", 0, len(inputs) - 1) for index in listed(batch, "batch")]
        require(all(inputs[index].shape for index in self.batch), "an input without axes has no batch")


class _Loaded(Conductor):
    """Makes programs of the graphs of an artefact; of others too where the original is there."""

    def __init__(self, content: _Content, plan: plans.Plan, original: Original | None = None) -> None:
        if original is None:
            super().__init__(NoModel().eval(), (), {}, Options(tuning="estimate", formats=content.format))
        else:
            modules = dict(original.model.named_modules(remove_duplicate=False))
            options = replace(original.options, float32_modules={modules[name] for name in original.float32})
            super().__init__(original.model, original.args, original.kwargs, options)
            self.verdict = original.verdict
        self.content, self.original = content, original
        self.plan = plan.without_nodes(len(content.shapes[0][0].nodes)) if content.widened else plan
        self.known = content.shapes
        self.graph, self.signature = content.shapes[0]
        self.symbolic = None
        self.kin = Planner(self.graph, self.weights, TuningCache.in_memory(), content.format)
        self.plan.put_times(self.kin)
        self.warned = True  # who saved the module was told what runs on ATen

    def restored(self) -> OptimizedModule:
        fast = OptimizedModule(
            self.model,
            self.signature.flatten,
            [leaf.name for leaf in self.signature.inputs if leaf.tensor],
            self.graph.inputs,
            self.prepare,
            self.content.varying,
            self.content.batch,
            self._watched(),
        )
        examples = [torch.empty(value.shape, dtype=value.dtype, device="meta") for value in self.graph.inputs]
        fast._find(examples, torch.get_num_threads())
        return fast

    def _watched(self) -> Weights:
        if self.original is None:
            return Weights(SimpleNamespace(constants={}, weights=set()), _no_model)
        model = self.model
        named = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
        # TorchScript has other names for what was packed: then all count.
        names = set(self.original.weights) if named.keys() >= set(self.original.weights) else set(named)
        return Weights(SimpleNamespace(constants={name: (name, named[name]) for name in names}, weights=names), self._from_original)

    def _from_original(self) -> Captured:
        """After the weights have changed."""
        self.known = []
        return self._capture_again(None)

    def prepare(self, tensors: list[torch.Tensor], rehearse: bool = False) -> Prepared:
        prepared = super().prepare(tensors, rehearse)
        assembled = prepared.program.assembled
        needed = assembled.arena_bytes + assembled.program.scratchpad_bytes + sum(place.desc.bytes for place in assembled.outputs)
        require(needed <= self.content.memory, f"a call takes {needed} bytes, and this machine has {self.content.memory}")
        return prepared

    def _for_shapes(self, tensors: list[torch.Tensor]) -> tuple[Graph, Signature]:
        given = [tuple(tensor.shape) for tensor in tensors]
        for graph, signature in self.known:
            if [value.shape for value in graph.inputs] == given:
                return graph, signature
        if self.original is not None:
            return super()._for_shapes(tensors)
        held = "; ".join(", ".join(str(list(value.shape)) for value in graph.inputs) for graph, _ in self.content.shapes)
        raise ShapeError(
            f"the artefact holds programs for {held}, not for {', '.join(str(list(shape)) for shape in given)}; "
            "prepare the model for these shapes too, with fast.prepare(*inputs), before it is saved"
        )

    def _plan(self, planner: Planner, graph: Graph, threads: int) -> dict[Node, Option] | None:
        index = next((i for i, (known, _) in enumerate(self.known) if known is graph), None)
        if index is None:
            return None
        return self.plan.choice(planner, environment(threads), index, threads)

    def _explain(self, program: Program, planner: Planner, tensors: list[torch.Tensor], compare: bool) -> Explanation:
        """With the times that are known: nothing is run."""
        steps = planner.known_seconds(program.assembled)
        return self._explanation(program, steps, sum(steps), None)


def _no_model() -> NoReturn:
    raise InputError("this module was loaded from an artefact, which has no model to take weights from; load another artefact")
