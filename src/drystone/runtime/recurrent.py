"""LSTM, GRU and RNN modules of models whose Python runs at each call: on packed weights, for whatever sequences come.

A program is for fixed shapes, and torch.export has none for packed sequences. Here one object serves any number of time steps and
rows, in tensors and in ``PackedSequence``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from drystone import forks, native
from drystone.forks import Lock
from drystone.graph.builders.recurrent import Direction, directions_of, gate_bias, inner_bias, input_weights
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Value, identity_of
from drystone.graph.ops.recurrent import GATES
from drystone.memory import has_memory
from drystone.plan.formats import PLAIN, dense
from drystone.plan.implementations.base import WeightStore
from drystone.runtime.lazy import LazyTensor, materialise
from drystone.runtime.proxy import threads_in_force
from drystone.runtime.weights import Weights

_FORWARDS = frozenset((nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward))


class Packer(Protocol):
    """Owns the packed weights that recurrent layers and programs share."""

    weights: WeightStore
    lock: Lock  # of whoever packs

    def renew(self) -> None:
        """The weights have changed: nothing that was packed is used again."""


@dataclass
class Layers:
    """``run`` takes any length and batch. ``packed``: the memory that it reads."""

    steps: native.RecurrentLayers
    packed: list[torch.Tensor]


def is_recurrent(module: nn.Module) -> bool:
    """Whether it computes what torch's own LSTM, GRU or RNN does, and the native side can."""
    if native.isa() == "none" or getattr(type(module), "forward", None) not in _FORWARDS or "forward" in vars(module):
        return False
    weights = [module._parameters.get(name) for name in module._flat_weights_names]  # type: ignore[union-attr]
    dtypes = {None if weight is None else weight.dtype for weight in weights}  # None: it is computed from others
    return len(dtypes) == 1 and dtypes.issubset(FLOATS)


