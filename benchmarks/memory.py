"""Resident memory over many calls, many optimised models and many shapes, at its peak while BERT-base or a language model is
optimised, and while that generates.

python benchmarks/memory.py        # benchmarks/results/memory.json
"""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import isolated
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import drystone
from drystone.tools.bench import zoo
from drystone.tools.bench.environment import environment
from drystone.tools.bench.progress import progress_bar

RESULTS = Path(__file__).parent / "results" / "memory.json"
SAMPLES = 20  # of a series
WARM = 0.25  # of a series, left out of its slope
SECONDS = 900.0
TOKENS = 2000  # of a text that grows


def status(field: str) -> int:
    """Bytes of ``VmRSS`` (now) or ``VmHWM`` (the most so far)."""
    return 1024 * int(re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def tokens(length: int = 128) -> torch.Tensor:
    return torch.randint(0, 30000, (1, length), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A small one with enough kinds of step: what leaks a little shows over many cycles."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
        self.last = nn.Linear(32, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).mean((2, 3))).softmax(-1)


def calls(send: isolated.Send, count: int) -> None:
    """One program, many calls."""
    model, inputs = zoo.load("mobilenet_v3")
    fast = drystone.optimize(model, inputs, tuning="estimate")
    series(send, count, lambda i: fast(*inputs))


def cycles(send: isolated.Send, count: int) -> None:
    def cycle(i: int) -> None:
        drystone.optimize(Net().eval(), torch.zeros(1, 3, 32, 32), tuning="estimate")(torch.zeros(1, 3, 32, 32))

    series(send, count, cycle)


def exports(send: isolated.Send, count: int) -> None:
    """What of a cycle is torch.export's own."""
    series(send, count, lambda i: torch.export.export(Net().eval(), (torch.zeros(1, 3, 32, 32),), strict=False))


def shapes(send: isolated.Send, count: int) -> None:
    """Every height is met for the first time."""
    height = torch.export.Dim("height", min=8, max=4096)
    fast = drystone.optimize(Net().eval(), torch.zeros(2, 3, 32, 32), tuning="estimate", dynamic_shapes=({2: height},))
    series(send, count, lambda i: fast(torch.zeros(2, 3, 32 + 73 * i % 200, 32)))


def series(send: isolated.Send, count: int, work: Callable[[int], Any]) -> None:
    for i in range(count):
        work(i)
        if (i + 1) % (count // SAMPLES) == 0:
            gc.collect()
            send((i + 1, status("VmRSS")))


def bert(send: isolated.Send, release: bool) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig()).eval().requires_grad_(False)
    inputs = (tokens(),)
    model(*inputs)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    gc.collect()
    before = status("VmRSS")
    reset_peak()
    fast = drystone.optimize(model, inputs, release_originals=release)
    peak = status("VmHWM")
    fast(*inputs)
    gc.collect()
    send({"weights": weights, "before": before, "peak": peak, "after": status("VmRSS")})


def language_model(send: isolated.Send, options: dict[str, Any], tokens: int) -> None:
    """A Llama-like one of 151 million parameters: memory while it is prepared, and as its text grows, twice."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def made(layers: int, **sizes: int) -> LlamaForCausalLM:
        torch.manual_seed(0)
        config = LlamaConfig(
            num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=4, eos_token_id=None, pad_token_id=0, **sizes
        )
        return LlamaForCausalLM(config).eval().requires_grad_(False)

    drystone.optimize(made(1, hidden_size=64, intermediate_size=64, vocab_size=64), tuning="estimate", **options)
    gc.collect()
    libraries = status("VmRSS")
    model = made(12, hidden_size=1024, intermediate_size=2816, vocab_size=8000)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    reset_peak()
    fast = drystone.optimize(model, tuning="estimate", **options)
    found: dict[str, Any] = {"weights": weights, "packed": fast.explain().weights_bytes, "peak": status("VmHWM") - libraries}
    text = torch.randint(0, 8000, (1, 32))
    fast.generate(text, max_new_tokens=2, do_sample=False)
    gc.collect()
    found["held"] = status("VmRSS") - libraries

    class Streamer:
        def __init__(self) -> None:
            self.samples: list[tuple[int, int, int]] = []  # tokens, what is held beyond the libraries, and the cache's part of it
            self.count = 0

        def put(self, ids: torch.Tensor) -> None:
            self.count += ids.numel()
            if self.count % (tokens // SAMPLES) == 0:
                self.samples.append((self.count, status("VmRSS") - libraries, fast.pages_of(torch.float32).bytes))

        def end(self) -> None: ...

    for name in ("text", "next text"):
        streamer = Streamer()
        fast.generate(text, max_new_tokens=tokens, do_sample=False, streamer=streamer)
        found[name] = streamer.samples
    send(found)


def base(send: isolated.Send) -> None:
    """What a process with all libraries in it, but no model, holds."""
    fast = drystone.optimize(Net().eval(), torch.zeros(1, 3, 32, 32), tuning="estimate")
    fast(torch.zeros(1, 3, 32, 32))
    import transformers.models.bert.modeling_bert  # noqa: F401

    send(status("VmRSS"))


def slope(samples: list[tuple[int, int]]) -> float:
    """Bytes a step, by least squares, after the warm-up."""
    rest = samples[int(WARM * len(samples)) :]
    return statistics.linear_regression(*zip(*rest, strict=True)).slope


def main() -> None:
    isolated.preload("torch", "drystone", "drystone.conductor", "drystone.tools.bench.zoo")
    console = Console(stderr=True)
    results: dict[str, Any] = {"environment": environment(), "series": {}, "bert_base": {}, "language_model": {}}
    language_models: dict[str, dict[str, Any]] = {"float32": {}, "int8": {"weights": "int8"}, "int4": {"weights": "int4"}}
    series_of = {"calls": (calls, 2000), "cycles": (cycles, 200), "torch.export alone": (exports, 200), "shapes": (shapes, 200)}
    table = Table("what", "steps", "MB at first", "MB at last", "bytes a step after warm-up")

    def measured(function: Callable[..., None], *arguments: Any) -> list[Any]:
        messages, failed = isolated.run(function, *arguments, seconds=SECONDS)
        if failed:
            raise SystemExit(f"{function.__name__}: {failed}")
        return messages

    with tempfile.TemporaryDirectory() as folder, progress_bar(len(series_of) + 3 + len(language_models), console) as announce:
        os.environ["DRYSTONE_CACHE"] = folder  # as on a fresh machine
        for name, (function, count) in series_of.items():
            announce(name)
            samples = measured(function, count)
            results["series"][name] = {"samples": samples, "slope": slope(samples)}
            table.add_row(name, str(count), *(f"{samples[i][1] / 1e6:.1f}" for i in (0, -1)), f"{slope(samples):.0f}")
        announce("libraries alone")
        (results["base"],) = measured(base)
        for release in (False, True):
            name = "released" if release else "kept"
            announce(f"BERT-base, originals {name}")
            (found,) = measured(bert, release)
            over = (found["peak"] - found["before"]) / found["weights"]
            held = (found["after"] - results["base"]) / found["weights"]
            results["bert_base"][name] = found | {"peak_over_model": over, "held": held}
        for name, options in language_models.items():
            announce(f"language model, {name}")
            (results["language_model"][name],) = measured(language_model, options, TOKENS)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    console.print(table)
    for name, found in results["bert_base"].items():
        console.print(
            f"BERT-base, originals {name}: weights {found['weights'] / 1e6:.0f} MB, peak over the model "
            f"{found['peak_over_model']:.2f} x, held afterwards {found['held']:.2f} x"
        )
    for name, found in results["language_model"].items():
        first, last, again = (found[text][index][1:] for text, index in (("text", 0), ("text", -1), ("next text", -1)))
        own = [f"{(held - cache) / 1e6:.0f}" for held, cache in (first, last, again)]
        console.print(
            f"language model, {name}: weights {found['weights'] / 1e6:.0f} MB, packed {found['packed'] / 1e6:.0f} MB, at the peak "
            f"{found['peak'] / 1e6:.0f} MB, held {found['held'] / 1e6:.0f} MB; but for the cache {' → '.join(own)} MB as a text "
            "grows, and after the next one"
        )


if __name__ == "__main__":
    main()
