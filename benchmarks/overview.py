"""The README's picture: a bar for each kind of models and CPU, which reads at 800 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COLOURS = ("#c0392b", "#2b6ca3", "#3f8f6b", "#7f6b9c")


@dataclass(frozen=True)
class Bar:
    """Geometric means over a kind's models: drystone's speed, and the best other engine's, relative to eager PyTorch."""

    kind: str
    cpu: str
    drystone: float
    best: float


def draw(bars: Sequence[Bar], target: Path) -> None:
    """``bars`` as the picture ``target``, a group for each kind, a colour for each CPU."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(bar.kind for bar in bars))
    cpus = list(dict.fromkeys(bar.cpu for bar in bars))
    height = 0.74 / len(cpus)
    figure, axes = plt.subplots(figsize=(8, 1.5 + len(kinds) * (0.3 + 0.3 * len(cpus))), layout="constrained")
    for number, cpu in enumerate(cpus):
        own = [bar for bar in bars if bar.cpu == cpu]
        places = [kinds.index(bar.kind) + (number - (len(cpus) - 1) / 2) * height for bar in own]
        drawn = axes.barh(places, [bar.drystone for bar in own], height * 0.9, color=_COLOURS[number % len(_COLOURS)], zorder=2)
        drawn.set_label(f"drystone, {cpu}")
        labels = [f"{bar.drystone:.1f} \N{MULTIPLICATION SIGN}" for bar in own]
        axes.bar_label(drawn, labels, padding=4, fontsize=13, fontweight="bold")
        ends = ([place + side * height * 0.45 for place in places] for side in (-1, 1))
        engines = axes.vlines([bar.best for bar in own], *ends, color="black", linewidth=3, zorder=3)
    engines.set_label("the best other engine")  # once, whatever the CPUs
    axes.axvline(1.0, color="#777777", linewidth=1, zorder=3)
    axes.set_yticks(range(len(kinds)), [kind.replace(", ", "\n") for kind in kinds], fontsize=12)
    axes.invert_yaxis()
    axes.margins(x=0.13)
    axes.set_xlabel("speed relative to eager PyTorch in float32 (1), batch 1; longer is faster", fontsize=11)
    axes.grid(axis="x", color="#e3e3e3", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=12)
    handles, labels = axes.get_legend_handles_labels()
    order = [*range(1, len(labels)), 0]  # lines come first, and drystone is to
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside upper left",
        ncols=len(cpus) + 1,
        frameon=False,
        fontsize=11,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=200)
    plt.close(figure)
