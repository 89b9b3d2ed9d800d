"""Under what a result was measured: processor, threads, versions, caps. Neither host names nor paths."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil
import torch

from drystone import __version__

_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)
_PACKAGES = ("torch", "transformers", "timm", "torchvision", "openvino", "onnxruntime", "onnxscript", "onednn-cpu-gomp", "zentorch")
_CAPS = ("DRYSTONE_MAX_ISA", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


# What a virtual machine calls its processor may say no more than the maker. By vendor and family: the models up to a number.
_MICROARCHITECTURES: dict[tuple[str, int], list[tuple[int, str]]] = {
    ("AuthenticAMD", 0x17): [(0x2F, "amd-zen"), (0xFF, "amd-zen2")],
    ("AuthenticAMD", 0x19): [(0x0F, "amd-zen3"), (0x1F, "amd-zen4"), (0x5F, "amd-zen3"), (0xFF, "amd-zen4")],
    ("AuthenticAMD", 0x1A): [(0xFF, "amd-zen5")],
    ("GenuineIntel", 6): [
        (0x54, ""),
        (0x55, "intel-skylake-sp"),
        (0x69, ""),
        (0x6C, "intel-ice-lake-sp"),
        (0x8E, ""),
        (0x8F, "intel-sapphire-rapids"),
        (0xAC, ""),
        (0xAE, "intel-granite-rapids"),
        (0xCE, ""),
        (0xCF, "intel-emerald-rapids"),
    ],
}


def environment() -> dict[str, Any]:
    """Facts that bear on speed, as plain JSON data."""
    model, flags = _processor()
    return {
        "cpu": model,
        "microarchitecture": microarchitecture(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": psutil.cpu_count(logical=False),
        "logical_cpus": psutil.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {"drystone": __version__} | {name: version for name in _PACKAGES if (version := _version(name))},
        "torch_onednn": onednn_of_torch(),
        "own_onednn": "DRYSTONE_ONEDNN" in os.environ,
        "caps": {name: os.environ[name] for name in _CAPS if name in os.environ},
    }


def microarchitecture(cpuinfo: str | None = None) -> str:
    """The processor's kind as a name for a folder: ``amd-zen4``, or what the processor calls itself, in such letters.

    ``cpuinfo``: the text of /proc/cpuinfo.
    """
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    facts = dict(re.findall(r"^(vendor_id|cpu family|model|model name)\s*: (.*)$", text, re.MULTILINE))
    kinds = _MICROARCHITECTURES.get((facts.get("vendor_id", ""), int(facts.get("cpu family", 0))), [])
    known = next((name for last, name in kinds if int(facts["model"]) <= last), "")
    return known or re.sub(r"[^a-z0-9]+", "-", facts.get("model name", platform.machine()).lower()).strip("-")


def key_of(facts: dict[str, Any]) -> str:
    """A short name for an environment: equal facts, equal key."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _processor() -> tuple[str, set[str]]:
    """The model's name and its flags; psutil has neither."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
    return (model[1] if model else platform.processor()), set(flags[1].split() if flags else ())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def onednn_of_torch() -> str | None:
    found = re.search(r"(?:MKL-DNN|oneDNN|DNNL)\S* v([\d.]+)", torch.__config__.show())
    return found[1] if found else None
