"""One graph that Dynamo has found in a model, and its programs.

Dynamo's graphs have the model's weights among their inputs, and are compiled before the numbers are there. So a graph is
prepared at its first call: its weights become constants of a module around it, the sizes of that call likewise, and that module
is captured. Each call looks whether the weights are still those that were packed.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from typing import Any

import torch
import torch._dynamo
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from drystone.capture.alone import alone
from drystone.capture.signature import Signature
from drystone.errors import CaptureError, DrystoneError, UnsupportedError, warn
from drystone.forks import Lock
from drystone.graph.graph import Graph
from drystone.options import Options
from drystone.passes.in_precision import bfloat16_notice
from drystone.preparer import Eager, Preparer, Programs, Sizes, Source
from drystone.runtime.explain import Explanation
from drystone.runtime.module import Example, Prepared
from drystone.runtime.proxy import threads_in_force
from drystone.runtime.traced_calls import is_traced
from drystone.runtime.weights import Numbers
from drystone.sources.whole import WholeModel

# Equal blocks of a model may share one graph, each with weights of its own. Beyond so many sets the graph runs eagerly.
MAX_WEIGHT_SETS = 128
# Weights that change before each of so many calls in a row are not worth packing: the graph runs eagerly from then on.
MAX_CHANGES = 3

# Dynamo would keep its graphs until the native side can no longer free what they hold.
atexit.register(torch._dynamo.reset)


class CompiledGraph:
    """One graph of Dynamo's, and the programs made for it.

    A graph that has no program runs eagerly, and a ``DrystoneWarning`` says why; with the option ``strict`` the call raises.
    Weights that are changed in place, replaced or loaded anew are packed again, and so are running statistics that a call in
    training mode has moved; other changes that torch does not count (through ``tensor.data`` or numpy) are not seen.
    Inputs and buffers that the graph changes in place are written to. Buffers that are others at each call become inputs.
    """

    def __init__(self, graph: fx.GraphModule, example_inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._graph, self._options = graph, Options(**options)
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self._weights = {i: nodes[i].name for i, example in enumerate(example_inputs) if _is_weight(example)}
        self._parameters = [i for i in self._weights if isinstance(example_inputs[i], nn.Parameter)]
        inputs = [i for i in range(len(nodes)) if i not in self._weights]
        self._numbers = [i for i in inputs if _is_number(nodes[i], example_inputs[i])]
        self._tensors = [i for i in inputs if i not in self._numbers]
        self._own = [*graph.parameters(), *graph.buffers()]  # where Dynamo leaves weights in the graph
        self._preparer = Preparer()
        self._bound: dict[tuple[int, ...], _Bound] = {}
        self._changes = 0
        self._eagerly = False
        self._planning = Lock()  # of whoever makes a program

    def run(self, *args: Any) -> Any:
        """The graph's results, as a tuple. ``args`` are of the kinds of the example inputs."""
        if not self._eagerly and not is_traced():
            prepared = self._known(args)
            if prepared is None:
                with self._planning:
                    prepared = self._find(args)
            if prepared is not None and not prepared.eager:
                with torch.no_grad():
                    tensors = [args[i] for i in self._tensors]
                    if len(tensors) != prepared.signature.count:  # another thread has found more state just now
                        return self._graph(*args)
                    if prepared.state is not None:
                        read = prepared.state.read(self._graph, tensors)
                        return self._graph(*args) if read is None else prepared.with_state(self._graph, read)
                    tensors = [tensor.resolve_neg().resolve_conj().contiguous() for tensor in tensors]
                    return prepared.unflatten(prepared.program(tensors))
        return self._graph(*args)

    def explain(self) -> list[Explanation]:
        """What each program of the graph runs; none where it runs eagerly."""
        return [prepared.explanation for bound in list(self._bound.values()) for _, prepared in bound.programs.items()]

    def _called(self, args: Sequence[Any]) -> tuple[tuple[int, ...], list[torch.Tensor], list[int]]:
        """Which weights a call has, and what tells whether they are as they were."""
        weights = [*[args[i] for i in self._weights], *self._own]
        return tuple([id(args[i]) for i in self._parameters]), weights, _stamps(weights)

    def _sizes(self, args: Sequence[Any]) -> Sizes:
        return (*[args[i].shape for i in self._tensors], *[_number(args[i]) for i in self._numbers])

    def _known(self, args: Sequence[Any]) -> Prepared | None:
        """The program for these weights and sizes, if it is there."""
        key, _, stamps = self._called(args)
        bound = self._bound.get(key)
        if bound is None or bound.is_outdated(stamps):
            return None
        prepared = bound.programs.get((threads_in_force(), self._sizes(args)))
        if prepared is not None:
            self._changes = 0
        return prepared

    def _find(self, args: Sequence[Any]) -> Prepared | None:
        """As ``_known``, but made if there is none; None where the graph runs eagerly."""
        if self._eagerly:
            return None
        try:
            if (known := self._known(args)) is not None:  # another thread has made it
                return known
            self._to_inputs(_check(self._graph, [_number(arg) if i in self._numbers else arg for i, arg in enumerate(args)]))
            key, weights, stamps = self._called(args)
            bound = self._bound.get(key)
            if bound is None or bound.is_outdated(stamps):
                bound = self._bind(key, args, weights, stamps)
            else:
                self._changes = 0
            return self._prepare(bound, args, self._sizes(args), threads_in_force())
        except DrystoneError as error:
            if self._options.strict:
                raise
            self._eagerly = True
            self._bound.clear()
            warn(f"a graph of torch.compile runs eagerly: {error}")
            return None

    def _to_inputs(self, moved: Collection[int]) -> None:
        """Take these of the weights as inputs from now on."""
        if moved := self._weights.keys() & moved:
            self._weights = {i: name for i, name in self._weights.items() if i not in moved}
            self._parameters = [i for i in self._parameters if i not in moved]
            self._tensors = sorted([*self._tensors, *moved])
            self._bound.clear()

    def _replaced(self, bound: _Bound, args: Sequence[Any]) -> list[int]:
        """The weights that are other tensors than those that are packed; none where a parameter is among them."""
        replaced = [i for i, packed in zip(self._weights, bound.weights, strict=False) if args[i] is not packed]
        return [] if set(replaced) & set(self._parameters) else replaced

    def _bind(self, key: tuple[int, ...], args: Sequence[Any], weights: list[torch.Tensor], stamps: list[int]) -> _Bound:
        if key in self._bound:
            self._changes += 1
            if self._changes > 1 and (replaced := self._replaced(self._bound[key], args)):
                self._to_inputs(replaced)  # state, which the code around the graph puts in place
                self._changes = 0
                key, weights, stamps = self._called(args)
            elif self._changes > MAX_CHANGES:
                raise UnsupportedError("its weights change from call to call")
            else:
                warn("weights have changed since they were packed, and are packed again")
        elif len(self._bound) == MAX_WEIGHT_SETS:
            raise UnsupportedError(f"it is called with more than {MAX_WEIGHT_SETS} sets of weights")
        given = {name: (i, args[i]) for i, name in self._weights.items()}
        source = _GraphWithWeights(self._graph, given, self._numbers, self._options)
        programs = Programs(Preparer(beside=self._preparer), source, self._options)
        self._bound[key] = bound = _Bound(weights, stamps, Numbers(weights), programs)
        return bound

    def _prepare(self, bound: _Bound, args: Sequence[Any], sizes: Sizes, threads: int) -> Prepared:
        tensors = [args[i] for i in self._tensors]
        if not tensors:
            raise UnsupportedError("it has no inputs but weights and numbers")
        if self._options.dtype is torch.bfloat16 and (notice := bfloat16_notice()):
            warn(notice)
        budget = self._options.budget() if self._options.measures else None
        return bound.programs.at(sizes, tensors, threads, budget)


