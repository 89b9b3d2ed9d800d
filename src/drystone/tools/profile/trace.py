"""A call as a trace that Chrome (chrome://tracing) and Perfetto open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from drystone.runtime.explain import ExplainedStep


def write_trace(path: Path, calls: Mapping[str, Sequence[ExplainedStep]]) -> None:
    """Each call is a process of its own, by its title, so that they stand beside each other."""
    events = [event for process, (title, steps) in enumerate(calls.items()) for event in _events(process, title, steps)]
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _events(process: int, title: str, steps: Sequence[ExplainedStep]) -> list[dict[str, object]]:
    """The steps one after the other, on a row for each depth of the model's modules above them."""
    events: list[dict[str, object]] = [{"ph": "M", "name": "process_name", "pid": process, "args": {"name": title}}]
    open_modules: list[tuple[str, float]] = []
    at = 0.0

    def close(keep: int) -> None:
        while len(open_modules) > keep:
            name, began = open_modules.pop()
            events.append({"ph": "X", "pid": process, "tid": 0, "name": name, "cat": "module", "ts": began, "dur": at - began})

    for step in steps:
        modules = step.module.split(".") if step.module else []
        same = 0
        while same < min(len(modules), len(open_modules)) and modules[same] == open_modules[same][0]:
            same += 1
        close(same)
        open_modules += [(name, at) for name in modules[same:]]
        shown: dict[str, object] = {
            "shape": step.shape,
            "dtype": step.dtype,
            "implementation": step.implementation,
            "format": step.format,
        }
        shown |= {"fused": step.fused, "operations": step.operations, "bytes": step.bytes}
        name = " + ".join([step.op, *step.fused])
        events.append(
            {"ph": "X", "pid": process, "tid": 0, "name": name, "cat": step.kind, "ts": at, "dur": step.microseconds, "args": shown}
        )
        at += step.microseconds
    close(0)
    return events
