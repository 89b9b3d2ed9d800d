"""Optimisation in place: ``optimize_``, ``restore`` and ``optimizing``.

Only the instance's attribute ``forward`` changes. Class, hooks, weights and the methods that call ``forward`` are the module's own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, update_wrapper, wraps
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from drystone.capture.alone import own_warnings
from drystone.capture.hooks import GLOBAL_HOOKS
from drystone.capture.isolated import can_be_captured_beside_calls, cloned_call, tensors_of, version_of
from drystone.capture.kept_modules import Choice, chosen_modules
from drystone.capture.module_tree import bare
from drystone.capture.signature import Form, form_of
from drystone.conductor import optimize
from drystone.eager import script
from drystone.errors import (
    CaptureError,
    DrystoneWarning,
    InputError,
    UnsupportedError,
    WeightsChangedError,
    warn,
)
from drystone.forks import Lock
from drystone.options import check_options, example_call
from drystone.preparer import programs_of
from drystone.runtime.background import Background, waiting, waits
from drystone.runtime.explain import Explanation, PartedExplanation
from drystone.runtime.module import MAX_OTHERS, OptimizedModule, interface_of, keep_state_in
from drystone.runtime.parts import PartedModule
from drystone.runtime.programs import MAX_PROGRAMS
from drystone.runtime.proxy import ModuleProxy, checked_tensors
from drystone.runtime.recurrent import RecurrentForward, is_recurrent
from drystone.runtime.traced_calls import is_traced
from drystone.runtime.watch import Watch
from drystone.sources.whole import another, for_one_form
from drystone.thread_flag import ThreadFlag

Model = TypeVar("Model", bound=nn.Module)

# Autotuning at a call that was not asked to prepare anything takes no longer: it is to serve other such calls, but nobody knows how
# many. Most of the gain is in what is measured first.
FIRST_CALL_SECONDS = 3.0

# The attribute of a module that holds its programs.
_NAME = "_drystone"


def optimize_(
    model: Model,
    example_inputs: tuple[Any, ...] | torch.Tensor | PackedSequence | None = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    keep_fp32: Sequence[Choice] | Choice | None = None,
    dynamic_shapes: Any = None,
    accuracy: Literal["default", "strict"] = "default",
    tuning: Literal["measure", "estimate"] | float = "measure",
    capture: Literal["auto", "whole"] = "auto",
    strict: bool = False,
    formats: str | None = None,
    new_shapes: Literal["wait", "background"] = "wait",
) -> Model:
    """Optimise ``model`` in place, and return it. ``restore(model)`` undoes it.

    Its ``forward`` is replaced, or that of its parts if it can't be captured whole. All else is its own: class, attributes,
    ``state_dict()``, hooks, and all methods that call it. Without an example it is prepared at its
    first call, for the arguments of that call. If a method calls submodules instead (``encode_image`` the image encoder), each of
    these is prepared at its own first call. Calls of other sizes get programs as with ``optimize``. Calls with other keywords or
    another structure are captured for themselves, eight at most. Further ones run eagerly, as do calls that can't be captured; a
    DrystoneWarning says so once.

    The original runs in training mode, under autocast, if the result needs a gradient (use ``torch.inference_mode()`` or
    ``torch.no_grad()``), while submodules have new hooks, and while it is traced or transformed. Changed weights are taken over by
    the second call that finds them the same. A new value of a number, string or switch among the attributes, or a new submodule
    or parameter, leads to a new program. Changes inside other objects (a ``config``) go unnoticed until the next ``optimize_``.

    ``copy.deepcopy`` returns a module that prepares itself at its first call. Pickles and ``torch.save`` hold the original module.

    Args:
        model: any ``nn.Module`` on the CPU. A TorchScript module gets a subclass of its class, which calls the program.
        example_inputs: a call to prepare for now, as for ``optimize``. The other arguments are as for ``optimize`` too. With
            ``new_shapes="background"`` the first call does not wait either, but for that of a TorchScript module. Without an
            example, ``tuning="measure"`` takes at most 3 seconds of a first call.

    Raises:
        InputError: ``model`` comes from ``optimize``; an argument is out of range.
        CaptureError, UnsupportedError: as ``optimize`` raises for the example. The model is unchanged then.

    >>> model = optimize_(nn.Linear(4, 2).eval())
    >>> with torch.inference_mode():
    ...     model(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    if isinstance(model, ModuleProxy):
        raise InputError(f"optimize_: this {type(model).__name__} is prepared already; take the model itself")
    if isinstance(model, torch.jit.ScriptModule) and not isinstance(model, torch.jit.RecursiveScriptModule):
        raise InputError(
            "optimize_: what torch.jit.trace gives has no place for it; take torch.jit.freeze of it, or drystone.optimize"
        )
    check_options(dtype, accuracy, tuning, capture, formats, new_shapes, dynamic_shapes=dynamic_shapes)
    if capture == "eager":
        raise InputError('optimize_: capture="eager" runs on a copy of the model; use drystone.optimize for it')
    options = {
        "dtype": dtype,
        "keep_fp32": chosen_modules(model, keep_fp32),
        "dynamic_shapes": dynamic_shapes,
        "accuracy": accuracy,
        "tuning": tuning,
        "capture": capture,
        "strict": strict,
        "formats": formats,
        "new_shapes": new_shapes,
    }
    restore(model)
    prepare: Callable[..., None]
    if isinstance(model, torch.jit.ScriptModule):
        prepare = script.install(model, partial(optimize, **options | {"keep_fp32": None}))
    else:
        first_calls = _FirstCalls()
        prepare = _install(model, options, first_calls).prepare
        _await_calls_inside(model, options | {"dynamic_shapes": None}, first_calls)
    if example_inputs is not None or example_kwargs:
        try:
            prepare(*example_call(example_inputs, example_kwargs))
        except BaseException:
            restore(model)
            raise
    return model


def restore(model: Model) -> Model:
    """Undo ``optimize_`` for ``model`` and all modules inside it."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            script.uninstall(module)
        else:
            _uninstall(module)
    return model


@dataclass
class InPlaceExplanation:
    """The explanations of a model optimised in place, by the qualified name of each optimised module.

    A module has one for each form of its calls. A module that can't be captured whole has the explanation of its parts.
    ``preparing`` has the names of those that are being captured in the background.
    """

    modules: dict[str, list[Explanation | PartedExplanation]]
    preparing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = [f"{name or 'the model'}:\n{explanation}" for name, each in self.modules.items() for explanation in each]
        shown += [f"{name or 'the model'} is being captured in the background" for name in self.preparing]
        return "\n\n".join(shown) or "nothing is prepared yet: the first call prepares it"


def explain(model: nn.Module) -> InPlaceExplanation:
    """Explain the programs that ``optimize_`` has made in ``model`` so far.

    >>> model = optimize_(nn.Linear(4, 2).eval(), torch.ones(1, 4), tuning="estimate")
    >>> list(explain(model).modules)
    ['']
    """
    found: dict[str, list[Explanation | PartedExplanation]] = {}
    preparing = []
    for name, module in model.named_modules():
        state = vars(module).get(_NAME)
        if isinstance(state, InPlace):
            made = [fast.explain() for fast in state.fast]
            found[name] = [state.parts.explain(), *made] if state.parts else [*made]
            preparing += [name] if state.background and state.background.preparing else []
        elif state is not None and state.fast is not None:
            found[name] = [state.fast.explain()]
    return InPlaceExplanation({name: each for name, each in found.items() if each}, preparing)


@contextmanager
def optimizing(model: Model, **options: Any) -> Iterator[Model]:
    """``optimize_`` for the calls in a ``with`` block. They run eagerly and are recorded; the end of the block prepares for them.

    If the block does not call the model itself, but a method that calls ``self.encoder(x)``, the outermost called modules are
    optimised. ``options`` are those of ``optimize_``. If the block raises, the model stays as it was.

    Raises ``InputError`` if the block calls no module of the model in eval mode.

    >>> model = nn.Sequential(nn.Linear(4, 2)).eval()
    >>> with optimizing(model, tuning="estimate"), torch.no_grad():
    ...     y = model(torch.ones(1, 4))
    """
    restore(model)
    recorder = _Recorder(model)
    try:
        yield model
    finally:
        recorder.remove()
    if not recorder.calls:
        raise InputError(f"optimizing: the block has called neither the {type(model).__name__} nor a module inside it in eval mode")
    called = [module for module in model.modules() if module in recorder.calls]  # outer ones first
    for module in called:
        optimize_(module, **options)
        state: InPlace = vars(module)[_NAME]
        for args, kwargs in recorder.calls[module]:
            state.warm_up(args, kwargs)


# Why a call has no program.
_REFUSALS = (InputError, CaptureError, UnsupportedError, DrystoneWarning)


class InPlace:
    """The state of an optimised module: its own ``forward``, and programs for the forms of its calls.

    Copies of the module may share it: they run their own ``forward``.
    """

    # No __dict__, so that code that copies a module's attributes object by object takes this as it is.
    __slots__ = (
        "background",
        "busy",
        "captures",
        "fast",
        "first_calls",
        "kinds",
        "layers",
        "lock",
        "module",
        "options",
        "own",
        "parts",
        "refused",
        "said",
        "seen",
        "watch",
    )

    def __init__(
        self, module: nn.Module, own: Callable[..., Any] | None, options: dict[str, Any], first_calls: _FirstCalls | None
    ) -> None:
        """``own``: the instance's former ``forward`` attribute. ``first_calls``: those that it waits for; None for a part."""
        self.module, self.own, self.options = module, own, options
        self.captures = 0  # of the weights as they are, for forms of calls and attributes that were set
        self.first_calls = first_calls
        self.lock = Lock(reentrant=True)  # of whoever prepares
        self.busy = ThreadFlag()  # of a thread that captures the module: a call that it makes meanwhile is the original's
        self.background = Background(options["strict"]) if options["new_shapes"] == "background" else None
        self.said: set[Any] = set()
        self._forget()

    def _forget(self) -> None:
        self.fast: list[OptimizedModule] = []
        self.kinds: dict[Form, OptimizedModule] = {}  # the same, by how the module is called
        self.refused: set[tuple[Any, ...]] = set()  # calls, with their sizes, that can't be captured
        self.parts: PartedModule | None = None  # where the module can't be: its submodules are optimised
        self.layers: RecurrentForward | None = None  # of a recurrent layer that is not captured
        self.watch: Watch | None = None
        self.seen: Any = None  # the weights as they were in the call that saw a change

    def __deepcopy__(self, memo: dict[int, Any]) -> InPlace:
        options = self.options | {"keep_fp32": copy.deepcopy(self.options["keep_fp32"], memo)}
        own, first_calls = copy.deepcopy((self.own, self.first_calls), memo)
        return InPlace(memo.get(id(self.module), self.module), own, options, first_calls)

    def __reduce__(self) -> Any:
        return type(None), ()  # a pickle can be read without drystone

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own ``forward``."""
        return self.own(*args, **kwargs) if self.own else type(self.module).forward(self.module, *args, **kwargs)

    # -- a call

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.first_calls is not None and not self._is_called():
            return self.original(*args, **kwargs)
        if self.parts or self._runs_original(args, kwargs):
            return self.original(*args, **kwargs)
        error: Exception | None = None
        later = False
        try:
            if self.layers:
                return self.layers.around(self.original)(*args, **kwargs)
            kind = form_of(args, kwargs)
            found = self._known(kind, args, kwargs)
            if found is None and self._may_capture(kind, args, kwargs):
                later = self._makes_later()
                found = None if later else self._captured(kind, args, kwargs, quickly=not waits())
            if found is not None:
                return found.forward(*args, **kwargs)
        except WeightsChangedError:
            if self._took_new_weights():
                return self.call(args, kwargs)
        except _REFUSALS as failure:  # raised before anything is computed
            error = failure
        result = self.original(*args, **kwargs)
        if error is not None:  # the module takes this call: what it does not take says nothing about it
            self._refuse(args, kwargs, error)
        elif later and self.background is not None:
            self.background.ask(kind, "this form of call", args, kwargs, self._capture_later)
        return result

    def _is_called(self) -> bool:
        """Whether this module, called from outside for the first time, is to be prepared. Those inside it do not wait any more."""
        first_calls, self.first_calls = self.first_calls, None
        for module in self.module.modules():
            state = vars(module).get(_NAME)
            if module is not self.module and isinstance(state, InPlace) and state.first_calls is not None:
                _uninstall(module)
        if first_calls is None or first_calls.left > 0:
            if first_calls is not None:
                first_calls.left -= 1
            return True
        _uninstall(self.module)
        return False

    def _runs_original(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the original runs this call. Reasons that a user may not expect are warned of."""
        if self.module.training or GLOBAL_HOOKS[0] or GLOBAL_HOOKS[1]:
            return True
        if torch.is_autocast_enabled("cpu"):
            self._say("runs eagerly under autocast; optimize_(model, dtype=torch.bfloat16) has a program in less precision")
            return True
        if torch.is_grad_enabled() and self._carries_gradient(args, kwargs):
            self._say("runs eagerly where its result carries a gradient; call it under torch.inference_mode() or torch.no_grad()")
            return True
        if self.watch is None:
            return False
        if self.watch.other_hooks():
            return True
        change = self.watch.change()
        if change is None:
            return False
        if change.is_mode or change.is_lent:
            return True
        if change.is_weight:
            return not self._took_new_weights()
        with self.lock:
            self._forget()
        return False

    def _carries_gradient(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        parameters = self.watch.parameters if self.watch else self.module.parameters()
        if any(parameter.requires_grad for parameter in parameters):
            return True
        return any(tensor.requires_grad for tensor in tensors_of(args, kwargs))

    def _say(self, text: str, about: Any = None) -> None:
        """Warn, once of each ``about``, the text itself if that is None."""
        if (about or text) not in self.said:
            self.said.add(about or text)
            warn(f"{type(self.module).__name__} {text}")

    def _took_new_weights(self) -> bool:
        """Not at the first call with new weights: in training, each call has new ones."""
        with self.lock:
            now = self._weights()
            if now != self.seen:
                self.seen = now
                return False
            if self.layers:
                self.layers.refresh()
                self.seen = None
            else:
                self._forget()
                self.captures = 0
            return True

    def _weights(self) -> list[tuple[int, int]]:
        buffers = [tensor for name, tensor in self.module.named_buffers() if name not in self._state]
        tensors = [*self.module.parameters(), *buffers]
        return [(tensor.data_ptr(), version_of(tensor)) for tensor in tensors]

    def _refuse(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> None:
        if not _are_taken(args, kwargs):
            return
        if self.options["strict"]:
            raise error
        kind = form_of(args, kwargs)
        self.refused.add((kind, _sizes(args, kwargs)))
        if kind in self.kinds:
            programs_of(self.kinds[kind]).source.singles -= 1
        else:
            self.captures += 1
        self._say(f"runs eagerly in calls like this one: {error}", kind)

    # -- preparation

    def prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the program for this form of call, if there is none. Raises as ``optimize`` does."""
        with torch.no_grad():
            checked_tensors(args, kwargs)
        self._is_called()
        kind = form_of(args, kwargs)
        if self._known(kind, args, kwargs) is None and self._may_capture(kind, args, kwargs):
            self._captured(kind, args, kwargs)

    def warm_up(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call the module once, so that the next such call finds its program."""
        with torch.no_grad(), torch.autocast("cpu", enabled=False), waiting:
            self.call(args, kwargs)

    def _known(self, kind: Form, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OptimizedModule | None:
        """What runs calls of this form, if there is anything."""
        if self.refused and (kind, _sizes(args, kwargs)) in self.refused:
            return None
        if (known := self.kinds.get(kind)) is not None or self.busy or self.captures > 1 + MAX_OTHERS:
            return known
        kinds = self.kinds
        for fast in list(self.fast):
            if _takes(fast, args, kwargs):  # though it was made for a call of another form
                return kinds.setdefault(kind, fast)
        return None

    def _may_capture(self, kind: Form, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self.busy or self.captures > 1 + MAX_OTHERS or (kind, _sizes(args, kwargs)) in self.refused:
            return False
        if self.parts or self.layers or not _are_taken(args, kwargs):
            return False
        if self.captures > MAX_OTHERS:
            self.captures += 1  # no more questions
            self._say(f"runs eagerly in calls unlike those that programs were made for: {MAX_OTHERS} more were")
            return False
        return True

    def _makes_later(self) -> bool:
        """Whether a call does not wait for a capture. One that must read the module itself would disturb the calls beside it."""
        return self.background is not None and not waits() and can_be_captured_beside_calls(self.module)

    @contextmanager
    def _making(self) -> Iterator[None]:
        # What a call does to its inputs is for the caller to see.
        with self.busy, own_warnings("error", "the model changes its input", DrystoneWarning):
            yield

    def _captured(self, kind: Form, args: tuple[Any, ...], kwargs: dict[str, Any], quickly: bool = False) -> OptimizedModule | None:
        """``_capture``, by one thread at a time."""
        with self.lock:
            return self._known(kind, args, kwargs) or self._capture(kind, args, kwargs, quickly)

    def _capture_later(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """``_capture`` in the background, where others may change the module meanwhile: the lock is theirs."""
        kind = form_of(args, kwargs)
        try:
            if self._known(kind, args, kwargs) is None:  # an earlier one was not done when eager began with the call
                self._capture(kind, args, kwargs)
        except _REFUSALS as error:
            self._refuse(args, kwargs, error)

    def _capture(self, kind: Form, args: tuple[Any, ...], kwargs: dict[str, Any], quickly: bool = False) -> OptimizedModule | None:
        """Capture the module: first, or for a call of another form. None where it has become parts, or has changed meanwhile.

        ``quickly``: someone waits for the result of the call.
        """
        made: Any
        kinds, watch, weights = self.kinds, Watch(self.module, self._state), self._weights()
        with self._making():
            if self.fast:
                made = another(programs_of(self.fast[0]), args, kwargs)
            else:
                options = self.options | self._precision()
                if quickly and options["tuning"] == "measure":
                    options["tuning"] = FIRST_CALL_SECONDS
                if quickly and options["dynamic_shapes"] is None:
                    options["dynamic_shapes"] = "auto"  # a call that nobody chose for an example
                made = optimize(self._twin(), args, example_kwargs=kwargs, **options)
        with self.lock:
            self.captures += 1
            parted = isinstance(made, PartedModule)
            # Buffers that change at each call are in no part.
            count = len(watch.parameters) if parted else None
            restored = vars(self.module).get(_NAME) is not self
            if restored or kinds is not self.kinds or watch.change() or weights[:count] != self._weights()[:count]:
                return None
            if parted:
                self._divide(made)
                return None
            return self.take(made, kind)

    def take(self, made: OptimizedModule, kind: Form) -> OptimizedModule:
        """Have ``made`` run calls of this form, of any size; of other forms is decided here."""
        keep_state_in(made, self.module)
        for_one_form(made, self._making)
        self.fast.append(made)
        self.kinds[kind] = made
        state = interface_of(made).signature.state
        names = (state.names if state else set()) | self._state
        if self.watch is None or names != self.watch.state:
            self.watch = Watch(self.module, names)
        return made

    @property
    def _state(self) -> set[str]:
        """The attributes that calls change, by qualified name."""
        return self.watch.state if self.watch else set()

    def _twin(self) -> nn.Module:
        """The module to optimise: another object on the same weights and submodules, with the original ``forward`` and no hooks."""
        made = bare(self.module)
        vars(made).pop(_NAME)
        vars(made).pop("forward")
        if self.own:
            vars(made)["forward"] = self.own

        def call(self_or_copy: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # Where eager is faster, what it keeps is to be kept by the user's module.
            if self_or_copy is made and not is_traced() and not self.busy:
                return self.original(*args, **kwargs)
            return nn.Module.__call__(self_or_copy, *args, **kwargs)

        type(made).__call__ = call  # type: ignore[method-assign]
        return made

    def _precision(self) -> dict[str, Any]:
        """``keep_fp32`` for this module, which may be a part of the model."""
        kept = self.options["keep_fp32"]
        inside = [module for module in self.module.modules() if module in kept and module is not self.module]
        return {"dtype": None if self.module in kept else self.options["dtype"], "keep_fp32": inside}

    def _divide(self, made: PartedModule) -> None:
        """Optimise the parts in place instead. So the user's module keeps the state between calls, not a copy."""
        self.parts = made
        for module, forward in made._parts.items():
            if module not in set(self.module.modules()):  # the twin: a recurrent layer
                forward.look_at(self.module)
                self.parts, self.layers = None, forward
                continue
            state = _install(module, self.options | {"dynamic_shapes": None}, None)
            if isinstance(forward, RecurrentForward):
                state.layers = forward
                continue
            for fast in forward.programs:
                example = interface_of(fast).example
                assert example is not None
                kind = form_of(example.args, example.kwargs)
                if kind in state.kinds:
                    programs_of(state.kinds[kind]).adopt(programs_of(fast))
                else:
                    state.take(fast, kind)
                    state.captures += 1


class _FirstCalls:
    """Of a model, and of the modules inside it, which its other methods may call: so many are prepared, as they come."""

    def __init__(self) -> None:
        self.left = 1 + MAX_OTHERS


def _install(module: nn.Module, options: dict[str, Any], first_calls: _FirstCalls | None) -> InPlace:
    _uninstall(module)
    own = vars(module).get("forward")
    state = InPlace(module, own, options, first_calls)
    vars(module)[_NAME] = state
    vars(module)["forward"] = MethodType(_forward(module, own), module)
    return state


def _await_calls_inside(model: nn.Module, options: dict[str, Any], first_calls: _FirstCalls) -> None:
    """Have the modules inside prepare themselves, if it is they who are called.

    Not single layers: a program of one operator is no faster than eager, and takes as long to make as another.
    """
    for module in model.modules():
        if module is model or isinstance(module, (torch.jit.ScriptModule, ModuleProxy)):
            continue
        layers = next(module.children(), None) is not None or is_recurrent(module)
        if layers and next(module.parameters(), None) is not None:
            _install(module, options, first_calls)


def _forward(module: nn.Module, own: Callable[..., Any] | None) -> Callable[..., Any]:
    """The replacement of the method ``forward``. Bound to a copy of the module, it is the original."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # First: those that trace read on here.
        state = None if is_traced() else vars(self).get(_NAME)
        if state is None or state.module is not self:
            return own(*args, **kwargs) if own else type(self).forward(self, *args, **kwargs)
        return state.call(args, kwargs)

    update_wrapper(forward, own or type(module).forward)
    setattr(forward, _NAME, True)
    forward.__name__ = "forward"  # by which pickle finds the class's
    with suppress(TypeError, ValueError):  # a function without a signature
        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        signature = inspect.signature(own or MethodType(type(module).forward, module))
        parameters = list(signature.parameters.values())
        if "self" in signature.parameters:
            this = this.replace(name="_self")
        forward.__signature__ = signature.replace(parameters=[this, *parameters])  # type: ignore[attr-defined]
    return forward


def _uninstall(module: nn.Module) -> None:
    held = vars(module)
    state = held.get(_NAME)
    if _NAME in held and (state is None or isinstance(state, InPlace)):  # None: it comes from a pickle
        held.pop(_NAME, None)  # another thread may do the same
        forward = held.get("forward")
        if not isinstance(forward, MethodType) or (state and not hasattr(forward, _NAME)):
            return  # someone has put another in its place since
        if state and state.own:
            held["forward"] = state.own
        else:
            held.pop("forward", None)


class _Recorder:
    """Records the calls of a model's outermost modules, until ``remove``."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: dict[nn.Module, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self.known: set[Any] = set()
        self.here = ThreadFlag()  # of a thread inside a call
        self.own = {module: vars(module).get("forward") for module in model.modules()}
        for module in self.own:
            if not isinstance(module, (torch.jit.ScriptModule, ModuleProxy)):
                vars(module)["forward"] = self._noting(module, module.forward)

    def remove(self) -> None:
        for module, own in self.own.items():
            if own is not None:
                vars(module)["forward"] = own
            else:
                vars(module).pop("forward", None)

    def _noting(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def noted(*args: Any, **kwargs: Any) -> Any:
            if self.here or module.training or is_traced():
                return forward(*args, **kwargs)
            self.note(module, args, kwargs)
            with self.here:
                return forward(*args, **kwargs)

        return noted

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = module, form_of(args, kwargs), _sizes(args, kwargs)
        calls = self.calls.setdefault(module, [])
        if key not in self.known and len(calls) < MAX_PROGRAMS:
            self.known.add(key)
            calls.append(cloned_call(args, kwargs))


def _sizes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in tensors_of(args, kwargs))


def _takes(fast: OptimizedModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        fast._checked(args, kwargs)
    except InputError:
        return False
    return True


def _are_taken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether programs can read these tensors: on the CPU, with memory."""
    try:
        checked_tensors(args, kwargs)
    except InputError:
        return False
    return True
