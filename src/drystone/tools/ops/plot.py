"""The picture of a results file: how many times as fast as the best other contender drystone runs each case."""

from __future__ import annotations

import math
from pathlib import Path

from ..bench.results import geometric_mean
from .results import OWN, Measurement, ResultFile

_COLOURS = ("#2b6ca3", "#c0392b", "#f0a04b", "#7f6b9c", "#5fa8d3", "#8a8f98")
_COLUMNS = 3


def plot(source: Path, target: Path) -> None:
    """Draw the results in ``source`` as the picture ``target``, a panel for each operator.

    Raises ``ValueError`` where drystone was measured beside nothing.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, dict[str, list[Measurement]]] = {}
    measured = [m for m in ResultFile.read(source).measurements if m.best_other_over_own is not None]
    several = len({m.run.conditions for m in measured}) > 1
    for m in measured:
        threads, key = m.run.conditions
        series = f"{m.dtype}, {threads} threads, {key}" if several else m.dtype
        panels.setdefault(m.operator, {}).setdefault(series, []).append(m)
    if not panels:
        raise ValueError(f"{source} holds nothing that was measured beside {OWN}")

    columns = min(len(panels), _COLUMNS)
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.5 * columns, 4 * rows), layout="constrained", squeeze=False)
    for empty in axes.flat[len(panels) :]:
        empty.set_axis_off()
    for (operator, lines), panel in zip(panels.items(), axes.flat, strict=False):
        for i, (series, some) in enumerate(lines.items()):
            colour = _COLOURS[i % len(_COLOURS)]
            sizes = sorted({m.axis_size for m in some})
            panel.plot([m.axis_size for m in some], [m.best_other_over_own for m in some], ".", color=colour, alpha=0.4)
            panel.plot(sizes, [_mean(some, size) for size in sizes], color=colour, label=f"{series}, geometric mean")
        first = next(iter(lines.values()))[0]
        panel.axhline(1.0, color="#333333", linewidth=0.8)
        panel.set_xscale("log", base=2)
        everywhere = sorted({m.axis_size for some in lines.values() for m in some})
        panel.set_xticks(everywhere, [str(size) for size in everywhere], fontsize=8)
        panel.set_xlabel(first.axis)
        others = [name for name in first.others if not name.startswith(OWN)]
        panel.set_ylabel(f"times as fast as {'the better of ' if len(others) > 1 else ''}{' and '.join(others)}")
        panel.set_title(operator if several else f"{operator}, {first.run.threads} threads", loc="left", fontsize=10)
        panel.grid(color="#e3e3e3")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _mean(measurements: list[Measurement], size: int) -> float | None:
    return geometric_mean(m.best_other_over_own or 0.0 for m in measurements if m.axis_size == size)
