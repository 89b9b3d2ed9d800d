"""The file, the table and the picture of what was measured of texts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..results import write_json

FORMAT = "texts 1"
# Two results that are equal in these are two measurements of the same thing.
IDENTITY = ("model", "weights", "prompt", "generate", "rows", "threads", "environment")
LIMIT = "reading the weights"


@dataclass
class TextFile:
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: dict[str, Any], environment: dict[str, Any]) -> None:
        """In place of an earlier one of the same."""
        self.environments[result["environment"]] = environment
        same = [all(result[name] == earlier[name] for name in IDENTITY) for earlier in self.results]
        self.results = [earlier for earlier, equal in zip(self.results, same, strict=True) if not equal] + [result]

    @classmethod
    def read(cls, path: Path) -> TextFile:
        """Raises ``ValueError`` where the file is not one that ``write`` wrote."""
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, expected {FORMAT}")
            return cls(data["environments"], data["results"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a file of measured texts: {error}") from error

    def write(self, path: Path) -> None:
        write_json(path, {"format": FORMAT, "environments": self.environments, "results": self.results})


def title(result: dict[str, Any]) -> str:
    rows = f" · {result['rows']} texts" if result["rows"] > 1 else ""
    tokens = f"{result['prompt']} and {result['generate']} tokens"
    return f"{result['model']} · {result['weights']} · {tokens}{rows} · threads {result['threads']}"


def show(result: dict[str, Any], console: Console) -> None:
    """A row a contender, and the read limit below them."""
    table = Table(title=title(result), title_justify="left")
    table.add_column("contender")
    for column in ("prefill, tokens/s", "ms a token", "time / drystone", "of reading's rate", "prepared in s"):
        table.add_column(column, justify="right")
    limit, found = result["limit_milliseconds"], result["contenders"]
    own = found.get("drystone", {}).get("milliseconds_a_token")
    for name, one in found.items():
        token = one["milliseconds_a_token"]
        ratio = f"{token / own:.2f}" if own else "-"
        shares = ratio, f"{limit / token:.2f}", f"{one['prepared_seconds']:.1f}"
        table.add_row(name, f"{one['prefill_tokens_a_second']:.0f}", f"{token:.2f}", *shares)
    table.add_section()
    table.add_row(
        f"{LIMIT}, {result['read_gigabytes_a_second']:.1f} GB/s", "", f"{limit:.2f}", f"{limit / own:.2f}" if own else "-", "1.00"
    )
    console.print(table, markup=False)
    for name, reason in result["failed"].items():
        console.print(f"{name} failed: {reason}", markup=False, highlight=False)


def draw(source: Path, target: Path) -> None:
    """Milliseconds a token, and the rate of the prompt, a group of bars a result. Raises ``ValueError`` where there is none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from ..plot import COLOURS, LABELS

    results = TextFile.read(source).results
    names = list(dict.fromkeys(name for result in results for name in result["contenders"]))
    if not names:
        raise ValueError(f"{source} holds nothing that was measured")
    width = 0.8 / len(names)
    panels = (
        ("milliseconds_a_token", "milliseconds a token (lower is better)"),
        ("prefill_tokens_a_second", "prefill, tokens a second"),
    )
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, (key, label) in zip(axes, panels, strict=True):
        for number, name in enumerate(names):
            places = [place + width * (number - (len(names) - 1) / 2) for place in range(len(results))]
            values = [result["contenders"].get(name, {}).get(key, 0.0) for result in results]
            bars = axis.bar(
                places, values, 0.92 * width, label=LABELS.get(name, name), color=COLOURS.get(name, "#7f6b9c"), zorder=2
            )
            axis.bar_label(bars, [_short(value) for value in values], fontsize=7, padding=2)
        axis.set_xticks(range(len(results)), [f"{result['model']}\n{result['weights']}" for result in results], fontsize=8)
        axis.set_ylabel(label)
        axis.grid(axis="y", color="#e3e3e3", zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    for place, result in enumerate(results):
        ends = place - 0.45, place + 0.45
        axes[0].hlines(
            result["limit_milliseconds"], *ends, color="black", linestyle="--", zorder=3, label=LIMIT if not place else None
        )
    axes[0].legend(frameon=False, fontsize=8)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _short(value: float) -> str:
    """Three digits, or all before the point; nothing for 0."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value else ""
