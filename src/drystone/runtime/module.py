"""``OptimizedModule``, the result of ``optimize``: called like the model, it runs the program."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.capture.declared import Dimensions, check
from drystone.capture.hooks import GLOBAL_HOOKS
from drystone.capture.signature import OtherCall, Signature, form_of
from drystone.capture.torchscript import wrapped
from drystone.errors import DrystoneError, InputError, ShapeError, WeightsReplacedError
from drystone.forks import Lock
from drystone.graph.graph import Graph, Value
from drystone.plan.budget import Budget
from drystone.runtime.background import Background, waits
from drystone.runtime.explain import Explanation
from drystone.runtime.hooks import within_hooks
from drystone.runtime.program import Program
from drystone.runtime.proxy import ModuleProxy, checked_tensors, refusal, threads_in_force
from drystone.runtime.traced_calls import is_traced
from drystone.runtime.weights import Weights

# Ways of calling a model, beside the example's, that have programs of their own.
MAX_OTHERS = 8

# What a step takes, about: measured, 6 kB of an LSTM's, 10 of a transformer's, 28 of a convolution of oneDNN's with its code.
STEP_BYTES = 24 << 10


@dataclass
class Example:
    """A model and its example call."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def with_tensors(self, tensors: list[torch.Tensor]) -> tuple[Any, Any]:
        """The call with these tensors in place of its own."""
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        given = iter(tensors)
        return pytree.tree_unflatten([next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec)


@dataclass
class Interface:
    """The calling convention of a captured model.

    ``inputs`` are those of the example. ``varying`` has the axes of each whose sizes may vary. ``batch``: the inputs whose
    first axis is the batch, where no dimension was declared dynamic. A loaded model has no example, and nothing ``declared``.
    """

    example: Example | None
    signature: Signature
    inputs: list[Value]
    varying: list[set[int]]
    batch: list[int]
    declared: Dimensions = field(default_factory=list)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Those of the example."""
        return tuple(tuple(value.shape) for value in self.inputs)


@dataclass
class Prepared:
    """A program for fixed input shapes. ``eager``: it is slower than the model, which runs instead."""

    program: Program
    eager: bool
    explain: Callable[[], Explanation]
    graph: Graph  # what it computes
    signature: Signature

    def __post_init__(self) -> None:
        self.unflatten: Callable[[list[torch.Tensor]], Any] = self.signature.unflatten
        self.state = self.signature.state
        own = sum(value.bytes for value in self.graph.constants() if value.identity is None)
        steps = len(self.program.assembled.records)
        self.bytes = STEP_BYTES * steps + own  # what it takes beside weights and the memory of calls

    @cached_property
    def explanation(self) -> Explanation:
        """Put together when it is first asked for: a call of a new size does not wait for it."""
        return self.explain()

    def with_state(self, holder: nn.Module, tensors: list[torch.Tensor]) -> Any:
        """The result, from what the state has read; the state is left in ``holder``."""
        assert self.state is not None
        outputs = self.program([tensor.resolve_neg().resolve_conj().contiguous() for tensor in tensors])
        self.state.leave(holder, tensors, outputs)
        return self.unflatten(outputs)


class Supply(Protocol):
    """The programs of a model, made by ``drystone.preparer``."""

    originals: Weights
    current: tuple[int, Prepared] | None  # the last used for the example's shapes, and its threads

    def at(self, sizes: tuple[Any, ...], tensors: list[torch.Tensor], threads: int, budget: Budget | None = None) -> Prepared:
        """The program for inputs of these sizes and the thread count in force; with a ``budget`` times are measured now."""

    def budget(self) -> Budget:
        """What measuring for one program may take."""

    background: Background | None  # where programs are made that calls do not wait for

    def leaves_to_eager(self, sizes: tuple[Any, ...], threads: int) -> bool:
        """Whether there is no program for these sizes, and eager is known to be faster, or is not to wait for one."""

    def ask(self, sizes: tuple[Any, ...], tensors: list[torch.Tensor], threads: int) -> None:
        """Eager has answered such a call: have a program made in the background, if one is wanted."""

    def refresh(self) -> None:
        """Take over the model's weights as they are now."""


# Returns the module for a call of another form: ``(args, kwargs)``.
Other = Callable[[tuple[Any, ...], dict[str, Any]], "OptimizedModule"]


class OptimizedModule(ModuleProxy):
    """The model, prepared for inference, with the same structure of inputs and outputs, and the model's attributes.

    Calls may come from several threads. Results have no gradient. After a change of the model's weights, calls
    raise ``WeightsChangedError`` until ``refresh()``; writes to ``.data`` (``weight.data.mul_(2)``) go unnoticed, as torch does not
    count them. While other parameters, buffers or submodules stand in the model, as in ``torch.func.functional_call``, calls are of
    the model as it is.
    """

    def __init__(self, model: nn.Module, interface: Interface, programs: Supply, other: Other | None = None) -> None:
        """``other`` captures the model for a call of another form. None: such calls are refused."""
        super().__init__(model)
        self._flatten = interface.signature.flatten
        self._names = [leaf.name for leaf in interface.signature.inputs if leaf.tensor]
        self._varying = interface.varying
        self._shapes = [torch.Size(value.shape) for value in interface.inputs]
        self._dtypes = [value.dtype for value in interface.inputs]
        self._interface, self._programs, self._weights = interface, programs, programs.originals
        self._weights.look_in(model)
        scripted = isinstance(model, torch.jit.ScriptModule)
        # What has the state between calls.
        self.keep_aside(_holder=wrapped(model) if isinstance(model, torch.jit.ScriptModule) else model)
        self._hooks = () if scripted else (model._forward_pre_hooks, model._forward_hooks)  # the model's own
        self._make_other, self._making_other = other, Lock()
        self._others: list[OptimizedModule] = []

    def explain(self) -> Explanation:
        """The steps of the program: implementation, format and time of each, and the reason for each operator on ATen."""
        if self._programs.current is None:
            raise InputError("the module has no program yet")
        backgrounds = [fast._programs.background for fast in (self, *self._others)]
        preparing = [purpose for background in backgrounds if background for purpose in list(background.preparing.values())]
        return replace(self._programs.current[1].explanation, preparing=preparing)

    def prepare(self, *args: Any, **kwargs: Any) -> Explanation:
        """Make the program for these shapes now, by autotuning. A call alone would plan it from known times.

        Returns the explanation of the program. Raises as a call with these inputs does.
        """
        try:
            tensors, _ = self._checked(args, kwargs)
        except OtherCall as error:
            other = self._other(args, kwargs, error, wait=True)
            assert other is not None
            return other.prepare(*args, **kwargs)
        return self._prepared(tensors, threads_in_force(), self._programs.budget()).explanation

    def refresh(self) -> None:
        """Take over the model's current weights. Programs for other shapes and threads are made again when called."""
        self._programs.refresh()
        self._others = []
        self.keep_aside(_said_replaced=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._forward_hooks or self._forward_pre_hooks or GLOBAL_HOOKS[0] or GLOBAL_HOOKS[1]:
            return super().__call__(*args, **kwargs)
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if is_traced():
            return self.call_original(args, kwargs)
        return within_hooks(self._model, self._run, args, kwargs) if any(self._hooks) else self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        try:
            tensors, usual = self._checked(args, kwargs)
        except OtherCall as error:
            other = self._other(args, kwargs, error, wait=self._programs.background is None or waits())
            return other._run(*args, **kwargs) if other else self._eager_for_now(args, kwargs, error)
        try:
            self._weights.check()
        except WeightsReplacedError as error:
            return self._as_it_is(args, kwargs, error)
        threads = threads_in_force()
        current = self._programs.current
        known = usual and current is not None and current[0] == threads
        training = getattr(self._model, "training", False)  # a frozen TorchScript module has no mode
        if known and current:
            prepared = current[1]
        elif usual or training or not self._programs.leaves_to_eager(sizes_of(tensors), threads):
            prepared = self._prepared(tensors, threads)
        else:
            result = self._eager(args, kwargs)
            self._programs.ask(sizes_of(tensors), tensors, threads)
            return result
        if prepared.eager and not training:
            return self._eager(args, kwargs)
        if prepared.state is None:
            return prepared.unflatten(prepared.program(tensors))
        read = prepared.state.read(self._holder, self._flatten(args, kwargs))
        return self._eager(args, kwargs) if read is None else prepared.with_state(self._holder, read)

    def _eager(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self._model.forward(*args, **kwargs) if any(self._hooks) else self._model(*args, **kwargs)

    def _as_it_is(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: WeightsReplacedError) -> Any:
        """A call of the model with what stands in it now."""
        if self._holder is not self._model and not isinstance(self._model, torch.jit.ScriptModule):
            raise error  # in place, where new weights are taken over
        return self.call_as_it_is(args, kwargs, error, any(self._hooks))

    def _eager_for_now(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: OtherCall) -> Any:
        """A call of another form, while or because there is no program for it. Raises ``error`` if the model does not take it."""
        if self._make_other is None:
            raise error
        checked_tensors(args, kwargs)
        try:
            result = self._eager(args, kwargs)
        except Exception as failure:
            raise error from failure
        background = self._programs.background
        assert background is not None

        def make(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._other(args, kwargs, error, wait=True)

        background.ask(form_of(args, kwargs), "calls of another form than the example's", args, kwargs, make)
        return result

    def _other(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: OtherCall, wait: bool) -> OptimizedModule | None:
        """The module for a call of another form than the example's: other keywords, lists of another length, other integers.

        Made now if there is none, or None if that is not to be waited for. Raises ``error`` if it can't be.
        """
        if (found := self._known_other(args, kwargs)) or not wait:
            return found
        with self._making_other:
            others = self._others
            if found := self._known_other(args, kwargs):
                return found
            if self._make_other is None or len(others) >= MAX_OTHERS:
                raise error
            try:
                made = self._make_other(args, kwargs)
            except DrystoneError as failure:  # most likely the model does not take such a call
                raise error from failure
            self._weights.check()
            others.append(made)  # which are no longer looked at where ``refresh`` has come between
            return made

    def _known_other(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OptimizedModule | None:
        for fast in list(self._others):
            with suppress(OtherCall):
                fast._checked(args, kwargs)
                return fast
        return None

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
        if not usual and self._interface.declared:
            check(self._interface.declared, self._names, tensors)
        return tensors, usual

    def _prepared(self, tensors: list[torch.Tensor], threads: int, budget: Budget | None = None) -> Prepared:
        return self._programs.at(sizes_of(tensors), tensors, threads, budget)

    def _check(self, index: int, tensor: torch.Tensor, grad: bool) -> None:
        """Raise if an input is not as prepared for."""
        name, dtype, shape = self._names[index], self._dtypes[index], self._shapes[index]
        if error := refusal(repr(name), tensor, grad):
            raise error
        if tensor.dtype != dtype:
            numbers = dtype.is_floating_point or tensor.dtype.is_floating_point or tensor.dtype.is_complex
            raise (InputError if numbers else OtherCall)(
                f"input {name!r}: expected {dtype}, got {tensor.dtype}; convert it with .to({dtype})"
            )
        fits = len(tensor.shape) == len(shape) and all(
            size == want or axis in self._varying[index] for axis, (size, want) in enumerate(zip(tensor.shape, shape, strict=False))
        )
        if not fits:
            allowed = [("*" if axis in self._varying[index] else str(size)) for axis, size in enumerate(shape)]
            raise ShapeError(
                f"input {name!r}: expected shape [{', '.join(allowed)}], got {list(tensor.shape)}. The module was prepared for "
                "inputs of these shapes; leave dynamic_shapes out, or declare more there, for other sizes to be taken"
            )


def sizes_of(tensors: list[torch.Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple([tuple(tensor.shape) for tensor in tensors])


# Functions, as a module's attributes are the model's.


def interface_of(fast: OptimizedModule) -> Interface:
    return fast._interface


def set_interface(fast: OptimizedModule, interface: Interface, other: Other | None) -> None:
    """Another answer to which sizes may vary, and to what calls of another form do."""
    fast._interface, fast._varying, fast._make_other = interface, interface.varying, other


def keep_state_in(fast: OptimizedModule, holder: nn.Module) -> None:
    """Let calls read and leave their state in another module than the captured one, which has the model's weights."""
    fast.keep_aside(_holder=holder)
    fast._weights.look_in(holder)


def supply_of(fast: OptimizedModule) -> Supply:
    return fast._programs
