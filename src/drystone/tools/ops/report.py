"""Tables for the terminal: the cases of an operator, and the means over them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..bench.report import number
from .results import OWN, READ, Measurement, summary


def show_row(m: Measurement, console: Console) -> None:
    """One case as soon as it is measured: drystone's time, and the others' over it."""
    sizes = " ".join(f"{name}={value}" for name, value in m.sizes.items())
    ratios = ", ".join(f"{name} {number(m.ratio(name), '.2f')}" for name in m.others)
    line = f"{m.operator} {m.dtype} {m.tag} {sizes}: {number(m[OWN].microseconds, '.1f')} µs; times that: {ratios}"
    console.print(line, markup=False, highlight=False)


def show_operator(measurements: Sequence[Measurement], console: Console) -> None:
    """The cases of one operator and dtype: ratios first, then times, shares of the machine's limits, errors."""
    first = measurements[0]
    limits = first.run.limits
    title = f"{first.operator} · {first.dtype} · threads {first.run.threads}"
    table = Table(title=title, title_justify="left")
    others = [*dict.fromkeys(name for m in measurements for name in m.others)]
    sizes = [*dict.fromkeys(name for m in measurements for name in m.sizes)]
    contenders = [OWN, *others]
    ratios = [f"{name}\n/ {OWN}" for name in others]
    times, errors = ([f"{what}\n{name}" for name in contenders] for what in ("µs", "error"))
    shares = [f"share of\n{limits[first.dtype]:.0f} GFLOP/s", f"share of\n{limits[READ]:.0f} GB/s"]
    table.add_column("tag")
    for column in (*sizes, *ratios, *times, *shares, *errors):
        table.add_column(column, justify="right")
    for m in measurements:
        timings = {timing.contender: timing for timing in m.timings}
        known = [timings.get(name) for name in contenders]  # None for those that other cases alone have
        table.add_row(
            m.tag,
            *(str(m.sizes.get(name, "")) for name in sizes),
            *(number(m.ratio(name) if name in timings else None, ".2f") for name in others),
            *(number(timing.microseconds if timing else None, ".1f") for timing in known),
            number(m.arithmetic_share, ".0%"),
            number(m.reading_share, ".0%"),
            *(number(timing.relative_error if timing else None, ".1e") for timing in known),
        )
    console.print(table, markup=False)
    left_out = {(t.contender, t.reason): None for m in measurements for t in m.timings if t.reason}
    for contender, reason in left_out:
        console.print(f"{contender} is left out: {reason}", markup=False, highlight=False)


def show_summary(measurements: Sequence[Measurement], console: Console) -> None:
    """Geometric means of the time of the best of the others over drystone's."""
    table = Table(title=f"best other / {OWN}, geometric mean", title_justify="left")
    for column in ("operator", "dtype", "over"):
        table.add_column(column)
    for column in ("cases", "ratio"):
        table.add_column(column, justify="right")
    for mean in summary(measurements):
        table.add_row(mean.operator, mean.dtype, mean.over, str(mean.cases), number(mean.best_other_over_own, ".2f"))
    console.print(table, markup=False)
