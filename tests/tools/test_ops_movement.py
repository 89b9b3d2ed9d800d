"""The cases of ``drystone ops cat embedding embedding_bag`` and of layers of volumes: which there are, and that their contenders agree."""

from __future__ import annotations

import pytest
import torch

from drystone.eager import operators
from drystone.tools.bench.worker import relative_error
from drystone.tools.ops.operators import cat, embedding, volume_layers

needs_operators = pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))


def test_cat_has_the_matrix_of_operator_benchmark():
    tags = [tag for tag, *_ in cat.configurations()]
    assert {tag: tags.count(tag) for tag in set(tags)} == {
        "short": 3,
        "long": 9,
        "multidim": 3,
        "manyinputs": 4,
        "static_runtime": 6,
        "large": 2,
        "list": 2,
    }
    for _, _, shapes, dim in cat.configurations():
        assert len({(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}) == 1
    names = [case.name for case in cat.cases("float32")]
    assert len(set(names)) == len(names) == len(tags)


def test_work():
    case = cat.case("bfloat16", "short", "2x3x5", [(3, 5)] * 2, 1)
    assert case.bytes == 2 * 2 * 30 and case.sizes["tensors"] == 2
    (rows, *_) = embedding.embedding_cases("float32")
    assert rows.bytes == 100_000 * (2 * 512 + 8) and rows.sizes["rows"] == 10_000


def test_tables_that_there_is_no_memory_for_are_left_out(monkeypatch):
    class Memory:
        available = 1 << 30

    monkeypatch.setattr(embedding.psutil, "virtual_memory", Memory)
    assert {case.sizes["rows"] for case in embedding.embedding_bag_cases("float32")} == {10_000, 100_000, 1_000_000}


@needs_operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [embedding.gathered, embedding.gradient, *embedding.MODES])
def test_rows_agree(make, dtype):
    contest = embedding.bags(make, 1000, dtype) if isinstance(make, str) else make(1000, dtype)
    check(contest, 8e-3 if dtype == torch.bfloat16 else 1e-6)


@needs_operators
def test_joined_tensors_agree():
    check(cat.joined([(30, 40), (30, 50)], 1, torch.bfloat16), 0)


@needs_operators
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", ["max_pool", "avg_pool", "batch_norm", "instance_norm", "clone"])
def test_layers_of_volumes_agree(layer, dtype):
    """A pool's contest leaves out who gives other maxima."""
    for case in getattr(volume_layers, f"{layer}_cases")(dtype):
        if case.sizes["size"] == "16x16x16":
            check(case.make(), 0 if layer in ("max_pool", "clone") else 1e-2 if dtype == "bfloat16" else 1e-6)


@needs_operators
def test_sparse_gradients_agree():
    check(next(case for case in embedding.embedding_bag_cases("float32") if case.tag == "sparse gradient").make(), 0)


def check(contest, error):
    calls, reasons = contest.prepare()
    assert list(calls) == ["drystone", "torch"] and not reasons
    for call in calls.values():
        assert relative_error(call(0), contest.exact().numpy()) <= error
