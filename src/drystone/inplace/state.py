"""A module that is optimised in place: its own ``forward``, its programs, and the choice between them at each call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn

from drystone.capture.alone import own_warnings
from drystone.capture.hooks import GLOBAL_HOOKS
from drystone.capture.isolated import can_be_captured_beside_calls, tensors_of, version_of
from drystone.capture.module_tree import bare
from drystone.capture.signature import Form, form_of
from drystone.conductor import optimize
from drystone.errors import CaptureError, DrystoneWarning, InputError, UnsupportedError, WeightsChangedError, warn
from drystone.forks import Lock
from drystone.inplace.calls import are_taken, sizes_of_call, takes
from drystone.inplace.forward import NAME, replacement, uninstall
from drystone.preparer import programs_of
from drystone.runtime.background import Background, waiting, waits
from drystone.runtime.module import MAX_OTHERS, OptimizedModule, interface_of, keep_state_in
from drystone.runtime.parts import PartedModule
from drystone.runtime.proxy import checked_tensors
from drystone.runtime.recurrent import RecurrentForward
from drystone.runtime.traced_calls import is_traced
from drystone.runtime.watch import Watch
from drystone.sources.whole import another, for_one_form
from drystone.thread_flag import ThreadFlag

# Autotuning at a call that was not asked to prepare anything takes no longer: it is to serve other such calls, but nobody knows how
# many. Most of the gain is in what is measured first.
FIRST_CALL_SECONDS = 3.0

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
        self, module: nn.Module, own: Callable[..., Any] | None, options: dict[str, Any], first_calls: FirstCalls | None
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
            state = vars(module).get(NAME)
            if module is not self.module and isinstance(state, InPlace) and state.first_calls is not None:
                uninstall(module)
        if first_calls is None or first_calls.left > 0:
            if first_calls is not None:
                first_calls.left -= 1
            return True
        uninstall(self.module)
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
        if not are_taken(args, kwargs):
            return
        if self.options["strict"]:
            raise error
        kind = form_of(args, kwargs)
        self.refused.add((kind, sizes_of_call(args, kwargs)))
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
        if self.refused and (kind, sizes_of_call(args, kwargs)) in self.refused:
            return None
        if (known := self.kinds.get(kind)) is not None or self.busy or self.captures > 1 + MAX_OTHERS:
            return known
        kinds = self.kinds
        for fast in list(self.fast):
            if takes(fast, args, kwargs):  # though it was made for a call of another form
                return kinds.setdefault(kind, fast)
        return None

    def _may_capture(self, kind: Form, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self.busy or self.captures > 1 + MAX_OTHERS or (kind, sizes_of_call(args, kwargs)) in self.refused:
            return False
        if self.parts or self.layers or not are_taken(args, kwargs):
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
            restored = vars(self.module).get(NAME) is not self
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
        vars(made).pop(NAME)
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
            state = install(module, self.options | {"dynamic_shapes": None}, None)
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


class FirstCalls:
    """Of a model, and of the modules inside it, which its other methods may call: so many are prepared, as they come."""

    def __init__(self) -> None:
        self.left = 1 + MAX_OTHERS


def install(module: nn.Module, options: dict[str, Any], first_calls: FirstCalls | None) -> InPlace:
    uninstall(module)
    own = vars(module).get("forward")
    state = InPlace(module, own, options, first_calls)
    vars(module)[NAME] = state
    vars(module)["forward"] = MethodType(replacement(module, own), module)
    return state
