"""What a command may be told to run: a model of the zoo, a function, a saved module, a folder of transformers, an artefact.

``check`` looks whether the target is there without building a model of it; ``load`` gives the model and a call of it.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.artefact import folder as artefacts

from .zoo.inputs import FIRST_TOKEN

Kind = Literal["zoo", "function", "module", "transformers", "artefact"]

# Integers that are drawn for inputs: ids that most vocabularies have.
IDS = 100
# Tokens, where nothing is said.
TOKENS = 128
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}
_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+\*?(?:x\d+\*?)*)(?::(?P<dtype>\w+))?")


@dataclass(frozen=True)
class Call:
    """Inputs of a model, and which of their dimensions may vary, as for ``torch.export``."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None

    def __call__(self, module: Callable[..., Any]) -> Any:
        return module(*self.args, **self.kwargs)

    def map(self, function: Callable[[Any], Any]) -> Call:
        """With ``function`` of each leaf."""
        args, kwargs = pytree.tree_map(function, (self.args, self.kwargs))
        return Call(args, kwargs, self.dynamic_shapes)


@dataclass(frozen=True)
class Input:
    """One of a call's tensors: ``ids=1x128*:int64``. A size with a star may vary; without a name it is the next positional one."""

    name: str
    shape: tuple[int, ...]
    varying: tuple[int, ...]
    dtype: str

    @classmethod
    def parse(cls, text: str) -> Input:
        found = _INPUT.fullmatch(text)
        if not found or (found["dtype"] or "float32") not in _DTYPES:
            raise ValueError(f"{text!r} is no input: NAME=SIZExSIZE:DTYPE, as ids=1x128:int64; dtypes are {', '.join(_DTYPES)}")
        sizes = found["shape"].split("x")
        varying = tuple(axis for axis, size in enumerate(sizes) if size.endswith("*"))
        return cls(found["name"] or "", tuple(int(size.rstrip("*")) for size in sizes), varying, found["dtype"] or "float32")

    def tensor(self) -> torch.Tensor:
        return drawn_like(self.shape, _DTYPES[self.dtype])


def drawn_like(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Normal, small integers, or True."""
    if dtype is torch.bool:
        return torch.ones(tuple(shape), dtype=dtype)
    return torch.randn(tuple(shape)).to(dtype) if dtype.is_floating_point else torch.randint(IDS, tuple(shape), dtype=dtype)


def kind_of(target: str) -> Kind:
    """Raises ``ValueError`` for what is none of them."""
    path = Path(target)
    if ":" in target:
        return "function"
    if (path / artefacts.MANIFEST).is_file():
        return "artefact"
    if (path / "config.json").is_file():
        return "transformers"
    if path.is_file():
        return "module"
    from . import zoo

    if target in zoo.ZOO:
        return "zoo"
    if path.is_dir():
        raise ValueError(
            f"the folder {path.name} is neither an artefact of drystone.save nor a model of transformers (config.json)"
        )
    if path.suffix:
        raise ValueError(f"no file {target!r}")
    names = ", ".join([*zoo.ZOO, *zoo.GROUPS])
    raise ValueError(
        f"no model {target!r} in the zoo: {names}; or path.py:function, a .pt file, a folder of transformers, an artefact"
    )


def name_of(target: str) -> str:
    """Without any path: ``resnet50``, ``mine.py:build``, ``model.pt``."""
    path, colon, function = target.rpartition(":")
    return f"{Path(path).name}:{function}" if colon else Path(target).name


def check(target: str, inputs: Sequence[str] = ()) -> None:
    """Raises ``ValueError``, in one line, where the target is not there or can't be read, or lacks inputs."""
    given = [Input.parse(text) for text in inputs]
    kind = kind_of(target)
    if kind == "function":
        _function(target)
    elif kind == "artefact":
        artefacts.read(Path(target))[2].close()
    elif kind == "transformers":
        _class_of(Path(target))
    elif kind == "module":
        if not zipfile.is_zipfile(target):
            raise ValueError(f"{Path(target).name} is no file that torch.jit.save or torch.save wrote")
        if not given:
            raise ValueError(
                f"{Path(target).name} says nothing of its inputs: give each, as --input 1x3x224x224 or --input ids=1x128:int64"
            )
    if given and kind in ("function", "zoo"):
        raise ValueError(f"{name_of(target)} has inputs of its own; --input is for files and folders")


def load(target: str, batch: int, size: tuple[int, ...] | None, inputs: Sequence[str], seed: int) -> tuple[nn.Module, Call]:
    """The model in evaluation mode, and a call. Raises as ``check``, and for a batch or size that it does not take."""
    kind = kind_of(target)
    given = _call([Input.parse(text) for text in inputs])
    if kind in ("module", "artefact") and (batch != 1 or size is not None):
        raise ValueError(f"{name_of(target)}: batch and size are those of --input")
    if kind == "zoo":
        from . import zoo

        module, tensors = zoo.load(target, batch, size, seed)
        return module.eval(), Call(tensors)
    if kind == "function":
        return _from_function(target, batch, size)
    if kind == "artefact":
        return _from_artefact(target, given)
    if kind == "transformers":
        model = _class_of(Path(target)).from_pretrained(target, local_files_only=True).eval()
        return model, given or _call_of_transformers(model, batch, size)
    return _saved(target).eval(), given or Call()


def _call(inputs: Sequence[Input]) -> Call | None:
    if not inputs:
        return None
    positional = [each for each in inputs if not each.name]
    named = {each.name: each for each in inputs if each.name}
    dynamic: Any = None
    if any(each.varying for each in inputs):
        if positional and named:
            raise ValueError("a size with a star needs inputs that are all named, or all without a name")
        dims = {name: dict.fromkeys(each.varying, torch.export.Dim.DYNAMIC) for name, each in named.items()}
        dynamic = dims or tuple(dict.fromkeys(each.varying, torch.export.Dim.DYNAMIC) for each in positional)
    return Call(tuple(each.tensor() for each in positional), {name: each.tensor() for name, each in named.items()}, dynamic)


def _from_function(target: str, batch: int, size: tuple[int, ...] | None) -> tuple[nn.Module, Call]:
    function = _function(target)
    asked: dict[str, Any] = {}
    if batch != 1:
        asked["batch"] = batch
    if size is not None:
        asked["size"] = size
    missing = asked.keys() - inspect.signature(function).parameters.keys()
    if missing:
        raise ValueError(f"{name_of(target)} has no parameter {' or '.join(sorted(missing))}, and one was asked for")
    result = function(**asked)
    if not (isinstance(result, tuple) and 2 <= len(result) <= 4 and isinstance(result[0], nn.Module)):
        raise ValueError(
            f"{name_of(target)} must return (module, inputs), (module, inputs, keyword inputs) or these and dynamic_shapes, "
            f"not {type(result).__name__}"
        )
    module, given, *rest = result
    args, kwargs = ((), given) if isinstance(given, dict) and not rest else (given, rest[0] if rest else {})
    return module.eval(), Call(args if isinstance(args, tuple) else (args,), dict(kwargs), rest[1] if len(rest) > 1 else None)


def _function(target: str) -> Callable[..., Any]:
    path, _, name = target.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"no file {path!r} (from {target!r})")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"{file.name} can't be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{file.name} has no function {name!r}")
    return function


