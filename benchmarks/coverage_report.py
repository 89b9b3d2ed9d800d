"""docs/coverage.md out of benchmarks/results/coverage_*.json. The figures come from the files only.

python benchmarks/coverage_report.py
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from drystone.tools.bench.results import _lists_on_one_line

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"
HEAD = """# Coverage

What drystone makes of torch's own operator samples and of the architectures of transformers and timm. Made by
`benchmarks/coverage_operators.py`, `coverage_models.py` and `coverage_timm.py` from their JSON in `benchmarks/results`; do not
edit by hand.
"""


def write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_lists_on_one_line(json.dumps(data, indent=1)) + "\n")


def render() -> None:
    """Write the page out of the files that are there."""
    sections = [HEAD]
    for name, section in SECTIONS.items():
        path = RESULTS / f"coverage_{name}.json"
        if path.exists():
            sections.append(section(json.loads(path.read_text())))
    PAGE.write_text("\n".join(sections))


def _table(headings: list[str], rows: list[list[Any]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def operators(data: dict[str, Any]) -> str:
    """A row an ATen operator of the builder's table; a sample counts for each of the table's operators that its graph holds."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in data["table"]}
    reasons: dict[str, Counter[str]] = {name: Counter() for name in data["table"]}
    total: Counter[str] = Counter()
    for row in data["rows"]:
        total[row["status"]] += 1
        for name in row["operators"]:
            if name not in counts:
                counts[name], reasons[name] = Counter(), Counter()
            status = row["status"]
            if status == "computed":
                status = "segment" if name in row["segments"] else "native"
            counts[name][status] += 1
            if status == "segment":
                reasons[name][row["segments"][name]] += 1
    rows = []
    for name in sorted(counts):
        count = counts[name]
        told = "; ".join(f"{reason} ({number})" for reason, number in reasons[name].most_common(3))
        rows.append(
            [f"`{name}`", sum(count.values()), *(count[s] for s in ("native", "segment", "not captured", "wrong", "crash")), told]
        )
    headings = ["operator", "samples", "native", "segment", "not captured", "wrong", "crash", "why a segment"]
    return (
        "## Operators\n\n"
        f"{len(data['rows'])} samples of OpInfo (at most {data['samples']} of an operator and dtype; float32, bfloat16, and int64 "
        "where there is no float), "
        + ", ".join(f"{number} {status}" for status, number in sorted(total.items()))
        + f". torch {data['environment']['packages']['torch']}. *native*: our kernels, or nothing to do; *segment*: torch runs it "
        "between native stretches; *wrong*: beyond the tests' limits against float64, or NaN, shape, dtype or structure not "
        "eager's. An operator without samples is reached by none of OpInfo's.\n\n" + _table(headings, rows)
    )


def architectures(data: dict[str, Any], title: str, what: str, remark: str = "", unbuilt: str = "") -> str:
    """A row an architecture, and what its segments are, over all of them. ``what`` takes versions by package, ``remark`` ends the
    introduction, ``unbuilt`` says why some were not built."""
    built = [row for row in data["rows"] if row["status"] != "not built"]
    segments: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], set[str]] = {}
    for row in built:
        for op, reason in row.get("segments", []):
            segments[op, reason] += 1
            holders.setdefault((op, reason), set()).add(row["architecture"])
    order = sorted(segments, key=lambda key: (-len(holders[key]), -segments[key], key))
    total = Counter(row["status"] for row in built)
    timed, count = any("ratio" in row for row in built), data["threads"]
    planned = "*runs*: what a call does after autotuning."
    if data.get("tuning") == "estimate":
        planned = "Planned by estimates beside other work on the machine, so without times of calls."
    rows = [
        [
            row["architecture"],
            row["status"],
            f"{row['error']:.1e}" if "error" in row else "",
            len(row["segments"]) if "segments" in row else "",
            f"{row['prepare_seconds']:.1f}" if "prepare_seconds" in row else "",
            row.get("runs", ""),
            *([f"{row['ratio']:.2f}" if "ratio" in row else ""] if timed else []),
            row.get("reason") or "",
        ]
        for row in built
    ]
    run_by_torch = [[f"`{op}`", reason, len(holders[op, reason]), segments[op, reason]] for op, reason in order]
    missing = [[row["architecture"], row["reason"]] for row in data["rows"] if row["status"] == "not built"]
    headings = ["architecture", "captured", "error", "segments", "seconds", "runs", *["eager / drystone"] * timed, "reason"]
    return (
        f"## {title}\n\n"
        f"{len(built)} {what.format_map(data['environment']['packages'])}, "
        f"random weights, batch 1, {count} thread{'s' * (count > 1)}: "
        + ", ".join(f"{number} {status}" for status, number in sorted(total.items()))
        + ". *error*: relative L2 against float64, the largest of any output. *segments*: operators that torch runs. *seconds*: "
        f"of preparation. {planned} {remark}".rstrip()
        + "\n\n"
        + _table(headings, rows)
        + (
            f"\n### What torch runs in them\n\n{_table(['operator', 'reason', 'models', 'segments'], run_by_torch)}"
            if order
            else ""
        )
        + (f"\n### Not built\n\n{unbuilt}\n\n" + _table(["architecture", "reason"], missing) if missing else "")
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "operators": operators,
    "models": partial(
        architectures,
        title="Models",
        what="architectures of transformers {transformers}, small",
        remark="These models are so small that the time between the arithmetic is most of it.",
        unbuilt="Their configurations do not come small by the names of their fields, or need what is not there.",
    ),
    "timm": partial(
        architectures,
        title="Models of timm",
        what="families of timm {timm}, a small model of each at its own picture size",
    ),
}


if __name__ == "__main__":
    render()
