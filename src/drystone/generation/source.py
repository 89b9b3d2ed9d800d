"""A causal language model captured once, as a source of graphs for any number of sequences and new tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from drystone.capture.alone import alone
from drystone.capture.export import Captured
from drystone.capture.export import capture as capture_module
from drystone.capture.kept_modules import names_of
from drystone.capture.repeated import Stack, shorten, stack_of, written_out
from drystone.capture.signature import Signature
from drystone.errors import CaptureError, DrystoneError, UnsupportedError
from drystone.factories import on_cpu
from drystone.generation.attention import Traced, traced
from drystone.generation.cached_attention import arguments_of_layer
from drystone.generation.decoder import CHUNKS
from drystone.generation.pages import Layer, Pages, Rows, Sequence
from drystone.generation.step import Step, decoder_layers, position_limit
from drystone.graph.cache_pages import pages_for
from drystone.graph.graph import Graph
from drystone.graph.ops import Linear
from drystone.options import Options
from drystone.plan.autotune import Planner
from drystone.preparer import Choice, Sizes, Source, lowered
from drystone.runtime.weights import Named
from drystone.sources.symbolic import SymbolicCapture

# Of the example: sequences, new tokens of each, and those whose logits are asked for. Sizes that differ are symbols of their own.
EXAMPLE = 2, 6, 3

# Linear layers on weights that are packed in one way, however many rows x has: prefill and decode share them.
ANY_ROWS = ("drystone_gemm", "drystone_gemm_narrow")


class CausalSource(Source):
    def __init__(self, model: Any, options: Options) -> None:
        self.model, self.options = model, options
        self.limit = position_limit(model)
        self.positions = self.limit + CHUNKS[-1]  # of a sequence, at most, with what its last chunk is filled up with
        self.layers: list[Layer] = []
        self.stack: Stack | None = stack_of(model, decoder_layers(model))  # whose layers are not all traced
        self._symbolic: SymbolicCapture

    def sizes(self, batch: int, count: int, kept: int) -> Sizes:
        """Of the inputs of a step."""
        pages = (len(self.layers), batch, pages_for(self.positions))
        return (batch, count), (batch, count), (kept,), (batch,), pages

    def step(self) -> Step:
        return Step(self.model, self.positions)

    def example(self) -> tuple[list[torch.Tensor], list[dict[int, Any]], list[Rows]]:
        """Inputs of a step, the axes of each that vary, and what their pages belong to."""
        batch, length, kept = EXAMPLE
        rows = Rows([Sequence(Pages(self.layers, self.positions)) for _ in range(batch)])
        rows.reserve(length)
        pages, lengths = rows.tables()
        places = torch.arange(length).repeat(batch, 1)
        varies = [{0: Dim.AUTO, 1: Dim.AUTO}, {0: Dim.AUTO, 1: Dim.AUTO}, {0: Dim.AUTO}, {0: Dim.AUTO}, {1: Dim.AUTO}]
        return [places.clone(), places, torch.arange(kept), lengths, pages], varies, [rows]

    def capture(self) -> list[Named]:
        """Raises ``CaptureError`` or ``UnsupportedError`` if the model can't be served, and says why."""
        captured = self._captured()
        # A size of 1 is one as any other to what is traced with distinct ones: it compares no two of them.
        self._symbolic = SymbolicCapture(captured, self._graph, least=1)
        float32, kept = self.options.float32_modules, self.options.kept_modules
        self._named = [names_of(self.model, modules) for modules in (float32, kept)]
        return [(name.removeprefix("model."), tensor) for name, tensor in captured.originals]

    def _captured(self) -> Captured:
        try:
            captured = self._traced()
        except (CaptureError, UnsupportedError):
            if self.stack is None:
                raise
            captured = None
        if captured is None:
            self.stack = None
            captured = self._traced()
            assert captured is not None
        return captured

    def _traced(self) -> Captured | None:
        """None where the layers of the stack turn out to differ."""
        step, stack = self.step(), self.stack
        if stack:
            shorten(step.model, stack)
            step.layers = stack.traced
        found = _layers(step)
        self.layers = [found[stack.like(layer)] for layer in range(stack.count)] if stack else found
        tensors, varies, _rows = self.example()
        captured = capture_module(step, tuple(tensors), None, dict(zip(step.inputs, varies, strict=True)))
        return written_out(captured, stack, self.model, "model", arguments_of_layer) if stack else captured

    def graph_for(self, sizes: Sizes, tensors: list[torch.Tensor]) -> tuple[Graph, Signature]:
        with on_cpu():
            found = self._symbolic.graph_for(list(sizes))
        if found is None:
            raise UnsupportedError(f"the model's capture does not hold for {sizes[0]} tokens")
        return found

    def _graph(self, captured: Captured) -> Graph:
        float32, kept = self._named
        return lowered(captured, self.options, float32, kept, within="model")

    def choice(self, planner: Planner, threads: int) -> Choice | None:
        for node, options in planner.options.items():
            if isinstance(node.op, Linear) and (shared := [option for option in options if option[0].name in ANY_ROWS]):
                options[:] = shared
        return planner.best()


def _layers(step: Step) -> list[Layer]:
    """What the layers keep, seen by running the model on tensors without data."""
    batch, length, kept = EXAMPLE
    with alone(), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        tokens = torch.zeros(batch, length, dtype=torch.int64)
        lengths, keep = (torch.zeros(count, dtype=torch.int64) for count in (batch, kept))
        pages = torch.zeros(step.layers, batch, 1, dtype=torch.int64)
        with traced(Traced(pages, lengths, keep, pages, lengths, alibi=step.alibi)) as call:
            try:
                step.logits(tokens, tokens)
            except DrystoneError:
                raise
            except Exception as error:
                raise CaptureError(f"{type(error).__name__}: {error}") from error
    missing = [layer for layer in range(step.layers) if layer not in call.layers]
    if missing:
        raise UnsupportedError(f"layer {missing[0]} does not attend through transformers' attention interface")
    return [call.layers[layer] for layer in range(step.layers)]