class RecurrentForward:
    """Takes the place of such a module's ``forward``. What it does not take, the module does, or raises.

    ``dtype``: ``torch.bfloat16`` multiplies in bfloat16, where the CPU can; results keep the module's dtype. Calls may come from
    several threads.
    """

    def __init__(self, module: Any, packer: Packer, dtype: torch.dtype | None = None) -> None:
        self.kind = type(module).__name__
        self._abandoned = ""  # why it runs eagerly from now on
        self._module, self._packer = module, packer
        self._dtype = module.weight_ih_l0.dtype
        self._product_dtype = dtype or self._dtype if native.multiplies_bfloat16() else torch.float32
        self._directions = 1 + module.bidirectional
        self._width = module.proj_size or module.hidden_size
        self._is_lstm = module.mode == "LSTM"
        self._weights = Weights(module.named_parameters(recurse=False))
        self._weights.look_in(module)
        self._layers: Layers | None = None

    def around(self, own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)  # models look at the parameters of their modules' forward
        def forward(input: Any, hx: Any = None) -> Any:
            eager = not self.runs or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
            result = None if eager else self.call(input, hx)
            return own(input, hx) if result is None else result

        return forward

    def abandon(self, name: str) -> None:
        """The packed layers know the attributes of their module as they were."""
        self._abandoned = f"the model has set its {name!r}"

    @property
    def runs(self) -> bool:
        return not self._abandoned

    @property
    def other_inputs(self) -> str:
        """What is known of calls for which it does not run."""
        return self._abandoned

    def look_at(self, module: Any) -> None:
        """Take the weights from ``module``, which has the same, from the next ``refresh`` on, and watch it."""
        self._module = module
        self._weights.look_in(module)

    def refresh(self) -> None:
        """Take over the module's weights as they are now, at the next call."""
        with self._packer.lock:
            self._packer.renew()
            self._layers = None  # first: no call may find the new weights in order, and then old packed ones
            self._weights.take(self._module.named_parameters(recurse=False))

    @property
    def layers(self) -> Layers:
        layers = self._layers
        if layers is None:
            with self._packer.lock:
                layers = self._layers = self._layers or self._packed()
        return layers

    @property
    def implementation(self) -> str:
        return self.layers.steps.implementation

    def call(self, input: Any, hx: Any) -> Any:
        """What the module gives; None for inputs that it is to see itself."""
        if type(input) is PackedSequence:
            return self._packed_sequence(input, hx)
        x = self._taken(input)
        if x is None or x.dim() not in (2, 3):
            return None
        first = self._module.batch_first
        batch = () if x.dim() == 2 else (x.shape[1 - first],)
        steps = x.shape[0] if x.dim() == 2 else x.shape[first]
        states = self._states(hx, batch)
        if states is None:
            return None
        return self._run(x, steps, batch, [], states)

    def _packed_sequence(self, input: PackedSequence, hx: Any) -> Any:
        data, (batch_sizes, sorted_indices, unsorted_indices) = self._taken(input.data), input[1:]
        sizes = batch_sizes.tolist()
        fit = data is not None and data.dim() == 2 and sum(sizes) == len(data) and sizes == sorted(sizes, reverse=True)
        if data is None or not fit or sizes[-1] < 1:
            return None
        states = self._states(hx, (sizes[0],))
        if states is None:
            return None
        if sorted_indices is not None:
            states = [state.index_select(1, sorted_indices) for state in states]
        output, last = self._run(data, len(sizes), (sizes[0],), sizes, states)
        if unsorted_indices is not None:
            order = functools.partial(torch.index_select, dim=1, index=unsorted_indices)
            last = tuple(map(order, last)) if self._is_lstm else order(last)
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), last

    def _taken(self, x: Any) -> torch.Tensor | None:
        """``x`` as it can be read; None where its kind or width is another."""
        if type(x) is LazyTensor:
            x = materialise(x, self.kind)
        if type(x) is not torch.Tensor or x.dtype is not self._dtype or not x.is_cpu or x.layout is not torch.strided:
            return None
        if not x.numel() or x.shape[-1] != self._module.input_size or not has_memory(x):
            return None
        return x.resolve_neg().to(self._product_dtype).contiguous()

    def _shapes(self, batch: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Those of the state, and of an LSTM's cell."""
        rows = self._module.num_layers * self._directions
        widths = (self._width, self._module.hidden_size) if self._is_lstm else (self._width,)
        return [(rows, *batch, width) for width in widths]

    def _states(self, hx: Any, batch: tuple[int, ...]) -> list[torch.Tensor] | None:
        """The initial states, none for zeros; None where they do not fit."""
        if hx is None:
            return []
        given, shapes = hx if self._is_lstm else (hx,), self._shapes(batch)
        if type(given) not in (tuple, list) or len(given) != len(shapes):
            return None
        states = [materialise(state, self.kind) if type(state) is LazyTensor else state for state in given]
        for state, shape in zip(states, shapes, strict=True):
            plain = type(state) is torch.Tensor and state.is_cpu and state.layout is torch.strided
            if not plain or state.dtype is not self._dtype or state.shape != shape or not has_memory(state):
                return None
        return [state.resolve_neg().contiguous() for state in states]

    def _run(self, x: torch.Tensor, steps: int, batch: tuple[int, ...], sizes: list[int], states: list[torch.Tensor]) -> Any:
        self._weights.check()
        threads = threads_in_force()
        layers = self.layers.steps
        forks.note_use()
        output = torch.empty((*x.shape[:-1], self._directions * self._width), dtype=self._dtype, device="cpu")
        last = [torch.empty(shape, dtype=self._dtype, device="cpu") for shape in self._shapes(batch)]
        state, cell = [*map(torch.Tensor.data_ptr, states), 0, 0][:2]
        final_state, final_cell = [*map(torch.Tensor.data_ptr, last), 0][:2]
        first, rows = self._module.batch_first and not sizes, batch[0] if batch else 1
        layers.run(steps, rows, first, sizes, x.data_ptr(), state, cell, output.data_ptr(), final_state, final_cell, threads)
        return output, (tuple(last) if self._is_lstm else last[0])

    def _packed(self) -> Layers:
        module, dtype = self._module, self._product_dtype
        kind, code = module.mode.lower(), native.DTYPES[dtype]
        named = [(name, getattr(module, name).detach()) for name in module._flat_weights_names]
        values = [Value(tuple(w.shape), w.dtype, name, data=w, identity=identity_of(w)) for name, w in named]
        layers = directions_of(values, module.bias, module.num_layers, module.bidirectional)
        packed = [memory for layer in layers for memory in _pack(self._packer.weights, kind, layer, dtype)]
        sizes = module.input_size, module.hidden_size, self._width, module.num_layers, self._directions, module.bias
        addresses = [memory.data_ptr() for memory in packed]
        return Layers(native.RecurrentLayers(kind, code, native.DTYPES[self._dtype], *sizes, addresses), packed)


def _pack(store: WeightStore, kind: str, layer: list[Direction], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """What ``native.RecurrentLayers`` takes of a layer, in its order; the products are of ``dtype``."""
    weight, bias = input_weights(layer), gate_bias(layer, kind)
    rows, inputs = weight.shape
    x, gates = dense(Value((1, inputs), dtype), PLAIN), dense(Value((1, rows), torch.float32), PLAIN)
    yield store.packed(native.Gemm(x, rows, bias is not None, gates, []), weight, dtype)
    if bias is not None:
        yield store.plain(bias, torch.float32)
    for direction in layer:
        (rows, state), code = direction.hidden.shape, native.DTYPES[dtype]
        hidden = rows // GATES[kind]
        yield store.packed(native.RecurrentWeights(code, GATES[kind], hidden, state), direction.hidden, dtype)
        if kind == "gru" and bias is not None:
            yield store.plain(inner_bias(direction), torch.float32)
        if direction.projection is not None:
            yield store.packed(native.RecurrentWeights(code, 1, state, hidden), direction.projection, dtype)
