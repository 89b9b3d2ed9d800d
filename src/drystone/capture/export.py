"""A module → a whole graph of ATen operators, by torch.export, with what it takes to call it as the module is called."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import linecache
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import UserError, UserErrorType
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError
from torch.utils import _pytree as pytree

from drystone.capture.alone import alone, own_silence, own_warnings, silent
from drystone.capture.caches import register_caches
from drystone.capture.declared import Dimensions, declared_dims
from drystone.capture.hooks import global_hooks_held
from drystone.capture.isolated import can_be_isolated, users_hooks
from drystone.capture.mutation import functionalize, read_by
from drystone.capture.scalars import correct_scalars
from drystone.capture.settled import Settled, settle
from drystone.capture.signature import InputLeaf, OutputLeaf, Signature, inner_specs, is_array, labelled_leaves, no_tensor
from drystone.capture.state import HIDDEN, Result, State, Tensor
from drystone.capture.torchscript import Interpreter
from drystone.errors import CaptureError, DrystoneError, InputError, UnsupportedError
from drystone.factories import on_cpu
from drystone.graph.traced import hint
from drystone.memory import REMEDY, has_memory


@dataclass
class Captured:
    """A model as a graph of ATen calls, before it is translated. ``program`` can be dropped once the graph is built."""

    program: ExportedProgram
    signature: Signature
    constants: dict[str, tuple[str, torch.Tensor]]  # placeholder → (qualified name, the model's tensor)
    output_names: list[str]  # the nodes that give the graph's outputs
    weights: set[str]  # the placeholders that are parameters, buffers and plain tensors of the model, and are read
    declared: Dimensions = field(default_factory=list)  # what was declared of each tensor among the inputs
    changed: list[str] = field(default_factory=list)  # attributes that each call of the model changes, and a program does not
    hidden: list[str] = field(default_factory=list)  # the placeholders that are the model's state, the last inputs of the graph
    state: State | None = None  # with what no call reads again, which the signature's leaves out

    @property
    def originals(self) -> list[tuple[str, torch.Tensor]]:
        """The tensors behind ``weights``, with their qualified names."""
        return [self.constants[placeholder] for placeholder in sorted(self.weights)]


def capture(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, dynamic_shapes: Any = None) -> Captured:
    """Trace ``model(*args, **kwargs)`` for inference. The model is left as it is. It may be a TorchScript module.

    Copies of it run before that, to see what a call changes: tables that are made at the first call are constants of the program.
    Hooks around the model's own ``forward`` are left out.

    Raises ``CaptureError`` for a model in training mode, or one that can't be traced, naming the model's line, or one whose
    submodules have forward hooks, or that can't vary as ``dynamic_shapes`` declares; ``InputError`` for example inputs that are not
    on the CPU, or not as declared; ``UnsupportedError`` where the result depends on what each call changes.
    """
    kwargs = dict(kwargs or {})
    _register_dataclasses(args, kwargs)
    register_caches(args, kwargs)
    if isinstance(model, torch.jit.ScriptModule):
        model = Interpreter(model)
    check_model(model, args, kwargs)
    with global_hooks_held():
        return _captured(model, args, kwargs, dynamic_shapes)


def _register_dataclasses(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Have torch look for tensors inside the dataclasses among the arguments, as it asks its users to before an export."""
    while kinds := {type(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if dataclasses.is_dataclass(type(leaf))}:
        for kind in kinds:
            torch.export.register_dataclass(kind)


def _captured(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> Captured:
    declared = {} if dynamic_shapes is None else declared_dims(model, args, kwargs, dynamic_shapes)
    settled = _settled(model, args, kwargs)
    traced = settled.model
    try:
        # Precision is lowered where the caller asks for it, not because autocast happens to be on.
        with alone(), torch.inference_mode(_of_inference_mode(model)), _plain_modes(), _attributes_kept(traced), _quiet():
            if dynamic_shapes is not None:
                # The tracer leaves marks on tensors where it fails, and a later capture would find them.
                given, named = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))
                dynamic_shapes = _name_further_arguments(traced, kwargs, dynamic_shapes)
            else:
                given, named = args, kwargs
            program = torch.export.export(traced, tuple(given), named, dynamic_shapes=dynamic_shapes, strict=False)
            program = functionalize(program)
        state = settled.explicit.state if settled.explicit else None
        if state and isinstance(model, Interpreter):
            if any(len(item.path) > 1 for item in state.sets):
                raise UnsupportedError(
                    "each call of the TorchScript module changes a list or dict that it keeps; keep tensors instead"
                )
            state = state.renamed(model.paths)
        captured = describe(program, inspect.signature(model.forward), state)
        captured.changed += settled.changed
        captured.declared = [declared.get(id(tensor), {}) for tensor in captured.signature.flatten(args, kwargs)]
        return captured
    except DrystoneError:
        raise
    except Exception as error:
        explained = _wrong_declaration if dynamic_shapes is not None and _is_of_declaration(error) else _explanation
        raise CaptureError(explained(model, error)) from error


