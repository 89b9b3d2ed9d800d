"""The machine, and what runs on it, as measured times are filed under."""

from __future__ import annotations

import platform

import psutil
import torch

from drystone import native


def environment(threads: int) -> dict[str, str]:
    """What a measured time depends on beside the operator itself."""
    return {
        "cpu": _cpu_model(),
        "cores": str(psutil.cpu_count(logical=False)),
        "threads": str(threads),
        "isa": instructions(),
        "onednn": native.onednn_version(),
        "drystone": native.VERSION,
        "torch": torch.__version__,
    }


def instructions() -> str:
    """Some CPUs with AVX-512 do not multiply bfloat16: other plans, for other graphs."""
    return native.isa() if native.isa() != "avx512" or native.multiplies_bfloat16() else "avx512 without bfloat16"


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    except OSError:
        return platform.processor()
