"""A model that runs eagerly with packed layers: what is replaced, which memory format is the fastest, whether eager is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import fx, nn

from drystone import native
from drystone.capture.calls import Composer, Trace, Untraceable, trace
from drystone.capture.export import check_model
from drystone.capture.isolated import alone
from drystone.capture.module_tree import copy_tree
from drystone.capture.recording import Recording
from drystone.errors import CaptureError, warn
from drystone.factories import on_cpu
from drystone.graph.build import build
from drystone.graph.dtypes import FLOATS
from drystone.graph.ops import (
    Aten,
    Cat,
    Conv,
    ConvTranspose,
    GroupNorm,
    LayerNorm,
    Linear,
    LocalResponseNorm,
    Pad,
    Pointwise,
    Pool,
    Reduce,
    Resize,
    Softmax,
)
from drystone.options import Options
from drystone.plan.assembled import Ends
from drystone.plan.budget import Budget
from drystone.plan.formats import CHANNELS_LAST, PLAIN, dense
from drystone.plan.implementations import options as implementations_of
from drystone.preparer import Preparer, lowered
from drystone.runtime.entries import OPTIMISE, Entries, tensors_of_tree
from drystone.runtime.explain_packed_layers import ExplainedLayer, PackedLayersExplanation
from drystone.runtime.packed_layers import PackedForward, PackedLayersModule
from drystone.runtime.program import Program
from drystone.runtime.recurrent import RecurrentForward, is_recurrent
from drystone.runtime.structures import Kind, Operation, Structure, Table
from drystone.runtime.timing import against_eager
from drystone.runtime.weights import Weights
from drystone.sources.parted import difference, record_once, run_once, undisturbed

# Layers that are one operator of one tensor. Recurrent ones, which keep states, have a forward of their own.
LAYERS = frozenset(
    {
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm),
        *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid),
        *(nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softsign, nn.Softmax, nn.Identity, nn.Dropout, nn.Dropout2d),
        *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    }
)
# What a program of its own is for; other operators of the graph may only be around these.
COMPUTED = frozenset((Linear, Pointwise, Reduce, Softmax, LayerNorm, GroupNorm, Cat, Pad))
SPATIAL = frozenset((Conv, ConvTranspose, Pool, Resize, LocalResponseNorm))
# Calls in which a model comes to rest: what is computed twice in one is kept in the next.
CALLS = 3


class LayerMaker:
    """Makes operations and programs in one format; packed weights are shared by all of them."""

    def __init__(
        self,
        format: str,
        preparer: Preparer,
        options: Options,
        constants: Iterable[torch.Tensor],
        recurrent: Iterable[RecurrentForward],
    ) -> None:
        self.format, self.preparer, self.options, self._recurrent = format, preparer, options, list(recurrent)
        self._constants = {id(tensor): tensor for tensor in constants}
        self.reasons: dict[Hashable, str] = {}
        self.budget: Budget | None = None  # programs are measured within it
        self.lock = preparer.lock

    def renew(self) -> None:
        """The weights have changed: nothing that was packed is used again."""
        self.preparer.renew()
        self.reasons.clear()
        for forward in self._recurrent:
            forward.refresh()

    def is_constant(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self._constants

    def operation(self, key: Hashable, function: Callable[..., Any], kinds: Sequence[Kind]) -> Operation | None:
        try:
            return self._operation(key, function, kinds)
        except Untraceable as reason:
            self.reasons[key] = str(reason)
            return None

    def _operation(self, key: Hashable, function: Callable[..., Any], kinds: Sequence[Kind]) -> Operation:
        if any(dtype not in FLOATS or 0 in shape for shape, dtype in kinds):
            raise Untraceable("an operand that is empty or not of a float dtype")
        traced = trace(function, kinds)
        name = key.name if isinstance(key, PackedForward) else str(key)
        made = Operation(name, traced, (traced.shape, traced.dtype))
        if not traced.calls:
            made.gives = traced.result.index
            return made
        composer = Composer()
        graph = build(composer.captured(composer.apply(traced, [composer.input(*kind) for kind in kinds])))
        ops = {type(node.op) for node in graph}
        if not ops and not graph.outputs[0].is_constant:
            made.copies = next(i for i, value in enumerate(graph.inputs) if value is graph.outputs[0])
            return made
        computed = COMPUTED | SPATIAL
        if traced.dtype not in FLOATS or any(not op.views for op in ops - computed) or not ops & computed:
            reasons = [node.op.reason for node in graph if isinstance(node.op, Aten)]
            raise Untraceable(next(filter(None, reasons), "it is no operator on floats that has a program of its own"))
        if (reason := next((reason for found, reason in map(implementations_of, graph) if not found), None)) is not None:
            raise Untraceable(reason)
        made.light, made.spatial, made.pads = ops == {Pointwise}, bool(ops & SPATIAL), ops == {Pad}
        made.changes = traced.changes
        return made

    @on_cpu()
    def program(self, structure: Structure, format: str) -> Program:
        composer = Composer()
        formats: list[str] = []

        def compose(part: Structure) -> fx.Node:
            if part.operation is None:
                formats.append(part.format)
                return composer.input(*part.kind)
            operands = [compose(operand) for operand in part.operands]
            given: Trace = part.operation.trace
            return composer.apply(given, operands)

        graph = lowered(composer.captured(compose(structure)), self.options)
        tensors = [
            torch.rand(dense(value, lies).bytes // value.dtype.itemsize, dtype=value.dtype)
            for value, lies in zip(graph.inputs, formats, strict=True)
            if self.budget
        ]
        ends = Ends(tuple(formats), (format,))
        threads, budget = torch.get_num_threads(), self.budget and self.budget.share(0.5)
        return self.preparer.program(graph, threads, tensors, budget, held_format=structure.format, ends=ends)[0]


def optimize_layers(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> PackedLayersModule:
    """The model with packed layers, in the format in which it is fastest; without ``tuning="measure"``, in the likeliest.

    Raises ``CaptureError`` for a model in training mode, or one that does not run on the example.
    """
    check_model(model, args, kwargs)
    budget = options.budget() if options.measures else None
    formats = [options.formats] if options.formats else _formats()[: None if budget else 1]
    with undisturbed():
        try:
            recording = record_once(model, args, kwargs)
        except Exception as error:
            raise CaptureError(f"the model does not run on its example inputs: {type(error).__name__}: {error}") from error
        choice = _Choice(model, recording, options)
        for i, format in enumerate(formats):
            choice.consider(format, args, kwargs, budget and budget.share(1 / (len(formats) - i)))
        fast = choice.taken()
    choice.preparer.times.keep()
    return fast


def _formats() -> list[str]:
    """Those that a model is tried in, the likeliest first."""
    return [PLAIN] if native.isa() == "none" else [native.blocked().name, CHANNELS_LAST, PLAIN]


class _Choice:
    """Prepares the model in one format after the other, and keeps the fastest."""

    def __init__(self, model: nn.Module, recording: Recording, options: Options) -> None:
        self.model, self.recording, self.options = model, recording, options
        self.preparer = Preparer()
        self.eager_layers = [
            ExplainedLayer(name, type(module).__name__, "eager", reason=reason)
            for name, module in model.named_modules()
            if (reason := self._obstacle(module))
        ]
        self.milliseconds: dict[str, float] = {}
        self.reasons: list[str] = []
        self.best: tuple[float, PackedLayersModule] | None = None
        self.eager_milliseconds: float | None = None

    def _obstacle(self, module: nn.Module) -> str | None:
        """Why a module that would be a layer, or has weights of its own, is left as it is; None where nothing is to be said."""
        if type(module) not in LAYERS and not is_recurrent(module):
            own = next(module.parameters(recurse=False), None) is not None
            return "it is no layer that can be packed; its operators are where they take lazy tensors" if own else None
        if "forward" in vars(module):
            return "its forward was replaced"
        if module._forward_hooks or module._forward_pre_hooks:
            return "it has forward hooks"
        if module.training:
            return "it is in training mode"
        if module in self.recording.stateful:
            return f"each run changes its {self.recording.stateful[module]!r}"
        return None if module in self.recording.calls else "no call of it is seen with the example inputs"

    def consider(self, format: str, args: tuple[Any, ...], kwargs: dict[str, Any], budget: Budget | None) -> None:
        fast, maker = self._prepared(format)
        maker.budget = budget
        try:
            got = run_once(fast, args, kwargs)
            for _ in range(CALLS - 1):
                run_once(fast, args, kwargs)
        except Exception as failure:
            self.reasons.append(f"in {format} it raises {type(failure).__name__}: {failure}")
            return
        finally:
            maker.budget = None
        differs = difference(got, self.model, args, kwargs, None, self.recording.output)
        if differs:
            self.reasons.append(f"in {format} its results differ from its own {differs}")
            return
        ratio = 0.0
        if budget:
            model = alone(self.model)
            ours, eager = against_eager(lambda: fast(*args, **kwargs), lambda: model(*args, **kwargs), budget)
            self.milliseconds[format] = 1e3 * ours
            ratio = ours / eager
        if self.best is None or ratio < self.best[0]:
            self.best = ratio, fast
            self.eager_milliseconds = 1e3 * eager if budget else None

    def _prepared(self, format: str) -> tuple[PackedLayersModule, LayerMaker]:
        forwards = {
            module: PackedForward(name, module)
            for name, module in self.model.named_modules()
            if type(module) in LAYERS and self._obstacle(module) is None
        }
        preparer = Preparer(beside=self.preparer)
        recurrent = {
            module: RecurrentForward(module, preparer)
            for module in self.model.modules()
            if is_recurrent(module) and self._obstacle(module) is None
        }
        changing = {id(tensor) for module in self.recording.stateful for tensor in _tensors(module)}
        packed = {id(tensor) for module in [*forwards, *recurrent] for tensor in _tensors(module)}
        read = {
            name: tensor
            for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]
            if id(tensor) not in changing and (id(tensor) in packed or isinstance(tensor, nn.Parameter))
        }
        maker = LayerMaker(format, preparer, self.options, read.values(), recurrent.values())

        def tree() -> nn.Module:
            return copy_tree(self.model, {**forwards, **recurrent}, self.recording.stateful)[self.model]

        changes = self.model in self.recording.effects
        fast = PackedLayersModule(
            self.model,
            tree,
            maker,
            changes,
            Weights(read.items(), Entries(self.model, tensors_of_tree(self.model, self.recording.stateful)), OPTIMISE),
            lambda fast: self._explanation(fast, maker, forwards, recurrent),
        )
        return fast, maker

    def taken(self) -> PackedLayersModule:
        """The fastest, which leaves calls to eager where that is faster."""
        if self.best is None:
            fast, _ = self._prepared(PLAIN)
            fast.eagerly = True
            warn(f"the model runs eagerly: {'; '.join(self.reasons)}")
            return fast
        (ratio, fast), self.best = self.best, None
        fast.renew()  # what the model remembers of autotuning is not the caller's
        if ratio > 1:
            self.reasons.append("eager was faster in autotuning")
            fast.eagerly = True
        return fast

    def _explanation(
        self,
        fast: PackedLayersModule,
        maker: LayerMaker,
        forwards: dict[nn.Module, PackedForward],
        recurrent: dict[nn.Module, RecurrentForward],
    ) -> PackedLayersExplanation:
        tables = fast.tables
        layers = [_layer(forward, tables, maker) for forward in forwards.values()]
        names = {module: name for name, module in self.model.named_modules()}
        layers += [_recurrent_layer(names[module], forward) for module, forward in recurrent.items()]
        order = {name: i for i, (name, _) in enumerate(self.model.named_modules())}
        layers = sorted([*layers, *self.eager_layers], key=lambda layer: order[layer.name])
        return PackedLayersExplanation(
            layers=layers,
            runs="eager" if fast.eagerly else "drystone",
            reason="; ".join(self.reasons) if fast.eagerly else "",
            format=maker.format,
            milliseconds=self.milliseconds,
            eager_milliseconds=self.eager_milliseconds,
            reorders=fast._last.reorders,
            asked=dict(fast._last.asked),
            programs=sum(len(structure.programs) for table in tables for structure in table.structures.values()),
            weights_bytes=maker.preparer.weights.bytes,
        )


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _recurrent_layer(name: str, forward: RecurrentForward) -> ExplainedLayer:
    runs = "packed" if forward.runs else "eager"
    return ExplainedLayer(name, forward.kind, runs, PLAIN, [forward.implementation], forward.other_inputs)


def _layer(forward: PackedForward, tables: list[Table], maker: LayerMaker) -> ExplainedLayer:
    formats: dict[str, None] = {}
    implementations: dict[str, None] = {}
    for table in tables:
        mine = {operation for (key, *_), operation in table.operations.items() if key is forward and operation}
        for structure in table.structures.values():
            if structure.operation in mine:
                formats[structure.format] = None
                if structure.programs:
                    implementations |= {by: None for program in structure.programs.values() for by in program.implementations}
        if any(operation.gives is not None for operation in mine):
            formats["as it comes"] = None
    reason = forward.abandoned or ("" if formats else maker.reasons.get(forward, "no call of it so far"))
    runs = "packed" if formats and not forward.abandoned else "eager"
    return ExplainedLayer(forward.name, forward.kind, runs, "+".join(formats), list(implementations), reason)
