"""ResNet-50 on a photograph, in drystone beside eager PyTorch and torch.compile: times, agreement, a picture.

    python benchmarks/demo.py

The photograph is scikit-learn's china.jpg. The weights are random (nothing is downloaded), so the classes mean nothing; that
all three compute the same ones does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from drystone.tools.bench import zoo
from drystone.tools.bench.environment import environment, key_of
from drystone.tools.bench.progress import progress_bar
from drystone.tools.bench.results import Outcome, Result, ResultFile
from drystone.tools.bench.rounds import measure, steps
from drystone.tools.bench.workload import Workload

CONTENDERS = ("drystone", "inductor", "eager")
NAMES = {"inductor": "torch.compile, freezing"}
ROUNDS = 12
#: Relative L2 error against eager in float64 that float32 must keep.
TOLERANCE = 2e-5


def photograph() -> np.ndarray:
    """The middle of china.jpg, 224 x 224 x 3 in 0 … 255, the short side scaled to 256 before."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("china.jpg"))
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224)))


def resnet50_on_photograph() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """transformers' ResNet-50 with random weights, and the photograph normalised as for ImageNet: (1, 3, 224, 224)."""
    pixels = torch.from_numpy(photograph().copy()).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return zoo.load("resnet50")[0], (((pixels - mean[:, None, None]) / std[:, None, None]).unsqueeze(0),)


def top5(logits: np.ndarray) -> list[int]:
    return np.argsort(-logits[0])[:5].tolist()


def agrees(outcome: Outcome, outputs: Path) -> bool:
    """Whether the contender's output is eager's in float64: close, and with the same five classes in front, in order."""
    same = top5(np.load(outputs / f"{outcome.contender}.npy")) == top5(np.load(outputs / "reference.npy"))
    return same and outcome.relative_error is not None and outcome.relative_error <= TOLERANCE


def show(result: Result, agreement: dict[str, bool], classes: list[int], console: Console) -> None:
    table = Table(title=f"ResNet-50, china.jpg, batch 1, float32, {result.threads} threads", title_justify="left")
    table.add_column("")
    for column in ("ms a call", "eager / this", "prepared in s", "error against float64", f"top five = {classes}"):
        table.add_column(column, justify="right")
    for outcome in result.outcomes:
        name = NAMES.get(outcome.contender, outcome.contender)
        if not outcome.ok:
            table.add_row(name, "failed")
            continue
        ratio = result.ratio("eager", outcome.contender)
        table.add_row(
            name,
            f"{outcome.milliseconds:.1f}",
            "-" if ratio is None else f"{ratio:.2f}",
            f"{outcome.prepare_seconds:.1f}",
            f"{outcome.relative_error:.1e}",
            "yes" if agreement[outcome.contender] else "NO",
        )
    console.print(table)
    for outcome in result.outcomes:
        if not outcome.ok:
            console.print(f"{NAMES.get(outcome.contender, outcome.contender)} failed: {outcome.reason}", markup=False)


def draw(source: Path, target: Path) -> None:
    """The photograph, and the times from the results file beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    result = ResultFile.read(source).results[0]
    outcomes = [outcome for outcome in result.outcomes if outcome.ok]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(1, 2), layout="constrained")
    left.imshow(photograph())
    left.set_axis_off()
    colours = {"drystone": "#c0392b", "inductor": "#f0a04b", "eager": "#8a8f98"}
    names = [NAMES.get(outcome.contender, outcome.contender) for outcome in outcomes]
    bars = right.barh(names, [o.milliseconds for o in outcomes], color=[colours[o.contender] for o in outcomes])
    right.bar_label(bars, [f"{o.milliseconds:.1f} ms, prepared in {o.prepare_seconds:.1f} s" for o in outcomes], padding=4)
    right.invert_yaxis()
    right.set_xlim(0, 1.5 * max(o.milliseconds for o in outcomes))  # room for the labels
    right.set_xlabel("milliseconds a call (shorter is faster)")
    right.set_title(f"ResNet-50, batch 1, float32, {result.threads} threads", loc="left", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def main() -> int:
    """0 where drystone ran and every output agrees."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    folder = Path("demo")
    folder.mkdir(exist_ok=True)
    threads = psutil.cpu_count(logical=False) or 1
    workload = Workload(f"{__file__}:resnet50_on_photograph", threads=threads)
    facts = environment()
    console.print("ResNet-50 with random weights on a photograph; each way to run it in a process of its own, timed in turn.")
    with tempfile.TemporaryDirectory() as saved:
        outputs = Path(saved)
        with progress_bar(steps(CONTENDERS, ROUNDS), console) as announce:
            result = measure(workload, CONTENDERS, ROUNDS, key_of(facts), announce, outputs=outputs)
        if not (outputs / "reference.npy").exists():
            console.print("the model could not be run at all: are the extras of [bench] installed?")
            return 1
        agreement = {outcome.contender: agrees(outcome, outputs) for outcome in result.outcomes if outcome.ok}
        classes = top5(np.load(outputs / "reference.npy"))
    kept = ResultFile()
    kept.add(result, facts)
    kept.write(folder / "demo.json")
    draw(folder / "demo.json", folder / "demo.png")
    show(result, agreement, classes, console)
    console.print(f"Outputs {'agree' if all(agreement.values()) else 'DO NOT agree'}: same top five, error at most {TOLERANCE:g}.")
    console.print(f"Written: {folder / 'demo.png'}, {folder / 'demo.json'}")
    return 0 if result["drystone"].ok and all(agreement.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
