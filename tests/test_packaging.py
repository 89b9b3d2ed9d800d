"""What is published says the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import drystone

ROOT = Path(__file__).parents[1]


def found(pattern: str, file: str) -> str:
    match = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert match, f"{file} has no {pattern}"
    return match[1]


def test_one_version() -> None:
    assert found(r'^version = "(.+)"', "pyproject.toml") == drystone.__version__
    assert found(r'^  version: "(.+)"', "recipe/recipe.yaml") == drystone.__version__


def test_wheels_are_repaired_alike_here_and_for_all_pythons() -> None:
    pattern = r"auditwheel repair ((?:--exclude \S+ )+)"
    assert found(pattern, "pyproject.toml") == found(pattern, "Makefile")


def test_the_recipe_asks_for_what_the_wheel_asks_for() -> None:
    names = re.findall(r'^  "([\w-]+)', found(r"^dependencies = \[\n((?:.+\n)+?)\]", "pyproject.toml"), re.MULTILINE)
    conda = {"torch": "pytorch", "onednn-cpu-gomp": "onednn"}
    run = re.findall(r"^    - ([\w-]+)", found(r"^  run:\n((?:    .+\n)+)", "recipe/recipe.yaml"), re.MULTILINE)
    assert {conda.get(name, name) for name in names} | {"python"} == set(run)
