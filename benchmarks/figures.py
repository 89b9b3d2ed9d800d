"""The published comparisons on the machine at hand, and the tables that are made from them.

    python benchmarks/figures.py              # measure all parts here, then write the tables (two hours on two cores)
    python benchmarks/figures.py cnns_float32 # some parts
    python benchmarks/figures.py cnns_float32 --against eager,openvino  # beside some: torch.compile takes most of the time
    python benchmarks/figures.py --tables     # tables and pictures alone, from the files that are there

Each part is a ``drystone bench`` or ``drystone ops``, whose results go to ``benchmarks/results/<CPU>/<part>.json`` with a picture
beside them; ``runs.json`` says at which commit and when. docs/measurements.md has a column for each CPU, README.md a picture.
The part ``quickstart`` is what the README's program prints, ``tuning`` and ``serving`` what the scripts of these names measure.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import overview as picture
import typer

from drystone.tools.bench.environment import environment
from drystone.tools.bench.plot import plot as plot_models
from drystone.tools.bench.results import Result, ResultFile, geometric_mean, write_json
from drystone.tools.ops.plot import plot as plot_operators
from drystone.tools.ops.results import Measurement
from drystone.tools.ops.results import ResultFile as OperatorFile

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RUNS = "runs.json"
QUICKSTART = "quickstart.txt"
# Measured by benchmarks/<name>.py, into <name>.json.
SCRIPTS = ("tuning", "serving", "language_models", "whisper")
NOT_YET = "Not measured yet."
Cells = dict[tuple[str, ...], dict[str, list[str]]]  # of a table: by what a row is of, by CPU
PAGES = ("README.md", "docs/measurements.md", "docs/tuning.md")


@dataclass(frozen=True)
class Part:
    """``command``: the arguments of ``drystone`` that measure it."""

    title: str
    command: tuple[str, ...]

    @property
    def of_models(self) -> bool:
        return self.command[0] == "bench"


PARTS = {
    "cnns_float32": Part("Convolutional networks, float32, batch 1", ("bench", "cnns")),
    "transformers_float32": Part("Transformers, float32, batch 1", ("bench", "transformers")),
    "recurrent_float32": Part("Recurrent networks, float32, batch 1", ("bench", "recurrent")),
    "volumes_float32": Part("Three spatial axes, float32, batch 1", ("bench", "volumes")),
    "cnns_bfloat16": Part("Convolutional networks, bfloat16, batch 1", ("bench", "cnns", "--dtype", "bfloat16")),
    "transformers_bfloat16": Part("Transformers, bfloat16, batch 1", ("bench", "transformers", "--dtype", "bfloat16")),
    "recurrent_bfloat16": Part("Recurrent networks, bfloat16, batch 1", ("bench", "recurrent", "--dtype", "bfloat16")),
    "volumes_bfloat16": Part("Three spatial axes, bfloat16, batch 1", ("bench", "volumes", "--dtype", "bfloat16")),
    "int8": Part(
        "int8, batch 1",
        ("bench", "resnet50", "mobilenet_v3", "efficientnet_b0", "bert_base", "vit_b_16", "--dtype", "int8"),
    ),
    "ops": Part("Linear layers and attention", ("ops", "gemm", "attention")),
    "operators": Part(
        "Operators under torch's own names, and recurrent layers",
        (
            *("ops", "topk", "cat", "embedding", "embedding_bag", "conv3d", "conv_transpose3d", "max_pool3d"),
            *("avg_pool3d", "batch_norm3d", "instance_norm", "clone", "mm", "lstm", "gru", "rnn"),
        ),
    ),
}
# Whose first results are told, in a process without caches: from the model at hand to its first output.
PREPARED = ("cnns_float32", "transformers_float32")
STARTERS = ("drystone", "inductor", "openvino", "onnxruntime")
ALL = [*PARTS, "quickstart", *SCRIPTS]
# The parts that the README speaks of: contenders' speed over whole models.
HEADLINES = ("cnns_float32", "transformers_float32", "cnns_bfloat16", "transformers_bfloat16")


def main(
    parts: Annotated[list[str] | None, typer.Argument(metavar="PART…", help=f"Of {', '.join(ALL)}. Default: all.")] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Write tables and pictures alone.")] = False,
    against: Annotated[str | None, typer.Option(metavar="NAMES", help="Contenders of models, by comma. Default: all.")] = None,
) -> None:
    """Measure the published comparisons on this machine, and write what pages say of them."""
    unknown = [name for name in parts or () if name not in ALL]
    if unknown:
        raise typer.BadParameter(f"no part {', '.join(unknown)}: {', '.join(ALL)}")
    if not tables:
        measure(parts or ALL, against)
    draw()
    for page in PAGES:
        (ROOT / page).write_text(filled((ROOT / page).read_text()))
        print(f"written: {page}")


def measure(parts: Sequence[str], against: str | None = None) -> None:
    """Each part by its command, into this CPU's folder. A part that ends with an error is said, and the others go on.

    A CPU that is made a smaller one by caps has a folder of its own.
    """
    facts = environment()
    caps = "".join(f"-{value.lower()}" for value in facts["caps"].values())
    folder = RESULTS / (facts["microarchitecture"] + caps)
    folder.mkdir(parents=True, exist_ok=True)
    for name in parts:
        if name == "quickstart":
            code = quickstart(folder / QUICKSTART)
        elif name in SCRIPTS:
            command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--json", str(folder / f"{name}.json")]
            code = subprocess.run(command).returncode
        else:
            print(f"{name}: drystone {' '.join(PARTS[name].command)}", flush=True)
            command = [sys.executable, "-m", "drystone.cli", *PARTS[name].command, "--json", str(folder / f"{name}.json")]
            if against and PARTS[name].of_models:
                command += ["--against", against]
            code = subprocess.run(command).returncode
        if code > 128:
            raise typer.Exit(code)
        if code:
            print(f"{name} ended with code {code}", flush=True)
            if name == "quickstart":  # of which nothing is kept then
                continue
        runs = json.loads((folder / RUNS).read_text()) if (folder / RUNS).exists() else {}
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        runs[name] = {"commit": commit(), "date": date, "cpu": facts["cpu"], "packages": facts["packages"]}
        write_json(folder / RUNS, runs)


def quickstart(target: Path) -> int:
    """Run the README's program as a reader would. Returns its exit code. What it printed goes to ``target``, unless drystone
    warned: then the machine was busy.
    """
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert program, "README.md has no program"
    print("quickstart: the program of README.md", flush=True)
    command = [sys.executable, "-W", "error::drystone.DrystoneWarning", "-"]
    alone = os.environ | {"DRYSTONE_CACHE": "off"}  # measured times of earlier runs are not a new reader's
    ran = subprocess.run(command, input=program[1], stdout=subprocess.PIPE, text=True, env=alone)
    if ran.returncode == 0:
        target.write_text(ran.stdout)
    return ran.returncode


def commit() -> str:
    """The commit that is checked out, with a plus where files differ from it; empty outside a checkout."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
    )
    return described.stdout.strip()


