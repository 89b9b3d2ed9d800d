"""PyTorch models on CPUs without the time between the arithmetic.

>>> import drystone
>>> fast = drystone.optimize(model, example_inputs)   # doctest: +SKIP
"""

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
    "optimize",
]


def __getattr__(name: str) -> object:
    # The native core starts when it is first needed: `import drystone` loads no library and changes nothing.
    if name == "optimize":
        from drystone.conductor import optimize

        return optimize
    raise AttributeError(f"module 'drystone' has no attribute {name!r}")
