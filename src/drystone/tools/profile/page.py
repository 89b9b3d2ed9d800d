"""The profile as one HTML file, which needs no network: figures, a roofline, modules, steps."""

from __future__ import annotations

import html
import io
from pathlib import Path

from drystone.runtime.explain import percent

from .results import Result

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.figures div { background: #f4f5f7; border-radius: 6px; padding: .6rem 1rem; }
.figures b { display: block; font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; border-bottom: 2px solid #999; cursor: pointer; }
td, th { padding: .2rem .5rem; white-space: nowrap; }
td.number, th.number { text-align: right; }
tr:nth-child(even) { background: #f8f8f8; }
.bar { display: inline-block; height: .7em; background: #c0392b; vertical-align: baseline; }
.wide { overflow-x: auto; } svg { max-width: 100%; height: auto; }
"""
_SORT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], at = head.cellIndex, down = head.dataset.down !== "1";
  head.dataset.down = down ? "1" : "";
  const key = row => row.cells[at].dataset.value ?? row.cells[at].textContent;
  const order = (a, b) => head.className === "number" ? key(b) - key(a) : key(a).localeCompare(key(b));
  body.append(...[...body.rows].sort((a, b) => down ? order(a, b) : order(b, a)));
};
"""


def write_page(path: Path, result: Result) -> None:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{html.escape(result.model)}: profile</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(result.model)}</h1>",
        f"<p>{html.escape(result.conditions())}</p>",
        _figures(result),
        _as_it_is(result),
        "<h2>Roofline</h2><p>Each point is a product: its operations a byte, and how many it does in a second.</p>",
        _roofline(result),
        "<h2>Modules</h2>",
        _modules(result),
        "<h2>Steps</h2><p>Click a heading to sort.</p>",
        _steps(result),
        f"<script>{_SORT}</script></html>",
    ]
    path.write_text("\n".join(parts))


def _figures(result: Result) -> str:
    explained = result.explanation
    aten = sum(step.microseconds for step in explained.segments) / (explained.microseconds or 1.0)
    shown = {
        "a call": f"{result.milliseconds:.2f} ms",
        "in the steps": f"{explained.microseconds / 1e3:.2f} ms",
        "steps": str(len(explained.steps)),
        "reorders and copies": f"{100 * explained.reorder_share:.1f} %",
        **({} if explained.idle_share is None else {"threads idle": percent(explained.idle_share)}),
        **({} if explained.runs == "eager" else {"on ATen": f"{100 * aten:.1f} %"}),
    }
    return "<div class=figures>" + "".join(f"<div><b>{value}</b>{name}</div>" for name, value in shown.items()) + "</div>"


def _as_it_is(result: Result) -> str:
    """The model without drystone: one line beside a program, or what a program would save."""
    if result.eager is None:
        return ""
    lines = [f"The model as it is, eager: {result.eager}."]
    if result.explanation.runs == "eager":
        lines += result.eager.estimate()
    return "<p>" + "<br>".join(html.escape(line) for line in lines) + "</p>"


def _roofline(result: Result) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    total = result.explanation.microseconds
    points = [
        (step.operations / step.bytes, step.gflops, 20 + 600 * step.microseconds / total)
        for step in result.explanation.steps
        if step.gflops and step.bytes
    ]
    if not points:
        return "<p>No products.</p>"
    intensities, rates, sizes = zip(*points, strict=True)
    figure, axes = plt.subplots(figsize=(9, 4.2))
    axes.scatter(intensities, rates, s=sizes, color="#c0392b", alpha=0.6, label="products, by time")
    ridge = result.peak / result.read
    roof = sorted({min(intensities) / 2, ridge, 2 * max(*intensities, ridge)})
    label = f"{result.peak:.0f} GFLOP/s, memory read at {result.read:.1f} GB/s"
    axes.plot(roof, [min(result.peak, x * result.read) for x in roof], color="#444", label=label)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte of operands and result", ylabel="GFLOP/s")
    axes.legend()
    axes.grid(alpha=0.3)
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight")
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _modules(result: Result) -> str:
    rows = []
    for name, microseconds in result.explanation.modules_in_order():
        depth = name.count(".") + 1 if name else 0
        label = f"{'&nbsp;' * 4 * depth}{html.escape(name.rpartition('.')[2] or '(the model)')}"
        rows.append(f'<tr><td data-value="{html.escape(name)}">{label}{_time(microseconds, result)}')
    return _table([("module", False), ("ms", True), ("share", True), ("", False)], rows)


def _steps(result: Result) -> str:
    rows = []
    for step in result.explanation.steps:
        texts = [step.name, step.module, " + ".join([step.op, *step.fused]), "x".join(map(str, step.shape)), step.dtype]
        cells = "".join(f"<td>{html.escape(text)}" for text in [*texts, step.implementation, step.format])
        share = None if step.gflops is None else 100 * step.gflops / result.peak
        idle = None if step.idle is None else 100 * step.idle
        moved = step.bytes / step.microseconds / 1e3 if step.microseconds else None
        rows.append(
            f"<tr>{cells}{_time(step.microseconds, result)}{_number(step.gflops)}{_number(share)}{_number(moved, 1)}{_number(idle)}"
        )
    texts = ["step", "module", "op", "shape", "dtype", "implementation", "format"]
    numbers = [
        ("ms", True),
        ("share", True),
        ("", False),
        ("GFLOP/s", True),
        ("of peak, %", True),
        ("GB/s", True),
        ("idle, %", True),
    ]
    return _table([*((text, False) for text in texts), *numbers], rows)


def _table(heads: list[tuple[str, bool]], rows: list[str]) -> str:
    """``heads``: names, and whether numbers stand below."""
    cells = "".join(f"<th{' class=number' if number else ''}>{name}" for name, number in heads)
    return f"<div class=wide><table><thead><tr>{cells}</thead><tbody>{''.join(rows)}</tbody></table></div>"


def _number(value: float | None, digits: int = 0) -> str:
    return "<td class=number data-value=0>" if value is None else f"<td class=number>{value:.{digits}f}"


def _time(microseconds: float, result: Result) -> str:
    percent = 100 * microseconds / (result.explanation.microseconds or 1.0)
    bar = f"<span class=bar style='width:{percent:.1f}px'></span>"
    return f"<td class=number data-value={microseconds:.3f}>{microseconds / 1e3:.3f}<td class=number>{percent:.1f} %<td>{bar}"
