"""``drystone bench … --generate``: its arguments, and one model after the other."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from drystone.generation.models import generates

from ..environment import environment, key_of
from ..interruption import until_interrupted
from ..picture import draw_kept
from ..progress import progress_bar
from ..targets import check, load, name_of
from .contenders import CONTENDERS, DEFAULTS, WEIGHTS, Lengths
from .measure import measure
from .results import TextFile, draw, show


def bench_texts(
    models: Sequence[str],
    weights: str,
    lengths: Lengths,
    threads: int,
    against: str | None,
    rounds: int,
    json: Path | None,
    plot: Path | None,
    console: Console,
) -> int:
    """The exit code. Raises ``typer.BadParameter``."""
    contenders = _contenders(against, weights)
    for model in models:
        try:
            check(model)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="MODEL") from error
    try:
        kept = TextFile.read(json) if json and json.exists() else TextFile()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--json") from error
    torch.set_num_threads(threads)
    facts, failed = environment(), False
    progress = progress_bar(len(models) * (len(contenders) + rounds), console)
    with until_interrupted(console) as ending, progress as announce, torch.no_grad():
        for target in models:
            model = _causal(target)
            ids = torch.randint(3, model.get_input_embeddings().weight.shape[0], (lengths.rows, lengths.prompt))
            result: dict[str, Any] = {
                "model": name_of(target),
                "weights": weights,
                "threads": threads,
                "environment": key_of(facts),
            }
            result |= {"prompt": lengths.prompt, "generate": lengths.generate, "rows": lengths.rows}
            result |= {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
            result |= measure(model, weights, ids, lengths, contenders, rounds, announce)
            kept.add(result, facts)
            if json:
                kept.write(json)
            show(result, console)
            failed |= "drystone" in result["failed"]
    if plot and kept.results:
        draw_kept(kept, json, plot, draw)
        console.print(f"drawn: {plot}")
    return ending.code or int(failed)


def _contenders(against: str | None, weights: str) -> list[str]:
    if weights not in WEIGHTS:
        raise typer.BadParameter(f"{weights!r} is none of {', '.join(WEIGHTS)}", param_hint="--dtype")
    names = DEFAULTS if against is None else tuple(name.strip() for name in against.split(",") if name.strip())
    for name in names:
        if name not in CONTENDERS:
            raise typer.BadParameter(f"no contender {name!r} of texts: {', '.join(CONTENDERS)}", param_hint="--against")
    return list(dict.fromkeys(("drystone", *names)))


def _causal(target: str) -> Any:
    """In float32."""
    torch.manual_seed(0)
    try:
        model: Any = load(target, 1, None, (), 0)[0]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="MODEL") from error
    if not generates(model) or model.config.is_encoder_decoder:
        raise typer.BadParameter(
            f"{name_of(target)} is a {type(model).__name__}; --generate is for causal language models of transformers",
            param_hint="MODEL",
        )
    return model.float()
