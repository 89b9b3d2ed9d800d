"""``save`` and ``load``: a prepared model as a folder that needs no model code, no capture and no measuring to start again.

The format is in docs/artefact.md; ``drystone.artefact`` reads and checks it. Here it is taken out of a module, and becomes one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import torch
from torch import nn

from drystone import native
from drystone.artefact import folder, graphs, plans, structures, weights
from drystone.artefact.document import entries, listed, require, truth, whole, wholes, word
from drystone.capture.declared import Dimensions
from drystone.capture.signature import Signature
from drystone.errors import ArtefactError, InputError, ShapeError, UnsupportedError
from drystone.graph.graph import Graph, mark_accurate
from drystone.options import Options, grouped_of
from drystone.passes.in_precision import in_precision
from drystone.plan.assembled import Assembled
from drystone.plan.autotune import Planner
from drystone.plan.environment import environment
from drystone.plan.tuning_cache import TuningCache
from drystone.preparer import Choice, Preparer, Programs, Sizes, Source, programs_of
from drystone.runtime.module import Example, Interface, OptimizedModule, interface_of
from drystone.runtime.proxy import NoModel, threads_in_force
from drystone.runtime.weights import Named
from drystone.sources.whole import WholeModel
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
        raise UnsupportedError(
            f"only models that were captured whole can be saved; this is an optimised {type(fast).__name__}: "
            "save the model itself, with save_pretrained or torch.save, and optimise it again where it is loaded"
        )
    programs, interface = programs_of(fast), interface_of(fast)
    programs.originals.check()
    if (state := interface.signature.state) is not None:
        what = f"keeps {', '.join(map(repr, sorted(state.names)))} between calls" if state.held else "changes its inputs in place"
        raise UnsupportedError(
            f"the model {what}, which no artefact holds: pass the state in and give it back as an output, or save the model itself"
        )
    graph, signature = programs.source.graph_for(interface.sizes, [])  # the example's is there already
    shapes: dict[int, tuple[Graph, Signature]] = {id(graph): (graph, signature)}
    known = programs.items()
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
            "call": structures.of_call(signature),
            "varying": [sorted(axes) for axes in interface.varying],
            "batch": interface.batch,
            "strict_accuracy": programs.options.accuracy == "strict",
            "format": programs.options.formats,
            "programs": described,
            "constants": constants.described,
        }
        with open(file, "rb") as written:
            _Content(content, written)  # what can't be loaded is refused now
        return content

    times = plans.of_times(programs.kin, graph)
    threads = next((threads for (threads, _), _ in known), torch.get_num_threads())
    folder.check_replaceable(Path(path))
    try:
        with spinner(f"saving {os.fspath(path)}"):
            folder.write(Path(path), program, plans.of_plan(environment(threads), choices, times))
    except OSError as error:
        raise ArtefactError(f"{path} can't be written: {error.strerror or error}; what was there is as it was") from error
    except ArtefactError as error:
        raise UnsupportedError(f"this module can't be saved: {error}") from None


@dataclass
class Original:
    """The model of a module that is copied, and what it takes to capture it again."""

    example: Example
    options: Options  # without modules
    float32: set[str]  # the names of those that stay float32
    kept: set[str]  # and of those that keep their weights
    weights: list[str]  # the names of those that were packed
    verdict: str | None
    declared: Dimensions


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
    fast = _restored(content, plans.plan(plan), original)
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
                mark_accurate(graph)
        self.format = None if format is None else word(format, "format", native.FORMATS)
        lists = zip(inputs, listed(varying, "varying", len(inputs)), strict=True)
        self.varying = [set(wholes(entry, "a varying axis", 0, len(value.shape) - 1)) for value, entry in lists]
        self.batch = [whole(index, "batch", 0, len(inputs) - 1) for index in listed(batch, "batch")]
        require(all(inputs[index].shape for index in self.batch), "an input without axes has no batch")


def _restored(content: _Content, plan: plans.Plan, original: Original | None) -> OptimizedModule:
    graph, signature = content.shapes[0]
    options = Options(tuning="estimate", formats=content.format)
    whole: WholeModel | None = None
    if original is not None:
        modules = dict(original.example.model.named_modules(remove_duplicate=False))
        options = replace(
            original.options,
            float32_modules={modules[name] for name in original.float32},
            kept_modules={modules[name] for name in original.kept},
            grouped=grouped_of(original.example.model, original.options.weights),
        )
        whole = WholeModel(original.example, options)
        whole.graph, whole.signature = graph, signature
    source = _Artefact(content, plan, whole)
    example = whole.example if whole else None
    declared = original.declared if original else []
    interface = Interface(example, signature, graph.inputs, content.varying, content.batch, declared)
    watched = [] if original is None else _watched(original)
    # quiet: who saved the module was told what runs on ATen.
    programs = Programs(Preparer(), source, options, watched, interface.sizes, quiet=True)
    programs.verdict = original.verdict if original else None
    programs.kin = Planner(graph, programs.preparer.weights, TuningCache.in_memory(), content.format)
    source.plan.put_times(programs.kin)
    examples = [torch.empty(value.shape, dtype=value.dtype, device="meta") for value in graph.inputs]
    programs.at(interface.sizes, examples, threads_in_force())
    return OptimizedModule(example.model if example else NoModel().eval(), interface, programs)


def _watched(original: Original) -> list[Named]:
    model = original.example.model
    named = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    # TorchScript has other names for what was packed: then all count.
    names = original.weights if named.keys() >= set(original.weights) else list(named)
    return [(name, named[name]) for name in sorted(names)]


class _Artefact(Source):
    """The graphs of an artefact; of other shapes and weights too where the model is there."""

    timed = False

    def __init__(self, content: _Content, plan: plans.Plan, whole: WholeModel | None) -> None:
        self._content, self._whole = content, whole
        self.plan = plan.without_nodes(len(content.shapes[0][0].nodes)) if content.widened else plan
        self._known = content.shapes

    def capture(self) -> list[Named]:
        if self._whole is None:
            raise InputError(
                "this module was loaded from an artefact, which has no model to take weights from; load another artefact"
            )
        named = self._whole.capture()
        self._known = []
        return named

    def graph_for(self, sizes: Sizes, tensors: list[torch.Tensor]) -> tuple[Graph, Signature]:
        for graph, signature in self._known:
            if tuple(value.shape for value in graph.inputs) == sizes:
                return graph, signature
        if self._whole is not None:
            return self._whole.graph_for(sizes, tensors)
        held = "; ".join(", ".join(str(list(value.shape)) for value in graph.inputs) for graph, _ in self._known)
        raise ShapeError(
            f"the artefact holds programs for {held}, not for {', '.join(str(list(shape)) for shape in sizes)}; "
            "prepare the model for these shapes too, with fast.prepare(*inputs), before it is saved"
        )

    def choice(self, planner: Planner, threads: int) -> Choice | None:
        index = next((i for i, (known, _) in enumerate(self._known) if known is planner.graph), None)
        return None if index is None else self.plan.choice(planner, environment(threads), index, threads)

    def check(self, assembled: Assembled) -> None:
        needed = assembled.arena_bytes + assembled.program.scratchpad_bytes + sum(place.desc.bytes for place in assembled.outputs)
        memory = self._content.memory
        require(needed <= memory, f"a call takes {needed} bytes, and this machine has {memory}")
