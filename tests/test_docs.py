"""The pages: their programs run, what they quote is in the sources, their links lead somewhere, and the API has all public names.

Programs of a page run in one namespace, from top to bottom, with a small model at hand. One that can't run has a comment before it that
says why, ``<!-- not run: … -->``; a quotation one that says whence, ``<!-- from: path -->``.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    line: int
    mark: str  # what the comment before it says
    code: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = re.finditer(r"(?:<!-- (not run: [^\n]+|from: [^\n]+) -->\n)?```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [Block(text.count("\n", 0, match.start(2)) + 1, match[1] or "", match[2]) for match in found]


WITH_BLOCKS = [page for page in PAGES if blocks(page)]


def at_hand() -> dict[str, Any]:
    """What programs of the pages start from."""
    layers = OrderedDict(features=nn.Conv2d(3, 16, 3), act=nn.ReLU(), flat=nn.Flatten(), classifier=nn.Linear(16 * 36, 10))
    model, x = nn.Sequential(layers).eval(), torch.randn(1, 3, 8, 8)
    torch.jit.save(torch.jit.trace(model, x), "model.pt")
    names = {"model": model, "x": x, "example_inputs": (x,), "inputs": (x,), "logits": torch.randn(2, 100)}
    return {"torch": torch, "drystone": drystone, "__name__": "page", **names}


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_programs_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace, told = at_hand(), io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(told):
            warnings.simplefilter("ignore", drystone.DrystoneWarning)
            for block in blocks(page):
                if not block.mark:
                    exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
    finally:
        drystone.disable()
    if page.name == "README.md":  # figures are this machine's, words are not
        shown = re.search(r"```text\n(.*?)```", page.read_text(), re.DOTALL)
        assert shown, "the README shows no output: run `python benchmarks/figures.py quickstart` on a quiet machine"
        assert told.getvalue().splitlines()[0] == shown[1].splitlines()[0]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_quotations_are_in_the_sources(page: Path) -> None:
    for block in blocks(page):
        if block.mark.startswith("from: "):
            assert block.code in (ROOT / block.mark.removeprefix("from: ")).read_text(), f"{page.name}:{block.line}"


def headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {target}"
        if heading:
            assert heading in headings(path), f"{page.name}: {target}"


def test_the_api_has_all_public_names() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    missing = [name for name in drystone.__all__ if not re.search(rf"\bdrystone\.{name}\b", page)]
    assert missing == ["__version__"]