def _of_inference_mode(model: nn.Module) -> bool:
    """Whether the tracer must be in inference mode: in it alone may parameters that were made in it require grad. Else as it is."""
    return torch.is_inference_mode_enabled() or _is_of_inference_mode(model)


def _is_of_inference_mode(model: nn.Module) -> bool:
    return any(parameter.is_inference() for parameter in model.parameters())


@contextmanager
def _plain_modes() -> Iterator[None]:
    """Inference in the model's own dtypes on the CPU, whatever gradients, autocast and default device are outside.

    nn.TransformerEncoder and its like look whether a mask that is given is the causal one, to say so to attention. That is a
    decision on numbers; while they are traced, the mask is read as it is.
    """
    detect = nn.modules.transformer._detect_is_causal_mask

    def detect_outside(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
        return bool(is_causal) if isinstance(mask, FakeTensor) else detect(mask, is_causal, size)

    nn.modules.transformer._detect_is_causal_mask = detect_outside
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), on_cpu():
            yield
    finally:
        nn.modules.transformer._detect_is_causal_mask = detect


def _settled(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Settled:
    """A copy of the model to trace, where one can be made."""
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule) and (hooks := users_hooks(module)):
            shown = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
            raise CaptureError(
                f"the model's {name!r} ({type(module).__name__}) has forward hooks ({shown}), which a program would not run; "
                "remove them, or let the model run in parts"
            )
    if not can_be_isolated(model):
        return Settled(model)
    with (
        torch.inference_mode(_is_of_inference_mode(model)),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        on_cpu(),
        own_warnings("ignore"),  # the model's own, which its calls give
    ):
        settled = settle(model, args, kwargs)
    if settled.matters:
        raise UnsupportedError(
            f"each call of the model changes {', '.join(map(repr, settled.changed))}, and its result depends on it; "
            "a program keeps only tensors of fixed shapes between calls: keep such, or pass it in and give it back as an output"
        )
    return settled


def _name_further_arguments(model: nn.Module, kwargs: dict[str, Any], dynamic_shapes: Any) -> Any:
    """torch loses sizes that may vary where a ``forward(…, **further)`` is given any of these: here it finds them by their names.

    Gives ``dynamic_shapes`` for that.
    """
    forward = model.forward
    parameters = inspect.signature(forward).parameters
    further = next((name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD), None)
    if further is None or kwargs.keys() <= parameters.keys():
        return dynamic_shapes

    @functools.wraps(forward)
    def named(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    known = [parameter for name, parameter in parameters.items() if name != further]
    given = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs if name not in parameters]
    named.__signature__ = inspect.Signature([*known, *given])  # type: ignore[attr-defined]
    vars(model)["forward"] = named
    if not isinstance(dynamic_shapes, dict):
        return dynamic_shapes
    return {name: dims for name, dims in dynamic_shapes.items() if name != further} | (dynamic_shapes.get(further) or {})


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """The tracer puts copies of the lists and dicts among a module's attributes in their place; afterwards, all is as it was."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            for name in set(vars(module)) - set(attributes):
                del vars(module)[name]
            vars(module).update(attributes)


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch.export prints where it fails, the graph so far among it: the CaptureError says it shorter; and what it warns of in
    attributes that a call assigns, which ``Captured.changed`` names where they matter."""
    names = ("torch.export._trace", "torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")
    with silent(), own_silence(*names), own_warnings("ignore", "The tensor attributes? .* assigned during export", UserWarning):
        yield


