"""A symbolic capture as a source of graphs for given sizes.

To build a graph and to simplify it takes longer than to plan it. So that is done once, with numbers that know how they come from
the sizes, and gives a template for all sizes that lead to the same decisions. Others get a template of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import sympy

from drystone.capture.export import Captured
from drystone.capture.shapes import LEAST, resize, symbols_for
from drystone.capture.signature import Signature
from drystone.errors import UnsupportedError
from drystone.graph.graph import Graph
from drystone.graph.tape import Tape
from drystone.graph.template import Template, difference
from drystone.graph.traced import resized

# Templates of one capture, at most: a model that gets another one for each size does without.
MAX_TEMPLATES = 8

Shapes = Sequence[tuple[int, ...]]
Found = tuple[Graph, Signature]


@dataclass(eq=False)
class _Sized:
    """A template, and the signature that goes with it. ``proven``: its graph was compared with one that was built anew."""

    template: Template
    signature: Signature
    proven: bool = False

    def at(self, sizes: Sequence[int]) -> Found | None:
        found = self.template.at(sizes)
        if found is None:
            return None
        graph, sized = found
        outputs = sized(self.signature.outputs)
        same = outputs is self.signature.outputs
        return graph, self.signature if same else replace(self.signature, outputs=outputs)


class SymbolicCapture:
    """``lowered`` gives the graph that is planned. ``least``: as for ``symbols_for``."""

    def __init__(self, captured: Captured, lowered: Callable[[Captured], Graph], least: int = LEAST) -> None:
        self.captured, self._lowered, self._least = captured, lowered, least
        self._templates: list[_Sized] = []  # the last used first
        self._more = MAX_TEMPLATES if captured.state is None else 0  # that may be made

    def graph_for(self, shapes: Shapes) -> Found | None:
        """The graph for inputs of these shapes, and how it is called; None where the capture does not hold for them."""
        symbols = symbols_for(self.captured, shapes, self._least)
        if symbols is None:
            return None
        with suppress(UnsupportedError):
            found = self._of_template(symbols) or self._built(symbols)
            # Sizes may be sums and products of symbols.
            if found and [value.shape for value in found[0].inputs[: len(shapes)]] == list(shapes):
                return found
        return None

    def _of_template(self, symbols: dict[Any, int]) -> Found | None:
        sizes = list(symbols.values())
        for template in self._templates:
            if found := template.at(sizes):
                self._templates.remove(template)
                self._templates.insert(0, template)
                return found if template.proven else self._proved(template, found, symbols)
        if self._more <= 0:
            return None
        self._more -= 1
        tape = Tape(sizes)
        # Not all code can do with such numbers; what it fails with is none of the caller's.
        with suppress(Exception), resized(dict(zip(symbols, tape.numbers, strict=True))):
            if sized := resize(self.captured):
                template = _Sized(Template(self._lowered(sized), tape), sized.signature)
                self._templates.insert(0, template)
                return template.at(sizes)
        return None

    def _proved(self, template: _Sized, found: Found, symbols: dict[Any, int]) -> Found | None:
        """``found``, if the template is to be relied on; none is if it is not."""
        built = self._built(symbols)
        if built is not None and not difference(found[0], built[0]) and found[1].outputs == built[1].outputs:
            template.proven = True
            return found
        self._templates.clear()
        self._more = 0
        return built

    def _built(self, symbols: dict[Any, int]) -> Found | None:
        with resized({symbol: sympy.Integer(value) for symbol, value in symbols.items()}):
            sized = resize(self.captured)
            return (self._lowered(sized), sized.signature) if sized else None