def draw() -> None:
    """The picture of each file of results, beside it, and the README's."""
    for name, part in PARTS.items():
        for path in sorted(RESULTS.glob(f"*/{name}.json")):
            try:
                (plot_models if part.of_models else plot_operators)(path, path.with_suffix(".png"))
            except ValueError as error:
                print(f"no picture: {error}")
    picture.draw(list(bars()), RESULTS / "overview.png")


def bars() -> Iterator[picture.Bar]:
    """Of each of ``HEADLINES`` and CPU."""
    for part in HEADLINES:
        for cpu in cpus():
            eager, engines = (mean(models(cpu, part), over) for over in ("eager", "best engine"))
            if eager and engines:
                yield picture.Bar(PARTS[part].title.removesuffix(", batch 1"), cpu, eager, eager / engines)


# -- tables ------------------------------------------------------------------------------------------------------------------


def filled(text: str) -> str:
    """``text`` with each block between ``<!-- figures: NAME -->`` and ``<!-- end -->`` written anew."""

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}\n{written(found[2])}\n<!-- end -->"

    return re.sub(r"(<!-- figures: (\w+) -->)\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def written(name: str) -> str:
    """What stands in the block called ``name``: a part, one of ``blocks``, ``tuning_`` and a group, ``serving_`` and a part."""
    if name in PARTS:
        return model_table(name) if PARTS[name].of_models else operator_table(name)
    if name.startswith("tuning_"):
        return tuning_table(name.removeprefix("tuning_"))
    if name.startswith("serving_"):
        return serving_table(name.removeprefix("serving_"))
    blocks = {
        "headline": headline,
        "overview": overview,
        "quickstart": quickstart_output,
        "first_results": first_results,
        "runs": run_table,
        "language_models": language_models_table,
        "whisper": whisper_table,
        "perplexity": perplexity_table,
        "nearest_sentences": nearest_sentences_table,
    }
    return blocks[name]()


@cache
def cpus() -> list[str]:
    """Those that have results, in the order of their names."""
    return sorted(folder.name for folder in RESULTS.iterdir() if any((folder / f"{name}.json").exists() for name in PARTS))


@cache
def models(cpu: str, part: str) -> list[Result]:
    """The results of a part, those of the last environment where a model was measured in several."""
    path = RESULTS / cpu / f"{part}.json"
    found: dict[str, Result] = {}
    for result in sorted(ResultFile.read(path).results if path.exists() else [], key=lambda result: result.date):
        found[result.model] = result
    return list(found.values())


@cache
def operators(cpu: str, part: str) -> list[Measurement]:
    path = RESULTS / cpu / f"{part}.json"
    return OperatorFile.read(path).measurements if path.exists() else []


def mean(results: Sequence[Result], over: str) -> float | None:
    """The geometric mean of the time of ``over``, "best engine" or a contender, over drystone's, over all models that have one."""
    if over == "best engine":
        return geometric_mean(best[1] for result in results if (best := result.best_peer()))
    return geometric_mean(ratio for result in results if (ratio := result.ratio(over, "drystone")) is not None)


def model_table(part: str) -> str:
    """A row for each model: of each CPU the best other engine's time and eager's, over drystone's, and drystone's milliseconds."""
    measured = {cpu: {result.model: result for result in models(cpu, part)} for cpu in cpus() if models(cpu, part)}
    names = list(dict.fromkeys(name for of_cpu in measured.values() for name in of_cpu))
    header = ["model", *(f"{cpu}: {what}" for cpu in measured for what in ("best engine", "eager", "ms"))]

    def cells(result: Result | None) -> Iterator[str]:
        if result is None:
            yield from ("", "", "")
            return
        best = result.best_peer()
        yield f"{best[1]:.2f} ({best[0]})" if best else "-"
        yield number(result.ratio("eager", "drystone"))
        yield f"{result['drystone'].milliseconds:.1f}"

    rows = [[name, *(cell for of_cpu in measured.values() for cell in cells(of_cpu.get(name)))] for name in names]
    if len(names) > 1:
        means = [
            cell
            for of_cpu in measured.values()
            for cell in (bold(mean([*of_cpu.values()], "best engine")), bold(mean([*of_cpu.values()], "eager")), "")
        ]
        rows.append(["geometric mean", *means])
    return table(header, rows)


def operator_table(part: str) -> str:
    """A row for each operator, dtype and thread count: of each CPU the geometric mean and the least ratio over its cases."""
    groups: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    for cpu in cpus():
        for m in operators(cpu, part):
            if (ratio := m.best_other_over_own) is not None:
                groups.setdefault((m.operator, m.dtype, m.run.threads), {}).setdefault(cpu, []).append(ratio)
    measured = [cpu for cpu in cpus() if operators(cpu, part)]
    header = ["operator", "dtype", "threads", *(f"{cpu}: {what}" for cpu in measured for what in ("mean", "least", "cases"))]
    rows = []
    for (operator, dtype, threads), by_cpu in groups.items():
        row = [operator, dtype, str(threads)]
        for cpu in measured:
            ratios = by_cpu.get(cpu)
            row += [f"{geometric_mean(ratios):.2f}", f"{min(ratios):.2f}", str(len(ratios))] if ratios else ["", "", ""]
        rows.append(row)
    return table(header, rows)


def headline() -> str:
    """The project's sentence, with the figures of the CPU on which drystone is the least ahead: no reader gets less."""
    part = "cnns_float32"
    cpu = min((cpu for cpu in cpus() if models(cpu, part)), key=lambda cpu: mean(models(cpu, part), "best engine") or 0.0)
    results = models(cpu, part)
    engines, eager = mean(results, "best engine"), mean(results, "eager")
    return (
        f"Drystone runs PyTorch models on CPUs {eager:.1f} times as fast as eager PyTorch and {engines:.2f} times as fast as "
        f"the best of {named(results)} (geometric means over {len(results)} convolutional networks, float32, batch 1, on {cpu}), "
        "by one call that measures which memory format and implementation suit each operator of the whole model.\n\n"
        "![Speed relative to eager PyTorch, by kind of models and CPU](benchmarks/results/overview.png)"
    )


def quickstart_output() -> str:
    """What the README's program printed, on the first CPU that has it."""
    for path in sorted(RESULTS.glob(f"*/{QUICKSTART}")):
        return f"On {path.parent.name}:\n```text\n{path.read_text()}```"
    return ""


def named(results: Sequence[Result]) -> str:
    """The engines that were measured, as a reader knows them."""
    names = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "inductor": "`torch.compile`", "zentorch": "zentorch"}
    found = [label for name, label in names.items() if any(result.ratio(name, "drystone") for result in results)]
    return f"{', '.join(found[:-1])} and {found[-1]}" if len(found) > 1 else "".join(found)