def check_model(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise what ``capture`` raises for a model in training mode and for tensors that are not on the CPU."""
    # A graph has its dropouts and batch norms written out, and that of torch.export refuses eval().
    if model.training and not isinstance(model, torch.fx.GraphModule):
        raise CaptureError("the model is in training mode; call model.eval() first")
    sensitive = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU)
    for name, module in model.named_modules():
        if module.training and isinstance(module, sensitive):
            raise CaptureError(f"the model's {name!r} ({type(module).__name__}) is in training mode; call model.eval() first")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.device.type != "cpu":
            raise CaptureError(f"the model's {name!r} is on {tensor.device}; move the model to the CPU with model.cpu()")
        if not has_memory(tensor):
            raise CaptureError(f"the model's {name!r} has no memory for its elements: {REMEDY}")
    for label, leaf in labelled_leaves(args, kwargs):
        if isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu":
            raise InputError(f"example input {label}: expected a tensor on the CPU, got one on {leaf.device}")
        if isinstance(leaf, torch.Tensor) and not has_memory(leaf):
            raise InputError(f"example input {label} has no memory for its elements: {REMEDY}")
        if is_array(leaf):
            raise no_tensor(label, leaf)


def describe(program: ExportedProgram, parameters: inspect.Signature, state: State | None = None) -> Captured:
    """``state``: of a model that was made a function of it, whose results are (result, state)."""
    correct_scalars(program)
    inputs: list[InputLeaf] = []
    constants: dict[str, tuple[str, torch.Tensor]] = {}
    weights: set[str] = set()
    hidden: dict[int, str] = {}  # the placeholders of the state, by number
    for spec in program.graph_signature.input_specs:
        name = getattr(spec.arg, "name", "")
        if spec.kind is InputKind.USER_INPUT:
            tensor = isinstance(spec.arg, TensorArgument)
            inputs.append(InputLeaf(name, tensor, None if tensor else _constant(program, spec.arg)))
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            assert spec.target is not None
            tensors = program.state_dict if spec.target in program.state_dict else program.constants
            constants[name] = (spec.target, tensors[spec.target])
            if spec.target.startswith(HIDDEN):
                hidden[int(spec.target.removeprefix(HIDDEN))] = name
            else:
                weights.add(name)
        else:
            raise UnsupportedError(f"the model uses {spec.target!r}, which is neither a tensor nor a number")
    results = []
    for output in program.graph_signature.output_specs:
        if output.kind is not OutputKind.USER_OUTPUT:
            raise UnsupportedError(f"each call of the model changes {output.target!r}, and its capture does not show how")
        results.append(output.arg)
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    assert in_spec is not None and out_spec is not None
    left: list[str] = []  # the outputs that are the state after the call
    read: list[str] = []
    changed: list[str] = []
    full = state
    if full is not None:
        out_spec = inner_specs(out_spec)[0]
        results, after = results[: out_spec.num_leaves], [argument.name for argument in results[out_spec.num_leaves :]]
        count = sum(leaf.tensor for leaf in inputs)
        before = [hidden[index] for index in range(len(hidden))]
        own = [argument.name for argument in results if isinstance(argument, TensorArgument)]
        live = _read_again(program, full, count, own, before, after)
        changed = [] if live else list(dict.fromkeys(str(held.path[0]) for held in full.held if held.forms))
        state, kept, numbers = full.keeping(live, count)
        read, left = [before[index] for index in kept], [after[index] for index in numbers]
        for name in read:
            del constants[name]
    same = state.same if state else {}
    first = sum(isinstance(argument, TensorArgument) and place not in same for place, argument in enumerate(results))
    outputs: list[OutputLeaf] = []
    output_names: list[str] = []
    for place, argument in enumerate(results):
        if not isinstance(argument, TensorArgument):
            outputs.append(OutputLeaf(None, _constant(program, argument)))
        elif place in same:
            outputs.append(OutputLeaf(first + same[place]))
        else:
            outputs.append(OutputLeaf(len(output_names)))
            output_names.append(argument.name)
    output_names += left
    needed = read_by(program, output_names)
    signature = Signature(
        inputs, outputs, in_spec, out_spec, parameters, state if state and (state.held or state.written) else None
    )
    return Captured(program, signature, constants, output_names, weights & needed, changed=changed, hidden=read, state=full)


def _read_again(
    program: ExportedProgram, state: State, inputs: int, own: list[str], before: list[str], after: list[str]
) -> set[int]:
    """Which of what the model holds a program must read: what later calls read, if only to change it.

    Nothing, if all that calls leave is for others to see: then the program is a function, which can be saved and copied.

    ``own``: the names of the result; ``before`` and ``after``: of the tensors of the state.
    """
    owners = [index for index, held in enumerate(state.held) for _ in held.forms]

    def results(index: int) -> set[str]:
        """What a call leaves at ``held[index]``."""
        path = state.held[index].path
        leaves = [leaf for put in state.sets if put.path[: len(path)] == path for leaf in put.leaves]
        left = {after[leaf.index] for leaf in leaves if isinstance(leaf, Result)}
        left |= {before[leaf.index - inputs] for leaf in leaves if isinstance(leaf, Tensor) and leaf.index >= inputs}
        return left | {after[result] for at, result in state.written.items() if at >= inputs and owners[at - inputs] == index}

    def reads(names: set[str]) -> set[int]:
        found = read_by(program, list(names))
        return {owner for owner, name in zip(owners, before, strict=True) if name in found}

    live = reads({*own, *(after[result] for at, result in state.written.items() if at < inputs)})
    live |= {index for index in set(owners) if index in reads(results(index))}
    if not live:
        return set()
    # Some of it is state, so all is left as it should be: memory that is written to is read as well.
    live |= {index for index, held in enumerate(state.held) if not held.forms}
    live |= {owners[at - inputs] for at in state.written if at >= inputs}
    return live.union(*(reads(results(index)) for index in set(owners)))


def _constant(program: ExportedProgram, argument: Any) -> Any:
    """The constant, or the symbolic number's value in the example."""
    if isinstance(argument, ConstantArgument):
        return argument.value
    node = next(node for node in program.graph.nodes if node.name == argument.name)
    return hint(node.meta["val"])


_ADVICE = (
    "The model can't be captured as one graph. If this line decides on the numbers in a tensor, write it with "
    "torch.where, or move the decision out of the model and prepare the parts one by one."
)


def _explanation(model: nn.Module, error: BaseException) -> str:
    first = str(error).strip().split("\n", 1)[0]
    place = _model_line(error)
    where = f"at {place}" if place else f"in {type(model).__name__}"
    return f"{where}: {type(error).__name__}: {first}\n{_ADVICE}"


def _is_of_declaration(error: Exception) -> bool:
    kinds = (UserErrorType.CONSTRAINT_VIOLATION, UserErrorType.INVALID_INPUT)
    return isinstance(error, ConstraintViolationError) or (isinstance(error, UserError) and error.error_type in kinds)


def _wrong_declaration(model: nn.Module, error: BaseException) -> str:
    """What torch says of ``dynamic_shapes``: the first reason, and its suggestions."""
    said = re.sub(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]", r"\1.shape[\2]", str(error).split("\n\n", 1)[0])
    text, _, fixes = said.partition("\nSuggested fixes:\n")
    reasons = [line.removeprefix("  - ") for line in text.split("\n") if line.startswith("  - ")] or [text]
    lines = [f"dynamic_shapes does not fit {type(model).__name__}: {reasons[0]}"]
    lines += ["torch suggests to declare:", fixes] if fixes else []
    return "\n".join(
        [*lines, "Without dynamic_shapes every dimension may change from call to call, as far as the model allows it."]
    )


def _model_line(error: BaseException) -> str | None:
    """file:line and the code of the innermost frame of the model's own code; None where there is none."""
    outside = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)), os.path.dirname(traceback.__file__))
    found = None
    frame: TracebackType | None = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        path = os.path.abspath(code.co_filename)
        # Site-packages lie below the standard library's folder, and hold models.
        library = path.startswith(outside[2]) and "site-packages" not in path
        if not (path.startswith(outside[:2]) or library or code.co_filename.startswith("<")):
            line = linecache.getline(code.co_filename, frame.tb_lineno).strip()
            found = f"{code.co_filename}:{frame.tb_lineno}: {line}"
        frame = frame.tb_next
    return found
