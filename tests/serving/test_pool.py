"""``drystone.Pool``: every request gets its own result, whoever asks, whatever the others do."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from children import child
from drystone import Pool
from drystone.cores import cores

TWO = len(cores()) >= 2


class Slow(nn.Module):
    """Counts its calls, and takes its time."""

    def __init__(self, seconds: float = 0.02) -> None:
        super().__init__()
        self.seconds, self.rows = seconds, list[int]()

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, Any]:
        self.rows.append(x.shape[0])
        if torch.isnan(x).any():
            raise ValueError("not a number")
        time.sleep(self.seconds)
        return {"y": x * scale, "shape": "any"}


def test_many_threads() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    inputs = [torch.randn(1 + number % 3, 8) for number in range(60)]
    fast = drystone.optimize(model, (inputs[0],), tuning="estimate")
    before = torch.get_num_threads()
    with Pool(fast, streams=2 if TWO else 1, cores_per_stream=1) as pool, ThreadPoolExecutor(8) as clients:
        results = list(clients.map(pool, inputs))
        done = pool.statistics()
    for x, result in zip(inputs, results, strict=True):
        torch.testing.assert_close(result, model(x).detach(), rtol=1e-5, atol=1e-6)
    assert (done.requests, done.failed, done.late, done.batches, done.queued) == (60, 0, 0, 60, 0)
    assert 0 < done.p50_ms <= done.p90_ms <= done.p99_ms
    assert torch.get_num_threads() == before


def test_streams_keep_to_their_cores() -> None:
    places: list[tuple[set[int], int]] = []
    count = 2 if TWO else 1
    barrier = threading.Barrier(count)

    def model() -> None:
        barrier.wait(30)  # each stream has one
        places.append((os.sched_getaffinity(threading.get_native_id()), torch.get_num_threads()))

    before = os.sched_getaffinity(0)
    with Pool(model, streams=count, cores_per_stream=1) as pool:
        for future in [pool.submit() for _ in range(count)]:
            future.result(30)
    assert sorted(min(own) for own, _ in places) == [core.number for core in cores()[:count]]
    assert {(len(own), threads) for own, threads in places} == {(1, 1)}
    assert os.sched_getaffinity(0) == before


def test_waiting_requests_share_a_call() -> None:
    model = Slow()
    with Pool(model, streams=1, max_batch=8, max_wait_ms=20) as pool:
        pool(torch.zeros(1, 2))
        futures = [pool.submit(torch.full((1, 2), float(number))) for number in range(11)]
        for number, future in enumerate(futures):
            result = future.result(30)
            assert torch.equal(result["y"], torch.full((1, 2), float(number)))
            assert result["shape"] == "any"
            assert result["y"].untyped_storage().nbytes() == 8, "it keeps the others' results in memory"
        assert pool.statistics().mean_batch > 2
    assert set(model.rows) <= {1, 2, 4, 8} and max(model.rows) > 2


def test_other_forms_are_not_merged() -> None:
    model = Slow(0.01)
    calls = [((1, 2), 1.0), ((1, 3), 1.0), ((1, 2), 2.0), ((2, 2), 1.0)] * 4
    with Pool(model, streams=1, max_batch=4, max_wait_ms=1) as pool:
        futures = [(shape, scale, pool.submit(torch.ones(shape), scale=scale)) for shape, scale in calls]
        for shape, scale, future in futures:
            assert torch.equal(future.result(30)["y"], torch.full(shape, scale))


def test_a_bad_request_among_good_ones() -> None:
    model = Slow(0.01)
    with Pool(model, streams=1, max_batch=8, max_wait_ms=20) as pool:
        pool(torch.zeros(1, 2))
        futures = [pool.submit(torch.full((1, 2), float("nan") if number == 3 else 1.0)) for number in range(8)]
        for number, future in enumerate(futures):
            if number == 3:
                with pytest.raises(ValueError, match="not a number"):
                    future.result(30)
            else:
                assert torch.equal(future.result(30)["y"], torch.ones(1, 2))
        assert pool.statistics().failed == 1


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_a_wrong_shape_among_good_requests() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    fast = drystone.optimize(model, (torch.randn(1, 8),), tuning="estimate")
    good, bad = torch.randn(1, 8), [torch.randn(1, 9), torch.randn(3), torch.ones(1, 8, dtype=torch.int64), "text"]
    with Pool(fast, streams=1, cores_per_stream=1, max_batch=4, max_wait_ms=20) as pool:
        futures = [(x, pool.submit(x)) for wrong in bad for x in (good, wrong, good)]
        for x, future in futures:
            if x is good:
                torch.testing.assert_close(future.result(30), model(good).detach(), rtol=1e-5, atol=1e-6)
            else:
                assert isinstance(future.exception(30), drystone.InputError)
        assert (pool.statistics().requests, pool.statistics().failed) == (8, 4)


def test_results_that_do_not_follow_the_batch_are_computed_alone() -> None:
    with Pool(lambda x: x.sum(0), streams=1, max_batch=4, max_wait_ms=20) as pool:
        futures = [pool.submit(torch.full((1, 3), float(number))) for number in range(5)]
        assert [future.result(30)[0].item() for future in futures] == [0, 1, 2, 3, 4]
        assert pool.statistics().batches == 5


def test_coroutines() -> None:
    async def ask(pool: Pool) -> list[Any]:
        return await asyncio.gather(*(pool(torch.full((1, 2), float(number))) for number in range(9)))

    with Pool(Slow(0.001), streams=1, max_batch=4, max_queue=2) as pool:
        results = asyncio.run(ask(pool))
    assert [result["y"][0, 0].item() for result in results] == list(range(9))


def test_a_full_queue_holds_callers() -> None:
    start = threading.Event()
    with Pool(lambda: start.wait(30), streams=1, max_queue=1) as pool:
        running = pool.submit()
        while pool.statistics().queued:
            time.sleep(0.001)
        waiting = pool.submit()
        with pytest.raises(TimeoutError, match="1 requests wait"):
            pool.submit(deadline=0.01)
        start.set()
        assert running.result(30) and waiting.result(30)
        assert pool.statistics().late == 1


def test_a_deadline_that_passes_in_the_queue() -> None:
    with Pool(Slow(0.1), streams=1) as pool:
        first = pool.submit(torch.ones(1))
        late = pool.submit(torch.ones(1), deadline=0.01)
        with pytest.raises(TimeoutError, match="deadline passed"):
            late.result(30)
        assert first.result(30)


def test_closing_answers_what_waits() -> None:
    pool = Pool(Slow(0.01), streams=1)
    futures = [pool.submit(torch.ones(1)) for _ in range(5)]
    pool.close()
    pool.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(drystone.PoolClosedError):
        pool(torch.ones(1))


def test_a_forked_child_is_refused() -> None:
    with Pool(Slow(0), streams=1) as pool:

        def work() -> None:
            with pytest.raises(drystone.DrystoneError, match="forked process"):
                pool(torch.ones(1))

        assert child(work, 20, threads=1) == "ok"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"streams": 0}, "streams is 0"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"max_queue": 0}, "max_queue is 0"),
        ({"max_wait_ms": -1}, "max_wait_ms is -1"),
        ({"cores_per_stream": 9999}, "9999 cores each"),
        ({"cores_per_stream": 0}, "of 0 cores"),
        ({"model": 3}, "expected a module"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(drystone.InputError, match=message):
        Pool(**{"model": nn.Linear(1, 1), "streams": 1, **arguments})


def test_bad_deadline() -> None:
    with Pool(nn.Linear(1, 1), streams=1) as pool, pytest.raises(drystone.InputError, match="deadline is 0"):
        pool(torch.ones(1, 1), deadline=0)