@dataclass
class _Bound:
    """Programs for weights that are as they were when packed.

    The weights are kept, so that no other tensor can take their identity or their memory.
    """

    weights: list[torch.Tensor]
    stamps: list[int]
    numbers: Numbers
    programs: Programs

    def is_outdated(self, stamps: list[int]) -> bool:
        return self.stamps != stamps or self.numbers.have_moved()


class _GraphWithWeights(Source):
    """The graph with one set of weights: sizes and numbers of a call make it a model that is captured whole."""

    def __init__(
        self, graph: fx.GraphModule, weights: dict[str, tuple[int, torch.Tensor]], numbers: Sequence[int], options: Options
    ) -> None:
        """``weights`` by name, with their places among the graph's inputs; ``numbers``: the places of those."""
        self._graph, self._weights, self._numbers, self._options = graph, weights, numbers, options
        self._captured: WholeModel

    def graph_for(self, sizes: Sizes, tensors: list[torch.Tensor]) -> tuple[Graph, Signature]:
        whole = self._captured = self._whole(sizes, tensors)
        whole.capture()
        whole.report_changes()
        if whole.signature.state and whole.signature.state.held:
            raise UnsupportedError("it changes a tensor of its own in place")
        return whole.graph, whole.signature

    def eager(self, sizes: Sizes, tensors: list[torch.Tensor]) -> Eager:
        return self._captured.eager(sizes, tensors)

    def _whole(self, sizes: Sizes, tensors: list[torch.Tensor]) -> WholeModel:
        numbers = dict(zip(self._numbers, sizes[len(tensors) :], strict=True))
        return WholeModel(Example(_WithWeights(self._graph, self._weights, numbers), tuple(tensors), {}), self._options)


