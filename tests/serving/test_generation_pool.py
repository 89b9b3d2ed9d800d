"""``drystone.GenerationPool``: each request gets the text that ``generate`` gives it alone, whoever else is served beside it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import drystone
from drystone import GenerationPool
from drystone.serving.text import TextStream

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen:drystone.DrystoneWarning")

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
LIMIT = 256


class Letters:
    """A tokenizer of one letter a token."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(48 + token) for token in tokens if token > 1)


@pytest.fixture(scope="module")
def fast() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, vocab_size=100, max_position_embeddings=LIMIT, eos_token_id=1, pad_token_id=0)
    return drystone.optimize(transformers.LlamaForCausalLM(config).eval(), tuning="estimate")


@pytest.fixture
def pool(fast: Any) -> Iterator[GenerationPool]:
    with GenerationPool(fast, Letters(), max_batch=4, chunk=32, reuse=0) as pool:
        yield pool


def prompt(seed: int, length: int) -> list[int]:
    drawn: list[int] = torch.randint(2, 100, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return drawn


def alone(fast: Any, ids: list[int], seed: int = 0, **how: Any) -> list[int]:
    torch.manual_seed(seed)
    text = fast.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64), **how)
    return list(text[0, len(ids) :].tolist())


HOW: list[dict[str, Any]] = [
    {"max_new_tokens": 12},
    {"max_new_tokens": 30, "do_sample": True, "top_k": 20, "temperature": 0.7},
    {"max_new_tokens": 20, "repetition_penalty": 1.3},
    {"max_new_tokens": 1},
    {"max_new_tokens": 40, "do_sample": True, "top_p": 0.8, "eos_token_id": [1, 5, 6, 7, 8, 9, 10, 11, 12]},
    {"max_new_tokens": 25, "min_new_tokens": 25},
]


def test_texts_are_those_of_each_alone(fast: Any) -> None:
    """More than are served at a time, that come from several threads, with prompts of one token to some chunks."""
    requests = [(prompt(number, 1 + 9 * number), number, HOW[number % len(HOW)]) for number in range(14)]
    with GenerationPool(fast, max_batch=3, chunk=32) as pool, ThreadPoolExecutor(5) as clients:
        answers = list(clients.map(lambda one: pool.submit(one[0], seed=one[1], **one[2]).result(60), requests))
        done = pool.statistics()
    for (ids, seed, how), answer in zip(requests, answers, strict=True):
        assert answer == alone(fast, ids, seed, **how)
    assert (done.requests, done.failed, done.late, done.cancelled, done.queued, done.running) == (14, 0, 0, 0, 0, 0)
    assert done.tokens == sum(map(len, answers)) and 1.5 < done.mean_batch <= 3 and done.p99_ms > 0


def test_tokens_stream_and_say_why_they_end(fast: Any, pool: GenerationPool) -> None:
    wanted = alone(fast, prompt(1, 40), max_new_tokens=20)
    answer = pool.submit(torch.tensor([prompt(1, 40)]), max_new_tokens=20)
    pieces = list(answer)
    assert [token for token, _ in pieces] == wanted == answer.result(0) and answer.reason == "length" and answer.done()
    assert answer.text == "".join(text for _, text in pieces) and answer.prompt_tokens == 40
    last = wanted[9]
    place = wanted.index(last)
    ended = pool.submit(prompt(1, 40), max_new_tokens=20, eos_token_id=last)
    assert (ended.result(60), ended.reason) == (wanted[: place + 1], "stop")


def test_stop_strings(fast: Any, pool: GenerationPool) -> None:
    whole = pool.submit(prompt(2, 20), max_new_tokens=30)
    whole.result(60)
    stop = whole.text[11:14]
    place = whole.text.index(stop)
    answer = pool.submit(prompt(2, 20), max_new_tokens=30, stop_strings=[stop, "no such"])
    tokens = answer.result(60)
    assert (answer.text, answer.reason) == (whole.text[:place], "stop") and len(tokens) < 30
    assert "".join(text for _, text in answer) == answer.text


