"""The picture of a results file: how many times as fast as eager each contender runs each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .results import Result, ResultFile, geometric_mean

# Drystone stands out; the engines are told apart by hue, what stock PyTorch offers is grey. Readable in greyscale too.
COLOURS = {
    "drystone": "#c0392b",
    "drystone_parts": "#d98880",
    "drystone_eager": "#e6b0aa",
    "onnxruntime": "#2b6ca3",
    "openvino": "#5fa8d3",
    "zentorch": "#3f8f6b",
    "inductor": "#f0a04b",
    "llama.cpp": "#2b6ca3",
    "eager": "#8a8f98",
    "eager_static": "#aeb4bd",
    "eager_autocast": "#8a8f98",
    "channels_last": "#aeb4bd",
    "to_mkldnn": "#d3d7dd",
}
LABELS = {
    "drystone_parts": "drystone, in parts",
    "drystone_eager": "drystone, packed layers",
    "drystone_rounded": "drystone, inputs rounded to int8",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "inductor": "torch.compile, freezing",
    "eager_autocast": "eager, autocast",
    "eager_static": "eager, static cache",
}


def plot(source: Path, target: Path) -> None:
    """Draw the results in ``source`` as the picture ``target``. Raises ``ValueError`` where nothing was measured beside eager."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    results = [result for result in ResultFile.read(source).results if result.ratio("eager", "eager")]
    measured = {o.contender for r in results for o in r.outcomes if o.ok} - {"eager"}
    if not measured:
        raise ValueError(f"{source} holds nothing that was measured beside eager")
    contenders = [name for name in COLOURS if name in measured] + sorted(measured - COLOURS.keys())

    rows = [(_label(result, results), {name: result.ratio("eager", name) for name in contenders}) for result in results]
    if len(rows) > 1:
        rows.append(("geometric mean", {name: _mean(results, name) for name in contenders}))

    height = 0.8 / len(contenders)
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.17 * len(rows) * (len(contenders) + 1)), layout="constrained")
    for i, name in enumerate(contenders):
        values = [speedups[name] or 0.0 for _, speedups in rows]
        places = [row + (i - (len(contenders) - 1) / 2) * height for row in range(len(rows))]
        bars = axes.barh(places, values, height * 0.92, color=COLOURS.get(name, "#7f6b9c"), label=LABELS.get(name, name), zorder=2)
        if name == "drystone" or len(rows) == 1:
            axes.bar_label(bars, [f"{value:.2f}" if value else "failed" for value in values], padding=3, fontsize=8)
    axes.axvline(1.0, color="#333333", linewidth=0.8, zorder=3)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("calls a second, relative to eager PyTorch (1 = eager; longer is faster)")
    axes.set_title(_title(results), loc="left", fontsize=10)
    axes.grid(axis="x", color="#e3e3e3", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _mean(results: Sequence[Result], contender: str) -> float | None:
    """The geometric mean, or None where the contender failed anywhere: a mean over fewer models would flatter it."""
    speedups = [result.ratio("eager", contender) for result in results]
    return None if None in speedups else geometric_mean(value for value in speedups if value is not None)


def _varying(results: Sequence[Result]) -> dict[str, bool]:
    return {name: len({getattr(result, name) for result in results}) > 1 for name in ("dtype", "batch", "threads", "environment")}


def _describe(result: Result, fields: Sequence[str]) -> str:
    words = {"dtype": result.dtype, "batch": f"batch {result.batch}", "threads": f"{result.threads} threads"}
    return ", ".join(words[name] for name in fields if name in words)


def _label(result: Result, results: Sequence[Result]) -> str:
    extra = _describe(result, [name for name, varies in _varying(results).items() if varies])
    return f"{result.model}, {extra}" if extra else result.model


def _title(results: Sequence[Result]) -> str:
    return _describe(results[0], [name for name, varies in _varying(results).items() if not varies])
