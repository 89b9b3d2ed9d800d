"""What was chosen for the graphs of an artefact, and the times that this was chosen from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from drystone import native
from drystone.artefact.document import dtype_of, entries, finite, listed, name_of, require, text, whole, wholes, word
from drystone.errors import ArtefactError
from drystone.graph.graph import Graph, Node, Value
from drystone.plan.autotune import IMPOSSIBLE, Planner
from drystone.plan.formats import formats_of
from drystone.plan.implementations import ATEN, Option, options
from drystone.plan.implementations.base import Layout

# What a plan holds for: where one of these differs, it is made anew.
DECISIVE = ("isa", "onednn", "drystone")
MAX_THREADS = 4096


def _of_option(option: Option) -> list[Any]:
    implementation, layout = option
    return [implementation.name, list(layout.inputs), layout.output]


def of_times(planner: Planner | None, graph: Graph) -> dict[str, Any]:
    """The times that ``planner`` knows: of each node of ``graph`` by option, and of reorders."""
    if planner is None or [type(node.op) for node in planner.graph] != [type(node.op) for node in graph]:
        return {"nodes": [[] for _ in graph], "reorders": []}
    nodes = []
    values: dict[tuple[Any, ...], Value] = {}
    for node in planner.graph:
        times = [(option, planner.cache.get(planner.key(node, option))) for option in planner.options[node]]
        nodes.append([[*_of_option(option), seconds] for option, seconds in times if seconds is not None])
        values |= {(value.dtype, value.shape): value for value in [*node.inputs, *node.outputs]}
    reorders = []
    for value in values.values():
        for source in formats_of(value):
            for target in formats_of(value):
                seconds = planner.cache.get(planner.reorder_key(value, source, target))
                if seconds is not None:
                    reorders.append([name_of(value.dtype), list(value.shape), source, target, seconds])
    return {"nodes": nodes, "reorders": reorders}


def of_plan(environment: dict[str, str], choices: list[tuple[int, int, list[Option]]], times: dict[str, Any]) -> Any:
    """``choices``: the number of a graph, threads, an option a node."""
    described = [
        {"program": index, "threads": threads, "options": [_of_option(option) for option in chosen]}
        for index, threads, chosen in choices
    ]
    return {"environment": environment, "choices": described, "seconds": times}


@dataclass
class Plan:
    """What plan.json holds; ``choices`` by program and threads."""

    environment: dict[str, str]
    choices: dict[tuple[int, int], list[tuple[str, Layout]]]
    nodes: list[list[tuple[str, Layout, float]]]
    reorders: list[tuple[Value, str, str, float]]

    def without_nodes(self, count: int) -> Plan:
        """What is left of it for a graph of other nodes, ``count`` of them."""
        return replace(self, choices={}, nodes=[[] for _ in range(count)])

    def choice(self, planner: Planner, environment: dict[str, str], program: int, threads: int) -> dict[Node, Option] | None:
        """The options of the planner's nodes; None where there are none for these threads or not for this machine.

        Raises ``ArtefactError`` where an option is none of those that the node has here.
        """
        found = self.choices.get((program, threads))
        if found is None or any(self.environment.get(name) != environment[name] for name in DECISIVE):
            return None
        nodes = planner.graph.nodes
        require(len(found) == len(nodes), f"the plan has {len(found)} options for {len(nodes)} nodes")
        return {node: _option(node, name, layout) for node, (name, layout) in zip(nodes, found, strict=True)}

    def put_times(self, planner: Planner) -> None:
        """Give ``planner``, the first graph's, the times."""
        nodes = planner.graph.nodes
        require(len(self.nodes) == len(nodes), f"the plan has times for {len(self.nodes)} nodes of {len(nodes)}")
        for node, times in zip(nodes, self.nodes, strict=True):
            known = {(option[0].name, option[1]): option for option in planner.options[node]}
            for name, layout, seconds in times:
                if (name, layout) in known:
                    planner.cache.put(planner.key(node, known[name, layout]), seconds)
        for value, source, target, seconds in self.reorders:
            planner.cache.put(planner.reorder_key(value, source, target), seconds)


def _option(node: Node, name: str, layout: Layout) -> Option:
    for option in [*options(node)[0], (ATEN, ATEN.layouts(node)[0])]:
        if option[0].name == name and option[1] == layout:
            return option
    raise ArtefactError(f"the plan gives {node.name or node.op} to {name} in {layout}, which does not compute it here")


def plan(item: Any) -> Plan:
    """What plan.json holds, but for what the graphs say. Raises ``ArtefactError``."""
    environment, choices, seconds = entries(item, "the plan", "environment", "choices", "seconds")
    require(type(environment) is dict, "the plan's environment is no object")
    known: dict[tuple[int, int], list[tuple[str, Layout]]] = {}
    for choice in listed(choices, "the choices"):
        program, threads, chosen = entries(choice, "a choice", "program", "threads", "options")
        key = whole(program, "a choice", 0), whole(threads, "a choice", 1, MAX_THREADS)
        require(key not in known, "a choice is given twice")
        known[key] = [_named(*listed(option, "an option", 3)) for option in listed(chosen, "the options")]
    nodes, reorders = entries(seconds, "the times", "nodes", "reorders")
    times = [
        [(*_named(*listed(entry, "a time", 4)[:3]), _seconds(entry[3])) for entry in listed(node, "the times of a node")]
        for node in listed(nodes, "the times of nodes")
    ]
    names = {text(key, "the environment"): text(value, "the environment") for key, value in environment.items()}
    return Plan(names, known, times, [_reorder(*listed(entry, "a reorder", 5)) for entry in listed(reorders, "the reorders")])


def _named(name: Any, inputs: Any, output: Any) -> tuple[str, Layout]:
    formats = [None if entry is None else word(entry, "a format", native.FORMATS) for entry in listed(inputs, "the formats")]
    return text(name, "an implementation"), Layout(tuple(formats), word(output, "a format", native.FORMATS))


def _seconds(item: Any) -> float:
    seconds = finite(item, "a time")
    require(0 <= seconds <= IMPOSSIBLE, f"{seconds} is no time that a step can take")
    return seconds


def _reorder(dtype: Any, shape: Any, source: Any, target: Any, seconds: Any) -> tuple[Value, str, str, float]:
    value = Value(wholes(shape, "a reorder"), dtype_of(dtype, "a reorder"))
    return value, word(source, "a format", native.FORMATS), word(target, "a format", native.FORMATS), _seconds(seconds)