def test_coroutines(fast: Any, pool: GenerationPool) -> None:
    async def ask(number: int) -> list[int]:
        answer = await pool.submit_async(prompt(number, 10), max_new_tokens=8)
        return [token async for token, _ in answer]

    async def ask_all() -> list[list[int]]:
        return await asyncio.gather(*map(ask, range(6)))

    assert asyncio.run(ask_all()) == [alone(fast, prompt(number, 10), max_new_tokens=8) for number in range(6)]


def held(pool: GenerationPool) -> int:
    """Bytes of the cache, once the thread has come to rest."""
    end = time.monotonic() + 30
    while (pool.statistics().cache_bytes or pool.statistics().running) and time.monotonic() < end:
        time.sleep(0.005)
    return pool.statistics().cache_bytes


def test_cancelled_texts_free_the_cache(fast: Any, pool: GenerationPool) -> None:
    running = [pool.submit(prompt(number, 30), min_new_tokens=200, max_new_tokens=200) for number in range(4)]
    waiting = pool.submit(prompt(5, 30), max_new_tokens=200)
    next(iter(running[3]))
    assert pool.statistics().cache_bytes > 0 and pool.statistics().queued == 1
    with pytest.raises(RuntimeError, match="gone"), running[0]:
        raise RuntimeError("the client is gone")
    for answer in (waiting, *running[1:3]):
        answer.cancel()
    assert waiting.result(0) == [] and len(running[0].result(60)) < 200
    assert running[3].result(60) == alone(fast, prompt(3, 30), min_new_tokens=200, max_new_tokens=200)
    assert {answer.reason for answer in (*running[:3], waiting)} == {"cancelled"}
    assert held(pool) == 0 and pool.statistics().cancelled == 4


def test_nothing_is_left_of_an_answer(pool: GenerationPool) -> None:
    """Even before garbage is collected: a server's memory stays flat."""
    gc.disable()
    try:
        answer = pool.submit(prompt(1, 10), max_new_tokens=3)
        answer.result(60)
        left, end = weakref.ref(answer), time.monotonic() + 30
        del answer
        while left() is not None and time.monotonic() < end:
            time.sleep(0.005)
        assert left() is None
    finally:
        gc.enable()


def test_texts_that_begin_alike_share_the_cache(fast: Any) -> None:
    with GenerationPool(fast, chunk=32, reuse=150) as pool:
        first = pool.submit(prompt(1, 100), max_new_tokens=10).result(60)
        turn = [*prompt(1, 100), *first, *prompt(2, 20)]
        assert pool.submit(turn, max_new_tokens=10).result(60) == alone(fast, turn, max_new_tokens=10)
        assert pool.statistics().reused == 109
        assert pool.submit(prompt(1, 100), max_new_tokens=10).result(60) == first  # all but the last token is known
        assert pool.statistics().reused == 109 + 99
        pool.submit(prompt(3, 130), max_new_tokens=1).result(60)
        pool.submit(prompt(1, 100), max_new_tokens=10).result(60)
        assert pool.statistics().reused == 109 + 99, "only the latest are kept"


def test_deadlines_and_a_full_queue(fast: Any) -> None:
    with GenerationPool(fast, max_batch=1, max_queue=1, reuse=0) as pool:
        long = pool.submit(prompt(1, 10), min_new_tokens=240, max_new_tokens=240)
        next(iter(long))
        late = pool.submit(prompt(2, 10), max_new_tokens=2, deadline=0.001)
        with pytest.raises(TimeoutError, match=r"1 requests wait|deadline"):
            pool.submit(prompt(3, 10), max_new_tokens=2, deadline=0.001).result(60)
        with pytest.raises(TimeoutError, match="deadline passed"):
            late.result(60)
        long.cancel()
        assert held(pool) == 0 and pool.statistics().late == 2


