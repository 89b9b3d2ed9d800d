"""Fast inference of PyTorch models on CPUs.

>>> import drystone
>>> fast = drystone.optimize(model, example_inputs)   # doctest: +SKIP
"""

import importlib
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import drystone.forks  # noqa: F401 (what a fork needs must be known before it)
from drystone.errors import (
    ArtefactError,
    CaptureError,
    DrystoneError,
    DrystoneWarning,
    InputError,
    PoolClosedError,
    ShapeError,
    UnsupportedError,
    WeightsChangedError,
    WeightsReleasedError,
)

__version__ = "0.1.0"

__all__ = [
    "ArtefactError",
    "Cache",
    "CaptureError",
    "DrystoneError",
    "DrystoneWarning",
    "GenerationPool",
    "InputError",
    "Pool",
    "PoolClosedError",
    "ShapeError",
    "UnsupportedError",
    "WeightsChangedError",
    "WeightsReleasedError",
    "__version__",
    "disable",
    "enable",
    "enabled",
    "explain",
    "load",
    "ops",
    "optimize",
    "optimize_",
    "optimizing",
    "profile",
    "restore",
    "save",
]


def _optimize(*args: Any, **kwargs: Any) -> Any:
    # enable() passes this on. The import is here because capture takes longer to import than all else.
    from drystone.conductor import optimize

    return optimize(*args, **kwargs)


def enable(only: Iterable[str] | None = None, *, reuse_pages: bool = True, torchscript: bool = False) -> None:
    """Put faster operators under torch's own names, for CPU tensors, until ``disable()``. The last call counts.

    Each operator takes the calls where it was measured to win and hands all others to torch's kernel. Results, gradients and
    errors are torch's. This function, ``disable()`` and ``enabled()`` are safe beside running calls: each of those is computed
    by one kernel or the other. The first call for an operator registers it with torch, whose table of kernels
    has no lock: if possible, call it before other threads compute. Registered operators stay; switched off, they
    hand every call to torch's kernel.

    Args:
        only: names of operators, as ``["topk", "cat"]``. Default: all.
        reuse_pages: reuse memory of large results (16 MB and more) instead of returning it to the system. At most
            ``DRYSTONE_PAGES`` megabytes are kept, by default an eighth of the machine's memory.
        torchscript: optimise the modules of ``torch.jit.load`` and ``torch.jit.freeze`` at their first call, for its inputs.

    Raises:
        ValueError: ``only`` names an unknown operator. Nothing has changed then.
    """
    from drystone.eager.enable import enable

    enable(only, reuse_pages, torchscript, _optimize)


def disable() -> None:
    """Undo ``enable()``. Open ``enabled()`` blocks keep their operators until they end.

    Modules loaded in between keep their programs, and tensors their memory.
    """
    if "drystone.eager.enable" not in sys.modules:
        return
    from drystone.eager.enable import disable

    disable(_optimize)


def enabled(
    only: Iterable[str] | None = None, *, reuse_pages: bool = True, torchscript: bool = False
) -> AbstractContextManager[None]:
    """``enable`` for the duration of a ``with`` statement, in all threads.

    Blocks may be nested, and open in several threads at once. An operator is on while ``enable()`` or any open block asks for it.
    So ``only`` in an inner block switches nothing off.
    """
    from drystone.eager.enable import enabled

    return enabled(only, reuse_pages, torchscript, _optimize)


# The native core starts at its first use: `import drystone` loads no library and changes nothing.
_LAZY = {
    "Cache": "drystone.generation.cache",
    "GenerationPool": "drystone.serving.generation",
    "Pool": "drystone.serving.pool",
    "explain": "drystone.inplace.explanation",
    "load": "drystone.copies",
    "ops": "drystone.ops",
    "optimize": "drystone.conductor",
    "optimize_": "drystone.inplace.optimize",
    "optimizing": "drystone.inplace.recording",
    "profile": "drystone.profiling",
    "restore": "drystone.inplace.optimize",
    "save": "drystone.copies",
}

if TYPE_CHECKING:  # for editors and type checkers
    from drystone import ops
    from drystone.conductor import optimize
    from drystone.copies import load, save
    from drystone.generation.cache import Cache
    from drystone.inplace.explanation import explain
    from drystone.inplace.optimize import optimize_, restore
    from drystone.inplace.recording import optimizing
    from drystone.profiling import profile
    from drystone.serving.generation import GenerationPool
    from drystone.serving.pool import Pool
else:

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'drystone' has no attribute {name!r}")
        module = importlib.import_module(_LAZY[name])
        return module if module.__name__ == f"drystone.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
