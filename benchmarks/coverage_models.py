"""Architectures of transformers, built small, through ``drystone.optimize``: captured or not, right or not, how fast.

python benchmarks/coverage_models.py                    # the known ones: benchmarks/results/coverage_models.json, docs/coverage.md
python benchmarks/coverage_models.py --all              # the same with every architecture that builds small (an hour)
python benchmarks/coverage_models.py --only bert,gpt2   # some; replaces their rows in the file
"""

from __future__ import annotations

import os
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import coverage_report
import isolated
import small_transformers
import typer
from model_coverage import How, cover
from torch import nn

RESULTS = coverage_report.RESULTS / "coverage_models.json"
SECONDS = 60.0  # for an architecture
# Encoders, decoders without cache, vision, audio, both: what is used most.
# fmt: off
KNOWN = [
    "albert", "bart", "beit", "bert", "big_bird", "blenderbot", "bloom", "camembert", "canine", "clap", "clip",
    "clip_vision_model", "codegen", "convbert", "convnext", "convnextv2", "data2vec-text", "deberta", "deberta-v2", "deit",
    "dinov2", "distilbert", "dpr", "electra", "ernie", "esm", "falcon", "focalnet", "funnel", "gemma", "git", "glpn", "gpt2",
    "gpt_neo", "gpt_neox", "gptj", "hubert", "ibert", "layoutlm", "led", "levit", "llama", "longformer", "marian", "mistral",
    "mixtral", "mobilebert", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mpnet", "nystromformer", "opt", "pegasus", "phi",
    "poolformer", "qwen2", "regnet", "resnet", "roberta", "segformer", "splinter", "squeezebert", "stablelm", "swin", "swinv2",
    "t5", "vilt", "vit", "vit_mae", "wav2vec2", "wavlm", "whisper", "xlm-roberta", "yolos",
]
# fmt: on


def load(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    model, inputs = small_transformers.load(name)
    return model, (), inputs


def main(
    only: str = typer.Option("", help="architectures, with commas between"),
    every: bool = typer.Option(False, "--all", help="every architecture that builds small"),
) -> None:
    """1 where a result is wrong or a process crashed."""
    isolated.preload("transformers", "drystone.conductor", "model_coverage", "small_transformers", "torch.export")
    names = only.split(",") if only else small_transformers.architectures() if every else KNOWN
    good = cover(load, names, RESULTS, How(SECONDS), only=bool(only))
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
