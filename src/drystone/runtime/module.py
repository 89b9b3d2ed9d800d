"""What ``optimize`` gives back: a module that is called as the model was, and runs the program."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from drystone.capture.hooks import GLOBAL_HOOKS
from drystone.errors import InputError, ShapeError, WeightsReleasedError
from drystone.forks import Lock
from drystone.graph.graph import Graph, Value
from drystone.runtime.explain import Explanation
from drystone.runtime.hooks import within_hooks
from drystone.runtime.program import Program
from drystone.runtime.stand_in import StandIn, refusal, threads_in_force
from drystone.runtime.traced_calls import is_traced
from drystone.runtime.weights import Weights

# Programs kept for other shapes and thread counts; the least recently used goes first.
MAX_PROGRAMS = 16


@dataclass
class Prepared:
    """A program for fixed input shapes, or the verdict that eager is faster."""

    program: Program
    explanation: Explanation
    unflatten: Callable[[list[torch.Tensor]], Any]
    graph: Graph  # what it computes
    signature: Any  # how the model is called, as capture describes it

    @property
    def eager(self) -> bool:
        return self.explanation.runs == "eager"


# Makes the program for inputs of these shapes and the thread count in force: ``(tensors, rehearse)``. ``rehearse`` says that times
# are to be measured now.
Prepare = Callable[[list[torch.Tensor], bool], Prepared]
Key = tuple[int, tuple[tuple[int, ...], ...]]


class OptimizedModule(StandIn):
    """The model, prepared for inference. Inputs and outputs are structured as the model's; attributes are the model's.

    Calls may come from several threads. Results carry no gradient. Where the model's weights change after it was prepared, calls
    raise ``WeightsChangedError`` until ``refresh()``; writes through ``.data``, which torch does not count, go unnoticed.
    """

    def __init__(
        self,
        model: nn.Module,
        flatten: Callable[[tuple[Any, ...], dict[str, Any]], list[torch.Tensor]],
        names: list[str],
        expected: list[Value],
        prepare: Prepare,
        dynamic: list[set[int]],
        batch: list[int],
        weights: Weights,
    ) -> None:
        """``batch``: the inputs with the first size of the example, which may vary though no dimension was declared dynamic."""
        super().__init__(model)
        self._flatten = flatten
        self._names = names
        self._expected = expected
        self._shapes = [torch.Size(value.shape) for value in expected]
        self._dtypes = [value.dtype for value in expected]
        self._prepare = prepare
        self._dynamic = dynamic
        self._batch = batch
        self._weights = weights
        self._programs: OrderedDict[Key, Prepared] = OrderedDict()
        scripted = isinstance(model, torch.jit.ScriptModule)
        self._hooks = () if scripted else (model._forward_pre_hooks, model._forward_hooks)  # the model's own
        self._lock = Lock()  # of the table of programs, for a moment
        self._planning = Lock()  # of whoever makes one
        self._current: tuple[int, Prepared] | None = None

    def explain(self) -> Explanation:
        """What runs where, in which format, for how long; what torch runs instead, and why."""
        if self._current is None:
            raise InputError("the module has no program yet")
        return self._current[1].explanation

    def prepare(self, *args: Any, **kwargs: Any) -> Explanation:
        """Make the program for inputs of these shapes now, and measure: calls alone plan it from times that are known.

        Gives the explanation of that program. Raises what a call with these inputs would raise.
        """
        tensors, _ = self._checked(args, kwargs)
        return self._find(tensors, threads_in_force(), rehearse=True).explanation

    def refresh(self) -> None:
        """Take over the model's weights as they are now. Programs for other shapes and threads are made again when called."""
        threads_in_force()
        with self._planning:
            with self._lock:  # first: no call may find the new weights in order, and then an old program
                before, self._programs, self._current = self._programs, OrderedDict(), None
            try:
                self._weights.refresh()
            except WeightsReleasedError:  # there are no others
                self._programs = before
                raise

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._forward_hooks or self._forward_pre_hooks or GLOBAL_HOOKS[0] or GLOBAL_HOOKS[1]:
            return super().__call__(*args, **kwargs)
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if is_traced():
            return self.call_original(args, kwargs)
        return within_hooks(self._model, self._run, args, kwargs) if any(self._hooks) else self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        tensors, usual = self._checked(args, kwargs)
        self._weights.check()
        threads = threads_in_force()
        current = self._current
        known = usual and current is not None and current[0] == threads
        prepared = current[1] if known and current else self._find(tensors, threads)
        if prepared.eager and not getattr(self._model, "training", False):  # a frozen TorchScript module has no mode
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                return self._model.forward(*args, **kwargs) if any(self._hooks) else self._model(*args, **kwargs)
        return prepared.unflatten(prepared.program(tensors))

    def _checked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[torch.Tensor], bool]:
        """The inputs as dense tensors, and whether they have the example's shapes."""
        tensors = self._flatten(args, kwargs)
        grad = torch.is_grad_enabled()
        usual = True
        for i, tensor in enumerate(tensors):
            if (
                tensor.shape != self._shapes[i]
                or tensor.dtype is not self._dtypes[i]
                or not tensor.is_cpu
                or (grad and tensor.requires_grad)
            ):
                self._check(i, tensor, grad)
                usual = False
            if not tensor.is_contiguous() or tensor.is_neg() or tensor.is_conj():
                tensors[i] = tensor.resolve_neg().resolve_conj().contiguous()
        return tensors, usual

    def _find(self, tensors: list[torch.Tensor], threads: int, rehearse: bool = False) -> Prepared:
        """The program for these shapes and threads. Where there is none, one thread makes it; others wait if they want it too."""
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        key = (threads, shapes)
        if not rehearse and (known := self._known(key)):
            return known
        with self._planning:
            if not rehearse and (known := self._known(key)):
                return known
            prepared = self._prepare(tensors, rehearse)
            with self._lock:
                self._programs[key] = prepared
                while len(self._programs) > MAX_PROGRAMS:
                    self._programs.popitem(last=False)
            return self._known(key) or prepared

    def _known(self, key: Key) -> Prepared | None:
        """The program that is there already, marked as the last used; calls of the example's shapes take it first."""
        threads, shapes = key
        with self._lock:
            prepared = self._programs.get(key)
            if prepared is not None:
                self._programs.move_to_end(key)
                if list(shapes) == [tuple(shape) for shape in self._shapes]:
                    self._current = (threads, prepared)
            return prepared

    def _check(self, index: int, tensor: torch.Tensor, grad: bool) -> None:
        """Raise the error that says what is wrong with an input, if anything is."""
        name, expected = self._names[index], self._expected[index]
        if error := refusal(repr(name), tensor, grad):
            raise error
        if tensor.dtype != expected.dtype:
            raise InputError(
                f"input {name!r}: expected {expected.dtype}, got {tensor.dtype}; convert it with .to({expected.dtype})"
            )
        fits = len(tensor.shape) == len(expected.shape) and all(
            size == want or axis in self._dynamic[index]
            for axis, (size, want) in enumerate(zip(tensor.shape, expected.shape, strict=False))
        )
        if not fits:
            allowed = [("*" if axis in self._dynamic[index] else str(size)) for axis, size in enumerate(expected.shape)]
            raise ShapeError(
                f"input {name!r}: expected shape [{', '.join(allowed)}], got {list(tensor.shape)}. The module was prepared for "
                "the shapes of its example inputs; prepare it for this shape too, or declare what varies with dynamic_shapes"
            )