class _WithWeights(nn.Module):
    """The graph as a function of the tensors that each call brings: its weights are attributes, sizes are numbers."""

    def __init__(self, graph: fx.GraphModule, weights: dict[str, tuple[int, torch.Tensor]], numbers: dict[int, Any]) -> None:
        super().__init__()
        self.training = False  # of this module alone: the graph may hold modules of the user's
        self._graph, self._numbers = graph, numbers
        self._weights = {i: name for name, (i, _) in weights.items()}
        self._autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        for name, (_, tensor) in weights.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    def forward(self, *inputs: torch.Tensor) -> Any:
        given = iter(inputs)
        args = [
            getattr(self, self._weights[i]) if i in self._weights else self._numbers[i] if i in self._numbers else next(given)
            for i in range(len(inputs) + len(self._weights) + len(self._numbers))
        ]
        if self._autocast is None:
            return self._graph(*args)
        with torch.autocast("cpu", self._autocast):
            return self._graph(*args)


def _is_weight(example: Any) -> bool:
    """Whether Dynamo says that the input is the same tensor at each call: parameters and buffers of modules."""
    return isinstance(example, nn.Parameter) or (
        isinstance(example, torch.Tensor) and hasattr(example, "_dynamo_static_input_type")
    )


class _Scalar(float):
    """A number where the graph expects a tensor to ask for its number."""

    def item(self) -> float:
        return float(self)


def _is_number(node: fx.Node, example: Any) -> bool:
    """Whether an input is a size or another number; Dynamo wraps a float in a tensor, for the graph to take it out again."""
    unwrapped = node.users and all(user.op == "call_method" and user.target == "item" for user in node.users)
    return not isinstance(example, torch.Tensor) or (example.dtype is torch.float64 and bool(unwrapped))


def _number(value: Any) -> Any:
    return _Scalar(value.item()) if isinstance(value, torch.Tensor) else value


_version: Callable[[torch.Tensor], int] = torch.Tensor._version.__get__  # type: ignore[attr-defined]


def _stamps(weights: list[torch.Tensor]) -> list[int]:
    """Where the weights lie and how often they were changed in place. Of each call, so it is built of C functions."""
    tracked = filterfalse(torch.Tensor.is_inference, weights)
    return [*map(torch.Tensor.data_ptr, weights), *map(_version, tracked)]


def _check(graph: fx.GraphModule, args: Sequence[Any]) -> list[int]:
    """Which of ``args`` the graph changes in place. Raises where a program would not do what the graph does else.

    The graph runs once on tensors without data, which show what it changes, what its results are views of, and whether
    gradients flow through them.
    """
    grad = torch.is_grad_enabled()
    try:
        with alone(), torch.inference_mode(False), torch.set_grad_enabled(grad), FakeTensorMode(allow_non_fake_inputs=True):
            fakes = [_without_data(arg) if isinstance(arg, torch.Tensor) else arg for arg in args]
            with _Statistics() as statistics:
                results = [leaf for leaf in pytree.tree_leaves(graph(*fakes)) if isinstance(leaf, torch.Tensor)]
    except Exception as error:
        raise CaptureError(f"it can't be traced: {type(error).__name__}: {error}") from error
    tensors = [fake for fake in fakes if isinstance(fake, torch.Tensor)]
    if any(result.requires_grad for result in results):
        raise UnsupportedError(
            "it needs gradients, which drystone does not compute; call the model under torch.no_grad() or torch.inference_mode()"
        )
    if statistics.move:
        raise UnsupportedError("a batch norm in training mode changes its running statistics")
    changed = [i for i, fake in enumerate(fakes) if isinstance(fake, torch.Tensor) and fake._version]
    given = {id(fakes[i]) for i in changed}  # may come back: the very tensors do
    memory = [tensor.untyped_storage()._cdata for tensor in [*tensors, *(result for result in results if id(result) not in given)]]
    if len(set(memory)) < len(memory):
        raise UnsupportedError("a result of it is a view of an input or of another result")
    return changed


class _Statistics(TorchDispatchMode):
    """Sees whether batch norms write to their running statistics, which torch does not count as a change."""

    move = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "batch_norm" in function._schema.name:
            names = [argument.name for argument in function._schema.arguments]
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            self.move |= bool(given.get("training")) and isinstance(given.get("running_mean"), torch.Tensor)
        return function(*args, **kwargs or {})


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device, requires_grad=tensor.requires_grad
    )
