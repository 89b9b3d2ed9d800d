"""``drystone.optimize(lm).generate``: the tokens are those of the model's own ``generate``, in each of its modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import drystone

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen:drystone.DrystoneWarning")


def llama(seed: int = 0, **others: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 256}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 1, "pad_token_id": 0}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **heads, **others})).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


@pytest.fixture(scope="module")
def fast(model: Any) -> Any:
    return drystone.optimize(model, tuning="estimate")


def text(*shape: int) -> torch.Tensor:
    return torch.randint(2, 100, shape, generator=torch.Generator().manual_seed(1))


def both(model: Any, fast: Any, ids: torch.Tensor, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    results = []
    for each in (model, fast):
        torch.manual_seed(0)
        results.append(each.generate(ids, max_new_tokens=12, **how))
    return results[0], results[1]


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": True, "top_k": 20, "temperature": 0.7},
        {"num_beams": 3},
        {"num_beams": 2, "do_sample": True},
        {"num_return_sequences": 3, "do_sample": True},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=lambda how: "-".join(how),
)
def test_tokens_are_those_of_the_model(model: Any, fast: Any, how: dict[str, Any]) -> None:
    want, got = both(model, fast, text(1, 21), **how)
    assert got.tolist() == want.tolist()
