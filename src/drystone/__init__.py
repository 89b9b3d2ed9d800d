"""PyTorch models on CPUs without the time between the arithmetic.

>>> import drystone
>>> fast = drystone.optimize(model, example_inputs)   # doctest: +SKIP
"""

from collections.abc import Iterator
from contextlib import contextmanager

from drystone.errors import (
    ArtefactError,
    CaptureError,
    DrystoneError,
    DrystoneWarning,
    InputError,
    ShapeError,
    UnsupportedError,
    WeightsChangedError,
    WeightsReleasedError,
)

__version__ = "0.1.0"

__all__ = [
    "ArtefactError",
    "CaptureError",
    "DrystoneError",
    "DrystoneWarning",
    "InputError",
    "ShapeError",
    "UnsupportedError",
    "WeightsChangedError",
    "WeightsReleasedError",
    "__version__",
    "disable",
    "enable",
    "enabled",
    "load",
    "optimize",
    "save",
]


def enable(torchscript: bool = True) -> None:
    """Prepare models without a change to the program that runs them, until ``disable()``. Twice is as once.

    Args:
        torchscript: what ``torch.jit.load`` and ``torch.jit.freeze`` give is optimised at its first call, for these inputs.
    """
    if torchscript:
        from drystone.conductor import optimize
        from drystone.eager.enable import replace_torchscript

        replace_torchscript(optimize)


def disable() -> None:
    """Put torch's own functions back. Modules that were loaded in between keep their programs."""
    from drystone.eager.enable import restore_torchscript

    restore_torchscript()


@contextmanager
def enabled(torchscript: bool = True) -> Iterator[None]:
    """``enable`` within a ``with`` statement; afterwards all is as it was before."""
    from drystone.eager.enable import torchscript_is_replaced

    before = torchscript_is_replaced()
    enable(torchscript)
    try:
        yield
    finally:
        if not before:
            disable()


def __getattr__(name: str) -> object:
    # The native core starts when it is first needed: `import drystone` loads no library and changes nothing.
    if name == "optimize":
        from drystone.conductor import optimize

        return optimize
    if name in ("load", "save"):
        from drystone import saving

        return getattr(saving, name)
    raise AttributeError(f"module 'drystone' has no attribute {name!r}")
