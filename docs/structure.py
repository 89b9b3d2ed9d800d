"""Draws the folders and modules of the project and who imports whom, into docs/how_it_works.md: ``make structure``.

An arrow leads from what imports (or includes) to what is imported; one that others imply is left out. Raises where two import
each other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how_it_works.md"
START, END = "<!-- made by docs/structure.py -->\n", "<!-- end -->\n"

Arrows = dict[str, set[str]]


def python_arrows() -> Arrows:
    """Between the folders and the single modules of the package."""
    source = ROOT / "src" / "drystone"
    arrows: Arrows = {}
    for file in sorted(source.rglob("*.py")):
        room = file.relative_to(source).parts[0].removesuffix(".py")
        if room != "__init__":
            arrows.setdefault(room, set()).update(set(_imported(file, source)) - {room})
    return arrows


def _imported(file: Path, source: Path) -> Iterator[str]:
    """The rooms that a file imports from, inside of functions too, but not for types alone."""
    tree = ast.parse(file.read_text())
    for test in [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]:
        test.body = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module] if module.count(".") else [f"{module}.{name}" for name in names]
        for name in names:
            room = name.split(".")[1] if name.startswith("drystone.") else ""
            if (room and (source / room).is_dir()) or (source / f"{room}.py").exists():
                yield room


def native_arrows() -> Arrows:
    """Between the folders of the native core."""
    arrows: Arrows = {}
    for file in sorted((ROOT / "native").rglob("*.[ch]*")):
        room = file.parent.name
        included = re.findall(r'^#include "(\w+)/', file.read_text(), re.MULTILINE)
        arrows.setdefault(room, set()).update(set(included) - {room})
    return arrows


def drawing(arrows: Arrows, folder: str = "") -> list[str]:
    """The arrows that no others imply, as a mermaid graph's lines."""
    order = list(TopologicalSorter(arrows).static_order())  # raises CycleError
    below: Arrows = {}
    for room in order:
        below[room] = set().union(arrows.get(room, set()), *(below[other] for other in arrows.get(room, ())))
    lines = []
    for room in reversed(order):
        direct = arrows.get(room, set())
        implied = set().union(*(below[other] for other in direct))
        lines += [f"  {folder}{room} --> {folder}{other}" for other in sorted(direct - implied)]
    return lines


def page() -> str:
    """docs/how_it_works.md with the drawing as it is now."""
    text = PAGE.read_text()
    lines = ["```mermaid", "graph TD", *drawing(python_arrows())]
    lines += ["  native --> native/bind", *drawing(native_arrows(), "native/"), "```"]
    start, end = text.index(START) + len(START), text.index(END)
    return text[:start] + "\n".join(lines) + "\n" + text[end:]


if __name__ == "__main__":
    PAGE.write_text(page())