def overview() -> str:
    """A row for each part of ``HEADLINES``, two columns for each CPU: times of the best engine and of eager over drystone's."""
    header = ["batch 1", *(f"{cpu}: {what}" for cpu in cpus() for what in ("best engine", "eager"))]
    rows = []
    for part in HEADLINES:
        means = (number(mean(models(cpu, part), over)) for cpu in cpus() for over in ("best engine", "eager"))
        rows.append([PARTS[part].title.removesuffix(", batch 1"), *means])
    return table(header, rows)


def first_results() -> str:
    """A row for each model: seconds until each contender's first output, on each CPU."""
    seconds: Cells = {}
    measured = [cpu for cpu in cpus() if any(models(cpu, part) for part in PREPARED)]
    for cpu in measured:
        for result in (result for part in PREPARED for result in models(cpu, part)):
            outcomes = {outcome.contender: outcome for outcome in result.outcomes if outcome.ok}
            cells = [f"{outcomes[name].prepare_seconds:.1f}" if name in outcomes else "-" for name in STARTERS]
            seconds.setdefault((result.model,), {})[cpu] = cells
    return cpu_table(["model"], measured, STARTERS, seconds)


def measured_by(script: str) -> dict[str, dict[str, Any]]:
    """Its results, by CPU."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"*/{script}.json"))}


def tuning_table(group: str) -> str:
    """A row for each setting of the group, a column for each CPU and model; of ``where`` the machines."""
    measured = measured_by("tuning")
    if group == "where":
        facts = {cpu: file["environment"] for cpu, file in measured.items()}
        return "\n".join(
            f"* {cpu}: {fact['cores']} cores, {', '.join(fact['flags'])}, torch {fact['packages']['torch']}"
            for cpu, fact in facts.items()
        )
    if not measured:
        return NOT_YET
    columns = [(cpu, model) for cpu, file in measured.items() for model in file["speeds"]]
    names = [setting["name"] for file in measured.values() for setting in file["settings"] if setting["group"] == group]
    rows = []
    for name in dict.fromkeys(names):
        found = [measured[cpu]["speeds"][model].get(name) for cpu, model in columns]
        if any(found):
            rows.append([name, *(number(value) for value in found)])
    return table([group, *(f"{cpu}: {model}" for cpu, model in columns)], rows)


def serving_table(part: str) -> str:
    """A row for each model, number of clients and pool; of each CPU requests a second, and how long they took."""
    measured = {cpu: file[part] for cpu, file in measured_by("serving").items() if part in file}
    if not measured:
        return NOT_YET
    cells: Cells = {}
    for cpu, found in measured.items():
        for row in found:
            key = (row["model"], str(row["clients"]), row["pool"])
            cells.setdefault(key, {})[cpu] = [f"{row['per_second']:.1f}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}"]
    return cpu_table(["model", "clients", "pool"], measured, ("a second", "p50, ms", "p99, ms"), cells)


def language_models_table() -> str:
    """A row for each kind of weights and contender; of each CPU the rate of the prompt, and milliseconds for a token after it."""
    measured = measured_by("language_models")
    if not measured:
        return NOT_YET
    cells: Cells = {}
    for cpu, file in measured.items():
        for kind in file["arguments"]["kinds"]:
            for name, found in file[kind]["contenders"].items():
                limit = file[kind]["limit_milliseconds"] / found["milliseconds_a_token"]
                shown = [f"{found['prefill_tokens_a_second']:.0f}", f"{found['milliseconds_a_token']:.1f}", number(limit)]
                cells.setdefault((kind, name), {})[cpu] = shown
    return cpu_table(["weights", ""], measured, ("prefill, tokens/s", "ms a token", "of reading's rate"), cells)


def whisper_table() -> str:
    """A row for each contender; of each CPU the seconds for 30 seconds of sound, and how many times real time that is."""
    measured = measured_by("whisper")
    if not measured:
        return NOT_YET
    cells: Cells = {}
    for cpu, file in measured.items():
        for name, seconds in file["seconds"].items():
            median = statistics.median(seconds)
            cells.setdefault((name,), {})[cpu] = [f"{median:.2f}", f"{file['sound_seconds'] / median:.1f}"]
    return cpu_table([""], measured, ("seconds", "times real time"), cells)


def perplexity_table() -> str:
    """The same on all machines, but for the last digits."""
    path = RESULTS / "perplexity.json"
    if not path.exists():
        return NOT_YET
    rows = [[found["name"], f"{found['perplexity']:.3f}"] for found in json.loads(path.read_text())["results"]]
    return table(["", "perplexity"], rows)


def nearest_sentences_table() -> str:
    """A row for each engine; of each CPU the share of the nearest that it finds, and the cosine of its embeddings to float32."""
    measured = measured_by("nearest_sentences")
    if not measured:
        return NOT_YET
    cells: Cells = {}
    for cpu, file in measured.items():
        for found in file["results"]:
            shown = [f"{found['recall']:.3f}", f"{found['mean_cosine']:.4f}", f"{found['least_cosine']:.4f}"]
            cells.setdefault((found["engine"], found["recipe"]), {})[cpu] = shown
    return cpu_table(["engine", "recipe"], measured, ("nearest found", "mean cosine", "least"), cells)


def run_table() -> str:
    """Where and when each part was measured."""
    rows = []
    for cpu in cpus():
        path = RESULTS / cpu / RUNS
        for part, run in (json.loads(path.read_text()) if path.exists() else {}).items():
            versions = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
            rows.append([cpu, part, run["commit"], run["date"][:10], run["cpu"], versions])
    return table(["CPU", "part", "commit", "date", "calls itself", "versions"], rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cpu_table(labels: Sequence[str], measured: Collection[str], columns: Sequence[str], cells: Cells) -> str:
    """A row for each key of ``cells``, under ``labels``; ``columns`` of each CPU, empty where it has none."""
    header = [*labels, *(f"{cpu}: {column}" for cpu in measured for column in columns)]
    return table(
        header, [[*key, *(cell for cpu in measured for cell in of.get(cpu, [""] * len(columns)))] for key, of in cells.items()]
    )


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def bold(value: float | None) -> str:
    return "-" if value is None else f"**{value:.2f}**"


if __name__ == "__main__":
    typer.run(main)
