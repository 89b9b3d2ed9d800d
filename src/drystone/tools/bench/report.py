"""Tables of results for the terminal: every contender on one model, and all models side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .results import Outcome, Result, geometric_mean, summary

#: Above this, times say more about what else runs. OpenMP's barriers suffer most.
BUSY_PERCENT = 10.0


def show_result(result: Result, console: Console) -> None:
    """One model: ratio first, then times, preparation, memory and error."""
    base = result.base
    shapes = ", ".join("x".join(map(str, shape)) for shape in result.shapes)
    instances = f" · instances {result.instances}" if result.instances > 1 else ""
    title = Text(f"{result.model} · {result.dtype} · {shapes} · threads {result.threads}{instances}", style="table.title")
    table = Table(title=title, title_justify="left")
    table.add_column("contender")
    again = any(outcome.prepare_again_seconds is not None for outcome in result.outcomes)
    for column in (
        f"time / {base}",
        "ms",
        "p50",
        "p90",
        "p99",
        "inputs/s",
        "prepared in s",
        *(["again in s"] if again else []),
        "peak MB",
        "relative error",
    ):
        table.add_column(column, justify="right")
    for outcome in result.outcomes:
        name = Text(outcome.contender, style="bold" if outcome.contender == base else "")
        table.add_row(name, *_cells(result, outcome, base, again))
    console.print(table, markup=False)
    warn_if_busy(result.busy_percent, console)
    for outcome in result.outcomes:
        if not outcome.ok:
            console.print(f"{outcome.contender} failed: {outcome.reason}", markup=False, highlight=False)


def _cells(result: Result, outcome: Outcome, base: str, again: bool) -> list[str]:
    if not outcome.ok:
        return ["failed"]
    return [
        number(result.ratio(outcome.contender, base), ".2f"),
        number(outcome.milliseconds, ".2f"),
        *(number(outcome.percentiles.get(name), ".2f") for name in ("p50", "p90", "p99")),
        number(statistics.median(outcome.per_second) if outcome.per_second else None, ".4g"),
        number(outcome.prepare_seconds, ".1f"),
        *([number(outcome.prepare_again_seconds, ".1f")] if again else []),
        number(outcome.peak_rss / 1e6 if outcome.peak_rss else None, ".0f"),
        number(outcome.relative_error, ".1e"),
    ]


def show_summary(results: Sequence[Result], console: Console) -> None:
    """All models: a row each with every contender's milliseconds, and the geometric means of the ratios."""
    contenders = list(dict.fromkeys(outcome.contender for result in results for outcome in result.outcomes))
    table = Table(title="milliseconds a call", title_justify="left")
    table.add_column("model")
    for name in (*contenders, "best engine / drystone", "eager / drystone"):
        table.add_column(name, justify="right")
    for result in results:
        times = {outcome.contender: number(outcome.milliseconds, ".2f") if outcome.ok else "failed" for outcome in result.outcomes}
        best = result.best_peer()
        table.add_row(
            result.model,
            *(times.get(name, "") for name in contenders),
            f"{best[1]:.2f} ({best[0]})" if best else "-",
            number(result.ratio("eager", "drystone"), ".2f"),
        )
    means = summary(results)
    table.add_section()
    table.add_row(
        "geometric mean",
        *(_over_drystone(results, name) for name in contenders),
        number(means["best_peer_over_drystone"], ".2f"),
        number(means["eager_over_drystone"], ".2f"),
    )
    console.print(table, markup=False)


def _over_drystone(results: Sequence[Result], name: str) -> str:
    """The geometric mean of its time over drystone's, where both were measured."""
    ratios = [ratio for result in results if (ratio := result.ratio(name, "drystone")) is not None]
    mean = geometric_mean(ratios)
    return "" if mean is None else f"{mean:.2f} x drystone" if name != "drystone" else ""


def warn_if_busy(percent: float, console: Console) -> None:
    if percent > BUSY_PERCENT:
        console.print(f"Something else kept {percent:.0f} % of the processors busy: measure again when it has ended.", style="red")


def number(value: float | None, spec: str) -> str:
    return "-" if value is None or value != value else format(value, spec)
