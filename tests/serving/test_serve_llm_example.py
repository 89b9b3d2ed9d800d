"""examples/serve_llm.py on loopback, asked by OpenAI's own client; a small model behind it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import drystone

openai, uvicorn, transformers, *_ = (
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'drystone[serving]' openai")
    for package in ("openai", "uvicorn", "transformers", "fastapi", "jinja2")
)

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen:drystone.DrystoneWarning")

LIMIT = 256
Served = tuple[Any, drystone.GenerationPool, Any]  # the client, and what is behind it


class Letters:
    """A tokenizer of one letter a token, whose template is the messages one after the other."""

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> list[int]:
        return [ord(letter) % 90 + 2 for message in messages for letter in f"{message['role']} {message['content']}"]

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(33 + token) for token in tokens if token > 1)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import serve_llm

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=92, max_position_embeddings=LIMIT, eos_token_id=1, pad_token_id=0)
    fast = drystone.optimize(transformers.LlamaForCausalLM(config).eval(), tuning="estimate")
    pool = drystone.GenerationPool(fast, Letters(), max_batch=4, max_queue=8, reuse=0)
    pool.prepare()
    app = serve_llm.service(pool, Letters(), "small", 20, 30.0)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", api_key="none", max_retries=0)
    try:
        yield client, pool, fast
    finally:
        server.should_exit = True
        thread.join(60)
        sys.path.pop(0)
    with pytest.raises(drystone.PoolClosedError):
        pool.submit([3])


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def wanted(fast: Any, messages: list[dict[str, str]], count: int) -> str:
    ids = torch.tensor([Letters().apply_chat_template(messages)])
    text = fast.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count)[0, ids.shape[1] :]
    return Letters().decode(text.tolist(), True)


def ask(client: Any, text: str, **how: Any) -> Any:
    return client.chat.completions.create(**{"model": "small", "messages": said(text), "temperature": 0, "max_tokens": 12, **how})


def test_answers_are_the_models(served: Served) -> None:
    client, _, fast = served
    assert [model.id for model in client.models.list()] == ["small"] and client.models.retrieve("small").owned_by == "drystone"
    found = ask(client, "Hello")
    assert found.choices[0].message.content == wanted(fast, said("Hello"), 12)
    assert (found.choices[0].finish_reason, found.usage.prompt_tokens, found.usage.completion_tokens) == ("length", 10, 12)
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    assert ask(client, "", messages=parts, max_tokens=None).choices[0].message.content == wanted(fast, said("Hello"), 20)
    drawn = [ask(client, "Hello", temperature=1.5, seed=seed, top_p=0.9).choices[0].message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_answers_stream(served: Served) -> None:
    client, _, fast = served

    def streamed(number: int) -> tuple[str, Any]:
        text, last = "", None
        for chunk in ask(client, f"{number}", stream=True, stream_options={"include_usage": True}):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            last = chunk
        return text, last

    with ThreadPoolExecutor(6) as clients:
        for number, (text, last) in enumerate(clients.map(streamed, range(12))):
            assert text == wanted(fast, said(f"{number}"), 12)
            assert last.choices == [] and len(text) <= last.usage.completion_tokens <= 12


def test_stop_strings(served: Served) -> None:
    client, _, fast = served
    whole = wanted(fast, said("stop"), 20)
    found = ask(client, "stop", max_tokens=20, stop=[whole[5:7], "never"]).choices[0]
    assert (found.message.content, found.finish_reason) == (whole[: whole.index(whole[5:7])], "stop")


def idle(pool: drystone.GenerationPool) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        now = pool.statistics()
        if not (now.running or now.queued or now.cache_bytes):
            return True
        time.sleep(0.01)
    return False


def test_a_client_that_goes_away_ends_its_text(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, pool, _ = served
    read = type(pool)._decode

    def slow(self: Any) -> None:
        time.sleep(0.02)
        read(self)

    monkeypatch.setattr(type(pool), "_decode", slow)
    before = pool.statistics().cancelled
    stream = ask(client, "long", max_tokens=200, stream=True)
    next(iter(stream))
    stream.close()
    assert idle(pool) and pool.statistics().cancelled == before + 1
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.3), "long", max_tokens=200)
    assert idle(pool) and pool.statistics().cancelled == before + 2


@pytest.mark.parametrize(
    ("error", "message", "how"),
    [
        (openai.NotFoundError, "no model 'other'", {"model": "other"}),
        (openai.BadRequestError, "messages", {"messages": []}),
        (openai.BadRequestError, "messages.0.role", {"messages": [{"role": "pirate", "content": "x"}]}),
        (openai.BadRequestError, "temperature", {"temperature": 3}),
        (openai.BadRequestError, "n: ", {"n": 2}),
        (openai.BadRequestError, "logprobs is not served", {"logprobs": True}),
        (openai.BadRequestError, f"the model has {LIMIT} positions", {"messages": said("x" * 300), "stream": True}),
    ],
)
def test_errors_have_openais_form(served: Served, error: type[Any], message: str, how: dict[str, Any]) -> None:
    client, _, _ = served
    with pytest.raises(error, match=message) as raised:
        ask(client, "x", **how)
    assert raised.value.type == "invalid_request_error" and isinstance(raised.value.body, dict)


def test_an_error_within_a_stream(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _, fast = served

    def fails(self: Any, *_: Any) -> Any:
        raise MemoryError("none left")

    monkeypatch.setattr(type(fast), "read_tokens", fails)
    with pytest.raises(openai.APIError, match="MemoryError: none left"):
        list(ask(client, "x", stream=True))
    with pytest.raises(openai.InternalServerError, match="none left"):
        ask(client, "x")
    monkeypatch.undo()
    assert ask(client, "x").choices[0].message.content == wanted(fast, said("x"), 12)