def test_an_error_is_its_requests_own(fast: Any, pool: GenerationPool, monkeypatch: pytest.MonkeyPatch) -> None:
    good = pool.submit(prompt(1, 20), min_new_tokens=200, max_new_tokens=200)
    next(iter(good))
    bad = pool.submit(prompt(2, 20), max_new_tokens=20, sequence_bias={(10**6,): 1.0})
    with pytest.raises(ValueError, match="tokens were being biased"):
        list(bad)
    assert not good.done() and bad.reason is None

    def fails(self: Any, *_: Any) -> Any:
        raise MemoryError("none left")

    with monkeypatch.context() as patched:
        patched.setattr(type(fast), "read_tokens", fails)
        with pytest.raises(MemoryError) as raised:
            good.result(60)
    assert pool.submit(prompt(1, 20), max_new_tokens=5).result(60) == alone(fast, prompt(1, 20), max_new_tokens=5)
    assert held(pool) == 0 and pool.statistics().failed == 2 and raised.value is not None, "the error holds the cache"


def test_closing(fast: Any) -> None:
    pool = GenerationPool(fast, max_batch=2)
    pool.prepare()
    answers = [pool.submit(prompt(number, 10), max_new_tokens=5) for number in range(5)]
    pool.close()
    pool.close()
    assert all(answer.done() and answer.reason in ("stop", "length") for answer in answers)
    with pytest.raises(drystone.PoolClosedError, match="GenerationPool"):
        pool.submit([3])
    pool = GenerationPool(fast, max_batch=2)
    answers = [pool.submit(prompt(number, 10), min_new_tokens=200, max_new_tokens=200) for number in range(5)]
    pool.close(cancel=True)
    assert {answer.reason for answer in answers} == {"cancelled"}
    assert not [thread for thread in threading.enumerate() if thread.name == "drystone-generation"]


@pytest.mark.parametrize(
    ("error", "message", "how"),
    [
        (drystone.InputError, "one token at least", {"prompt": []}),
        (drystone.InputError, "from 0 to 99", {"prompt": [3, 100]}),
        (drystone.InputError, "got str", {"prompt": "text"}),
        (drystone.InputError, r"\(1, T\)", {"prompt": torch.ones(2, 3, dtype=torch.int64)}),
        (
            drystone.InputError,
            f"200 tokens and 100 new ones, and the model has {LIMIT}",
            {"prompt": [3] * 200, "max_new_tokens": 100},
        ),
        (drystone.InputError, "max_new_tokens is 0", {"max_new_tokens": 0}),
        (drystone.InputError, "temperature", {"do_sample": True, "temperature": -1.0}),
        (drystone.InputError, "hidden is no option", {"hidden": 3}),
        (drystone.InputError, "deadline is 0", {"deadline": 0}),
        (drystone.UnsupportedError, "greedily or by sampling", {"num_beams": 2}),
        (drystone.InputError, "needs a tokenizer", {"stop_strings": "x"}),
    ],
)
def test_bad_requests(fast: Any, error: type[Exception], message: str, how: dict[str, Any]) -> None:
    with GenerationPool(fast) as pool, pytest.raises(error, match=message):
        pool.submit(**{"prompt": [3, 4], **how})


@pytest.mark.parametrize(
    ("message", "how"), [("expected a causal", {"fast": torch.nn.Linear(1, 1)}), ("max_batch is 0", {"max_batch": 0})]
)
def test_bad_pools(fast: Any, message: str, how: dict[str, Any]) -> None:
    with pytest.raises(drystone.InputError, match=message):
        GenerationPool(**{"fast": fast, **how})


def test_text_comes_in_whole_characters_and_without_stop_strings() -> None:
    def decode(tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    for text, stops, wanted in (
        ("naïve 雨", [], "naïve 雨"),
        ("one END two", ["END"], "one "),
        ("EN EEND", ["END", "x"], "EN E"),
        ("abab", ["abc"], "abab"),
    ):
        stream, got = TextStream(decode, stops), []
        for token in text.encode():
            got.append(stream.add(token))
            assert "\N{REPLACEMENT CHARACTER}" not in got[-1]
            if stream.stopped:
                break
        assert "".join(got) + stream.end() == wanted
    stream = TextStream(decode)
    assert stream.add(0xE9) == "" and stream.end() == "\N{REPLACEMENT CHARACTER}"
