"""The answer of ``explain()`` for a model that runs eagerly with packed layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from drystone.console import rendered


@dataclass
class ExplainedLayer:
    """One layer. ``runs``: "packed" (in ``format``, by ``implementations``) or "eager", the latter with its ``reason``."""

    name: str
    module: str  # its class
    runs: str
    format: str = ""
    implementations: list[str] = field(default_factory=list)
    reason: str = ""


@dataclass
class PackedLayersExplanation:
    """``print()`` gives a table, ``to_dict()`` what JSON can hold.

    ``milliseconds``: of a call in each format that was tried, and ``eager_milliseconds`` of eager beside the one that was taken.
    ``reorders``: of the last call, inside its programs; ``asked``: which operators wanted a plain tensor in it, and how often.
    """

    layers: list[ExplainedLayer]
    runs: str  # "drystone" or "eager": what a call does
    reason: str
    format: str
    milliseconds: dict[str, float]
    eager_milliseconds: float | None
    reorders: int
    asked: dict[str, int]
    programs: int
    weights_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        table = Table(title=None, show_edge=False, pad_edge=False)
        for heading in ("layer", "class", "runs", "format", "by", "because"):
            table.add_column(heading, overflow="fold")
        for layer in self.layers:
            by = ", ".join(layer.implementations)
            table.add_row(layer.name, layer.module, layer.runs, layer.format, by, layer.reason)
        lines = [rendered(table), ""]
        asked = ", ".join(f"{name} ({count})" for name, count in sorted(self.asked.items(), key=lambda item: -item[1]))
        lines.append(
            f"{self.programs} programs, packed weights {self.weights_bytes / 2**20:.1f} MB. The last call: {self.reorders} "
            f"reorders inside programs; plain tensors were asked for by {asked or 'nobody'}."
        )
        if self.milliseconds:
            tried = ", ".join(f"{name} {time:.3f} ms" for name, time in self.milliseconds.items())
            eager = "" if self.eager_milliseconds is None else f"; eager {self.eager_milliseconds:.3f} ms"
            lines.append(f"Whole call: {tried}{eager}.")
        lines.append(f"Calls run eagerly: {self.reason}." if self.runs == "eager" else f"Tensors stay in {self.format}.")
        return "\n".join(lines)
