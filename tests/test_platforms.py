"""On systems that drystone is not for, pip and CMake say so before they download or compile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PURPOSE = "drystone is for Linux on x86-64"

# sys_platform and platform_machine as Python tells them, with CMake's words for the same.
OTHERS = [
    ("darwin", "arm64", "Darwin", "arm64"),
    ("darwin", "x86_64", "Darwin", "x86_64"),
    ("win32", "AMD64", "Windows", "AMD64"),
    ("linux", "aarch64", "Linux", "aarch64"),
]
others = pytest.mark.parametrize("system, machine, cmake_system, cmake_machine", OTHERS)

# Asks the build backend for what pip asks first, as on another system.
ASKED = """
import platform, sys
from scikit_build_core.build import prepare_metadata_for_build_wheel
folder, sys.platform, machine = sys.argv[1:]
platform.machine = lambda: machine
prepare_metadata_for_build_wheel(folder)
"""


def requirements() -> list[Requirement]:
    project: dict[str, Any] = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())
    return [Requirement(line) for line in [*project["build-system"]["requires"], *project["project"]["dependencies"]]]


def wanted(system: str, machine: str) -> set[str]:
    here = {"sys_platform": system, "platform_machine": machine}
    return {one.name for one in requirements() if one.marker is None or one.marker.evaluate(here)}


@others
def test_pip_looks_for_no_onednn_elsewhere(system: str, machine: str, cmake_system: str, cmake_machine: str) -> None:
    onednn = {"onednn-cpu-gomp", "onednn-devel-cpu-gomp"}
    assert onednn < wanted("linux", "x86_64")
    assert wanted(system, machine) == wanted("linux", "x86_64") - onednn


@others
def test_pip_says_what_it_is_for(tmp_path: Path, system: str, machine: str, cmake_system: str, cmake_machine: str) -> None:
    pytest.importorskip("scikit_build_core")
    command = [sys.executable, "-c", ASKED, str(tmp_path), system, machine]
    asked = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert asked.returncode != 0
    assert PURPOSE in asked.stdout + asked.stderr
    assert "Traceback" not in asked.stderr and not list(tmp_path.iterdir())


def test_pip_goes_on_here(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    command = [sys.executable, "-c", ASKED, str(tmp_path), "linux", "x86_64"]
    subprocess.run(command, cwd=ROOT, timeout=60, check=True, capture_output=True)
    assert list(tmp_path.glob("drystone-*.dist-info"))


@others
def test_cmake_says_what_it_is_for(tmp_path: Path, system: str, machine: str, cmake_system: str, cmake_machine: str) -> None:
    cmake = pytest.importorskip("cmake")
    target = [
        f"-DCMAKE_SYSTEM_NAME={cmake_system}",
        f"-DCMAKE_SYSTEM_PROCESSOR={cmake_machine}",
        "-DCMAKE_CXX_COMPILER=no-compiler",
    ]
    command = [str(Path(cmake.CMAKE_BIN_DIR) / "cmake"), "-S", str(ROOT), "-B", str(tmp_path), *target]
    told = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert told.returncode != 0
    assert PURPOSE in told.stderr and f"This is {cmake_system} on {cmake_machine}." in " ".join(told.stderr.split())
    assert "no-compiler" not in told.stderr
