"""An optimised model in the place of its original in a transformers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import Dim

import drystone
from agreement import assert_close

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning", "ignore::FutureWarning")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "good", "bad", "film"]
TASKS = {"text-classification": "BertForSequenceClassification", "feature-extraction": "BertModel"}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return transformers.BertTokenizer.from_pretrained(tmp_path)


def bert(name: str) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return getattr(transformers, name)(config).eval()


def prepared(model: Any, example: dict[str, torch.Tensor]) -> Any:
    shapes = {name: {0: Dim.AUTO, 1: Dim.AUTO} for name in example}
    return drystone.optimize(model, example_kwargs=example, dynamic_shapes=shapes, tuning="estimate")


def close(got: Any, want: Any) -> bool:
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(close(got[key], want[key]) for key in want)
    if isinstance(want, list):
        return len(got) == len(want) and all(map(close, got, want))
    return got == (pytest.approx(want, rel=1e-4, abs=1e-5) if isinstance(want, float) else want)


@pytest.mark.parametrize("task", TASKS)
def test_pipeline(task: str, tokenizer: Any) -> None:
    model = bert(TASKS[task])
    fast = prepared(model, dict(tokenizer(["the cat sat", "a good film"], return_tensors="pt", padding=True)))
    assert fast.config is model.config and fast.device == model.device and fast.dtype is model.dtype
    assert fast.can_generate() is False
    ours, theirs = (transformers.pipeline(task, model=m, tokenizer=tokenizer) for m in (fast, model))
    for texts, options in (
        ("the cat sat", {}),
        (["good film", "a bad cat sat on the mat"], {}),
        (["a", "a cat sat"], {"batch_size": 2}),
    ):
        assert close(ours(texts, **options), theirs(texts, **options))


def test_results_are_the_models_own_kind(tokenizer: Any) -> None:
    model = bert("BertModel")
    example = dict(tokenizer(["the cat sat", "a good film"], return_tensors="pt"))
    fast = prepared(model, example)
    got, want = fast(**example), model(**example)
    assert type(got) is type(want) and list(got) == list(want)
    assert got.last_hidden_state is got["last_hidden_state"] and got[0] is got.last_hidden_state
    assert_close(got.to_tuple()[1], want.pooler_output)
    assert got.attentions is None
    for given in ({"return_dict": True}, {"output_attentions": False}):
        with pytest.raises(drystone.InputError):
            fast(**example, **given)
    assert torch.equal(fast(**example, position_ids=None)[0], got[0])
