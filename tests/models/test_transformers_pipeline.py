"""An optimised model in the place of its original in a transformers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import Dim

import drystone
from agreement import assert_close
from drystone.preparer import programs_of

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
    if isinstance(want, (list, tuple)):
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
        assert torch.allclose(fast(**example, **given).last_hidden_state, want[0], atol=1e-5)
    assert type(fast(**example, return_dict=False)) is tuple
    assert torch.equal(fast(**example, position_ids=None)[0], got[0])


def test_pipeline_of_a_model_optimised_in_place(tokenizer: Any) -> None:
    task = "feature-extraction"
    model = bert(TASKS[task])
    runner = transformers.pipeline(task, model=model, tokenizer=tokenizer)
    texts = ["the cat sat", "a good film", "good film", "a bad cat sat on the mat"]
    want = runner(texts), runner(texts, batch_size=2)
    assert drystone.optimize_(runner.model, tuning="estimate") is model
    assert close((runner(texts), runner(texts, batch_size=2)), want)
    (fast,) = vars(model)["_drystone"].fast
    assert len(programs_of(fast)) > 2, "of all lengths and batches"
    drystone.restore(model)
    assert close(runner(texts), want[0])


@pytest.mark.parametrize("kind", ["GPT2", "T5"])
def test_generating_in_place_leaves_the_cache_to_the_model(kind: str) -> None:
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50, bos_token_id=0, eos_token_id=49)
    if kind == "T5":
        config = transformers.T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=50, decoder_start_token_id=0
        )
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else "T5ForConditionalGeneration")(config).eval()
    given = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    want = model.generate(torch.tensor([[1, 2, 3]]), **given)
    drystone.optimize_(model, tuning="estimate")
    for _ in range(2):
        got = model.generate(torch.tensor([[1, 2, 3]]), **given)
        assert torch.equal(got.sequences, want.sequences)
        torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-4)