def _saved(target: str) -> nn.Module:
    """TorchScript, or a module that ``torch.save`` pickled, whose code runs as that of a Python file does."""
    with zipfile.ZipFile(target) as archive:
        is_script = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if is_script:
        return torch.jit.load(target, map_location="cpu")
    module = torch.load(target, map_location="cpu", weights_only=False)
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"{Path(target).name} holds a {type(module).__name__} and no module: give path.py:function, which makes one"
        )
    return module


def _from_artefact(target: str, given: Call | None) -> tuple[nn.Module, Call]:
    """Inputs are those that it was prepared for."""
    from drystone.runtime.module import interface_of
    from drystone.saving import load

    fast = load(target)
    if given is not None:
        return fast, given
    interface = interface_of(fast)
    drawn = iter([drawn_like(value.shape, value.dtype) for value in interface.inputs])
    signature = interface.signature
    args, kwargs = pytree.tree_unflatten(
        [next(drawn) if leaf.tensor else leaf.constant for leaf in signature.inputs], signature.in_spec
    )
    return fast, Call(args, kwargs)


def _class_of(folder: Path) -> Any:
    """The class of transformers that config.json names."""
    try:
        import transformers
    except ImportError:
        raise ValueError(f"{folder.name} is a model of transformers, which is not installed: pip install transformers") from None
    try:
        names = json.loads((folder / "config.json").read_text()).get("architectures") or ["AutoModel"]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{folder.name}/config.json can't be read: {error}") from error
    if not any(folder.glob("*.safetensors*")) and not any(folder.glob("*.bin*")):
        raise ValueError(f"{folder.name} has a config.json and no weights (*.safetensors or *.bin)")
    found = getattr(transformers, names[0], None)
    if found is None:
        raise ValueError(f"transformers {transformers.__version__} has no {names[0]}, which {folder.name}/config.json names")
    return found


def _call_of_transformers(model: Any, batch: int, size: tuple[int, ...] | None) -> Call:
    """What its main input is, tells the rest."""
    config, main = model.config, model.main_input_name
    if main == "input_ids":
        ids = torch.randint(min(FIRST_TOKEN, config.vocab_size // 2), config.vocab_size, (batch, *(size or (TOKENS,))))
        kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if config.is_encoder_decoder:
            kwargs["decoder_input_ids"] = ids[:, :1].clone()
        return Call((), kwargs)
    if main == "pixel_values":
        side = getattr(config, "image_size", None) or 224
        shape = size or (tuple(side) if isinstance(side, (list, tuple)) else (side, side))
        return Call((), {main: torch.randn(batch, getattr(config, "num_channels", 3), *shape)})
    if main == "input_values" and size is not None:
        return Call((), {main: torch.randn(batch, *size)})
    raise ValueError(f"{type(model).__name__} takes {main}: give each input, as --input {main}=1x16000")
