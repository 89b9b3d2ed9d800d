"""``drystone.optimize(lm).generate``: the tokens are those of the model's own ``generate``, in each of its modes."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch

import drystone
from agreement import relative_error
from drystone import native
from drystone.generation.bans import bans_of
from drystone.generation.loop import highest
from drystone.graph.groups import Kind, dequantised, quantised

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen:drystone.DrystoneWarning")


SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 256}
TOKENS = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2}
OLD = int(transformers.__version__.partition(".")[0]) < 5


def llama(seed: int = 0, **others: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**SIZES, **TOKENS, **{"num_hidden_layers": 2, "num_key_value_heads": 2, **others})
    return transformers.LlamaForCausalLM(config).eval()


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
        {"do_sample": False, "min_new_tokens": 9, "suppress_tokens": [7, 63, 250]},
        {"do_sample": False, "min_length": 25, "begin_suppress_tokens": [81, 5], "repetition_penalty": 1.1},
        {"do_sample": False, "min_length": 25, "begin_suppress_tokens": list(range(2, 90))},
        {"do_sample": True, "suppress_tokens": [7, 63]},
    ],
    ids=lambda how: "-".join(how),
)
def test_tokens_are_those_of_the_model(model: Any, fast: Any, how: dict[str, Any]) -> None:
    want, got = both(model, fast, text(1, 21), **how)
    assert got.tolist() == want.tolist()


def padded() -> dict[str, torch.Tensor]:
    ids, mask = text(3, 30), torch.ones(3, 30, dtype=torch.int64)
    mask[0, :13] = mask[2, :29] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("how", [{"do_sample": False}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_rows_padded_at_the_left(model: Any, fast: Any, how: dict[str, Any]) -> None:
    want, got = (each.generate(**padded(), max_new_tokens=12, **how) for each in (model, fast))
    assert got.tolist() == want.tolist()


def test_a_draft_model_assists(model: Any, fast: Any) -> None:
    draft = drystone.optimize(llama(num_hidden_layers=1), tuning="estimate")
    want, got = (
        each.generate(text(1, 9), max_new_tokens=20, do_sample=False, **more)
        for each, more in ((model, {}), (fast, {"assistant_model": draft}))
    )
    assert got.tolist() == want.tolist()


def test_the_cache_of_a_chat_is_used_again(model: Any, fast: Any) -> None:
    first = fast.generate(text(1, 70), max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    cache = next(value for value in first.values() if isinstance(value, drystone.Cache))
    assert cache.get_seq_length() == 74
    longer = torch.cat([first.sequences, text(1, 20)], 1)
    got = fast.generate(longer, max_new_tokens=12, do_sample=False, **{argument(model): cache})
    assert got.tolist() == model.generate(longer, max_new_tokens=12, do_sample=False).tolist()
    cache.crop(-(cache.get_seq_length() - 60))
    again = fast.generate(text(1, 70), max_new_tokens=5, do_sample=False, **{argument(model): cache})
    assert again.tolist() == first.sequences.tolist()


def argument(model: Any) -> str:
    """What this version of transformers calls a cache."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def test_scores_streamers_and_criteria(model: Any, fast: Any) -> None:
    class Streamer(list):  # type: ignore[type-arg]
        def put(self, tokens: torch.Tensor) -> None:
            self.extend(tokens.flatten().tolist())

        def end(self) -> None:
            self.append("end")

    def stop(ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        return torch.tensor([ids.shape[1] >= 15])

    results = []
    for each in (model, fast):
        streamer = Streamer()
        how = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True, "stopping_criteria": [stop]}
        found = each.generate(text(1, 9), max_new_tokens=12, do_sample=False, streamer=streamer, **how)
        assert streamer == [*found.sequences.flatten().tolist(), "end"]
        results.append(found)
    want, got = results
    assert got.sequences.tolist() == want.sequences.tolist() and got.sequences.shape[1] == 15
    for name in ("scores", "logits"):
        torch.testing.assert_close(torch.stack(got[name]), torch.stack(want[name]))


def test_rows_end_at_their_own_end_of_text(model: Any, fast: Any) -> None:
    """One row ends before the other, whose tokens go on; with a criterion of the caller's beside it too."""
    first = model.generate(text(2, 9), max_new_tokens=12, do_sample=False)[:, 9:].tolist()
    ends = next(token for token in first[0] if token not in first[1][: first[0].index(token) + 2])
    asked: list[int] = []

    def never(ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        asked.append(ids.shape[1])
        return torch.zeros(len(ids), dtype=torch.bool)

    how: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": ends, "pad_token_id": 0}
    want = model.generate(text(2, 9), **how)
    assert want[0].tolist() != want[1].tolist() and 0 in want[0, 9:].tolist()
    assert fast.generate(text(2, 9), **how).tolist() == want.tolist()
    assert fast.generate(text(2, 9), **how, stopping_criteria=[never]).tolist() == want.tolist()
    assert asked == [*range(10, want.shape[1] + 1)]


def test_the_highest_is_the_first_of_equals() -> None:
    nan, inf = float("nan"), float("inf")
    rows = [[1.0, 3.0, 3.0, 2.0], [inf, nan, 1.0, nan], [-inf, -inf, -inf, -inf], [-inf, inf, 0.0, inf]]
    assert highest(torch.tensor(rows)).tolist() == torch.tensor(rows).argmax(-1).tolist() == [1, 1, 0, 1]


def test_calls_give_the_logits_of_the_model(model: Any, fast: Any) -> None:
    with torch.no_grad():
        for call in ({"input_ids": text(2, 40)}, padded(), {"input_ids": text(1, 9), "logits_to_keep": 2}):
            want, got = model(**call).logits, fast(**call).logits
            shown = call.get("attention_mask", torch.ones(want.shape[:2])).bool()
            torch.testing.assert_close(got[shown], want[shown])


def test_what_programs_have_not_runs_the_model(model: Any, fast: Any) -> None:
    with pytest.warns(drystone.DrystoneWarning, match="output_hidden_states"):
        got = fast(text(1, 9), output_hidden_states=True)
    assert len(got.hidden_states) == 3
    want = model.generate(text(1, 9), max_new_tokens=3, do_sample=False, cache_implementation="static", disable_compile=True)
    with pytest.warns(drystone.DrystoneWarning, match="StaticCache"):
        got = fast.generate(text(1, 9), max_new_tokens=3, do_sample=False, cache_implementation="static", disable_compile=True)
    assert got.tolist() == want.tolist()


def test_bad_input(model: Any, fast: Any) -> None:
    with pytest.raises(drystone.InputError, match="300 positions, and the model has 256"):
        fast.generate(text(1, 300), max_new_tokens=2)
    turned = {name: value.flip(1) for name, value in padded().items()}
    with pytest.raises(drystone.InputError, match="padding_side = 'left'"):
        fast.generate(**turned, max_new_tokens=2)
    with pytest.raises(drystone.InputError, match="another model"):
        fast(text(1, 9), **{argument(model): drystone.Cache(drystone.optimize(llama(), tuning="estimate"))})
    with pytest.raises(drystone.InputError, match="expected a causal language model"):
        drystone.Cache(model)
    cache = drystone.Cache(fast)
    fast(text(2, 9), **{argument(model): cache})
    with pytest.raises(drystone.InputError, match="2 sequences and the call has 3"):
        fast(text(3, 9), **{argument(model): cache})


WHOLE = torch.ones(2, 9, dtype=torch.int64)


@pytest.mark.parametrize(
    ("ids", "more", "says"),
    [
        (text(2, 9).float(), {}, "expected whole numbers"),
        (text(1, 0), {}, "has no tokens"),
        (text(2, 9), {"attention_mask": WHOLE[:, 1:]}, r"of shape \(2, 8\), and the new tokens of \(2, 9\)|has 8 columns"),
        (text(2, 9), {"attention_mask": WHOLE[[0, 0, 0]]}, r"of shape \(3, 9\), and the new tokens of \(2, 9\)|has 3 rows"),
        (text(2, 9), {"attention_mask": torch.stack([WHOLE[0], 0 * WHOLE[0]])}, "hides all tokens of a row"),
    ],
)
def test_texts_that_are_none(fast: Any, ids: torch.Tensor, more: dict[str, Any], says: str) -> None:
    with pytest.raises(drystone.InputError, match=says):
        fast.generate(ids, **more, max_new_tokens=2, do_sample=False)


def test_a_cache_of_the_whole_text(model: Any, fast: Any) -> None:
    """The last token has to be computed again for what follows it."""
    ids, cache = text(1, 70), drystone.Cache(fast)
    fast(ids, **{argument(model): cache})
    for held in (ids, ids[:, :50]):
        with pytest.raises(drystone.InputError, match=r"holds 70 tokens, and the text has no more: shorten the cache with crop"):
            fast.generate(held, max_new_tokens=2, do_sample=False, **{argument(model): cache})
    cache.crop(-1)
    got = fast.generate(ids, max_new_tokens=4, do_sample=False, **{argument(model): cache})
    assert got.tolist() == model.generate(ids, max_new_tokens=4, do_sample=False).tolist()


@pytest.mark.parametrize("how", [{"do_sample": False}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_tokens_in_int32(model: Any, fast: Any, how: dict[str, Any]) -> None:
    want, got = both(model, fast, text(2, 9).int(), **how)
    assert got.tolist() == want.tolist() and got.dtype is want.dtype
    torch.testing.assert_close(fast(text(2, 9).int()).logits, fast(text(2, 9)).logits, rtol=0, atol=0)


def test_copies(model: Any, fast: Any, tmp_path: Any) -> None:
    """Of a cache there are some, of the module none: an error says what to do."""
    cache = drystone.Cache(fast)
    fast(text(1, 70), **{argument(model): cache})
    twin = copy.deepcopy(cache)
    pages = cache.pages.used
    for each, token in ((twin, 5), (cache, 7), (cache, 5)):
        got = fast(torch.tensor([[token]]), **{argument(model): each}).logits
        if each is twin:
            want = got
        each.crop(-1)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert cache.get_seq_length() == twin.get_seq_length() == 70 and pages < cache.pages.used < 2 * pages
    with pytest.raises(drystone.UnsupportedError, match="keep the tokens"):
        pickle.dumps(cache)
    for refuse in (copy.deepcopy, pickle.dumps, lambda fast: drystone.save(fast, tmp_path / "artefact")):
        with pytest.raises(drystone.UnsupportedError, match=r"optimise the copy|save_pretrained"):
            refuse(fast)


def test_refusals_of_optimize(model: Any) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"release_originals": True}, "a language model needs its plain weights"),
        ({"capture": "eager"}, "takes example_inputs"),
        ({"dynamic_shapes": {}}, "any number of sequences"),
        ({"dtype": torch.int8}, 'weights="int8"'),
        ({"weights": "int4", "group_size": 128, "tuning": "estimate"}, r"keep=\['model.embed_tokens'\]"),
    ]
    for options, says in refused:
        with pytest.raises(drystone.InputError, match=says):
            drystone.optimize(model, **options)
    with pytest.raises(drystone.CaptureError, match="training mode"):
        drystone.optimize(llama().train())


def test_weights_without_a_reader_run_as_before() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model = llama(num_hidden_layers=1)
    torchao.quantize_(model, torchao.Float8WeightOnlyConfig())
    with pytest.warns(drystone.DrystoneWarning, match=r"without programs: its weight 'model.*q_proj.weight' is of the type Float8"):
        fast = drystone.optimize(model)
    want, got = both(model, fast, text(1, 9), do_sample=False)
    assert got.tolist() == want.tolist()
    with pytest.raises(drystone.UnsupportedError, match="Float8"):
        drystone.optimize(model, strict=True)


def test_changed_weights_are_noticed() -> None:
    model = llama(num_hidden_layers=1)
    fast = drystone.optimize(model, tuning="estimate")
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    with pytest.raises(drystone.WeightsChangedError, match=r"lm_head\.weight"):
        fast.generate(text(1, 9), max_new_tokens=2)
    fast.refresh()
    want, got = both(model, fast, text(1, 9), do_sample=False)
    assert got.tolist() == want.tolist()


def test_caches_in_lower_precision(model: Any, fast: Any) -> None:
    ids = text(1, 80)
    want = fast(ids).logits
    for dtype, error in ((torch.bfloat16, 2e-2), (torch.int8, 5e-2)):
        got = fast(ids, **{argument(model): drystone.Cache(fast, dtype=dtype)}).logits
        assert 0 < float((got - want).norm() / want.norm()) < error


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "GPT2LMHead": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "Gemma2ForCausal": {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "Phi3ForCausal": {"sliding_window": 16},
    "GPTNeoXForCausal": {},
    "FalconForCausal": {"multi_query": True},
    "FalconForCausal with ALiBi": {"alibi": True, "multi_query": False},
    "BloomForCausal": {"n_layer": 2, "n_head": 4},
    "MptForCausal": {"d_model": 48, "n_heads": 6, "n_layers": 2, "max_seq_len": 64},
    "GptOssForCausal": {
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 16,
        "sliding_window": 16,
    },
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str) -> None:
    if OLD and name.startswith(("GptOss", "GPT2", "Bloom", "Mpt", "Falcon")):
        pytest.skip("this version of transformers decides on numbers in tensors there, or has other attention")
    torch.manual_seed(0)
    others, name = ARCHITECTURES[name], name.partition(" ")[0]
    config: Any = getattr(transformers, name.replace("LMHead", "").replace("ForCausal", "") + "Config")
    small = config(**SIZES, **TOKENS, **{"num_hidden_layers": 1, **others})
    model = getattr(transformers, name + ("Model" if "LMHead" in name else "LM"))(small).eval()
    fast = drystone.optimize(model, tuning="estimate")
    want, got = (each.generate(**padded(), max_new_tokens=12, do_sample=False) for each in (model, fast))
    assert got.tolist() == want.tolist()
    assert isinstance(fast.explain().steps, list)


T5_SIZES = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 1, "num_heads": 4, "vocab_size": 100}


def encoder_decoder(name: str) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"d_model": 64, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "vocab_size": 100}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 3}
    if name == "Whisper":
        suppressed = {"suppress_tokens": None, "begin_suppress_tokens": None}
        config = transformers.WhisperConfig(**layers, **sizes, **tokens, **suppressed, num_mel_bins=8, max_source_positions=100)
        return transformers.WhisperForConditionalGeneration(config).eval(), {"input_features": torch.randn(2, 8, 200)}
    source = {name: value.flip(1) for name, value in padded().items()}
    if name == "T5":
        distances = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 9}
        config = transformers.T5Config(**T5_SIZES, **tokens, **distances, feed_forward_proj="gated-gelu")
        model = transformers.T5ForConditionalGeneration(config).eval()
        for stack in (model.encoder, model.decoder):
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data.normal_(0, 3)
        return model, source
    config = transformers.MarianConfig(**layers, **sizes, **tokens, forced_eos_token_id=None, max_position_embeddings=128)
    return transformers.MarianMTModel(config).eval(), source


@pytest.mark.parametrize("name", ["Whisper", "Marian", "T5"])
def test_encoder_decoder_models(name: str) -> None:
    if OLD and name != "Whisper":
        pytest.skip("this version of transformers makes its masks itself there, or its attention")
    model, inputs = encoder_decoder(name)
    fast = drystone.optimize(model, tuning="estimate")
    for how in ({"num_beams": 1}, {"num_beams": 3}, {"min_new_tokens": 9, "suppress_tokens": [7, 63]}):
        want, got = (each.generate(**inputs, max_new_tokens=12, do_sample=False, **how) for each in (model, fast))
        assert got.tolist() == want.tolist()
    assert fast.prepared_encoder is not None and fast.explain().steps


@pytest.mark.parametrize("beams", [1, 3])
def test_what_an_encoder_decoder_model_returns_of_its_scores(beams: int) -> None:
    model, inputs = encoder_decoder("Whisper")
    how = {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": 5, "do_sample": False, "num_beams": beams}
    want, got = (each.generate(**inputs, **how) for each in (model, drystone.optimize(model, tuning="estimate")))
    assert type(got) is type(want) and got.sequences.tolist() == want.sequences.tolist()
    for mine, others in zip(got.scores, want.scores, strict=True):
        torch.testing.assert_close(mine, others, rtol=1e-4, atol=1e-4)


def test_bans_are_what_the_processors_do() -> None:
    from transformers.generation import logits_process as processors

    eos = torch.tensor([1, 4])
    each = [
        processors.MinLengthLogitsProcessor(7, eos),
        processors.MinNewTokensLengthLogitsProcessor(4, 5, 3),
        processors.SuppressTokensLogitsProcessor([2, 9, 11]),
        processors.SuppressTokensAtBeginLogitsProcessor([0, 5], 6),
    ]
    for length in range(4, 11):
        scores = torch.randn(2, 12)
        want, got = scores, scores.clone()
        for processor, ban in zip(each, bans_of(each) or [], strict=True):
            want = processor(torch.zeros(2, length, dtype=torch.int64), want)
            ban.apply(length, got.numpy())
        assert torch.equal(got, want)
    assert bans_of([each[0], processors.TopKLogitsWarper(3)]) is None and bans_of([]) == []


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_weights_of_few_bits(model: Any, weights: Any) -> None:
    """As the model generates on the weights that the codes stand for; its norms scale by 1, so nothing is folded into them."""
    fast, rounded = drystone.optimize(model, tuning="estimate", weights=weights, keep=["lm_head"]), copy.deepcopy(model)
    kind = Kind(int(weights[3:]), 32)
    for module in rounded.model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            codes, scales = quantised(module.weight, kind).tensors()
            module.weight.data = dequantised(kind.bits, codes, scales.float())
    ids = text(2, 9)
    want, got = both(rounded, fast, ids, do_sample=False)
    assert torch.equal(got, want)
    torch.testing.assert_close(fast(ids).logits, rounded(ids).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(native.isa() == "none", reason="no native kernels")
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rounded_activations(model: Any, weights: Any) -> None:
    exact, fast = (drystone.optimize(model, tuning="estimate", weights=weights, activations=how) for how in (None, "int8"))
    ids = text(2, 9)
    error = relative_error(fast(ids).logits, exact(ids).logits)
    found = fast.explain().rounding
    assert found.rounded == found.products and exact.explain().rounding is None
    assert 1e-4 < error < 0.05 and 1e-4 < found.error < 0.05
    assert fast.generate(ids, max_new_tokens=5, do_sample=False).shape == (2, 14)


def test_what_is_not_served_runs_as_before() -> None:
    config = transformers.MambaConfig(hidden_size=64, state_size=8, num_hidden_layers=1, vocab_size=100, **TOKENS)
    model = transformers.MambaForCausalLM(config).eval()
    with pytest.warns(drystone.DrystoneWarning, match="MambaForCausalLM generates without programs: .* takes no "):
        fast = drystone.optimize(model, tuning="estimate")
    want, got = both(model, fast, text(2, 9), do_sample=False)
    assert got.tolist() == want.tolist()
    with pytest.raises((drystone.UnsupportedError, drystone.CaptureError)):
        drystone.optimize(model, tuning="estimate", strict=True)


def test_products_that_round_x_are_compared_within_it() -> None:
    """A number's last bit may be a step of the codes there."""
    torchao = pytest.importorskip("torchao.quantization")
    model = llama(initializer_range=0.1)
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    fast = drystone.optimize(model, tuning="estimate", strict=True)
    ids = text(2, 21)
    assert 0 < relative_error(fast(ids).logits, model(ids).logits) < 0.1
    model = llama(initializer_range=0.1)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    fast = drystone.optimize(model, tuning="estimate", activations="int8", strict=True)
    assert 0 < relative_error(fast(ids).logits, model(ids).logits) < 0.1


def test_a_full_static_cache_in_compiled_calls() -> None:
    """Plans are measured while the cache has room for one token; the counter of its tokens must not go on meanwhile."""
    model = llama()
    want = model.generate(text(1, 9), max_new_tokens=4, do_sample=False)
    torch.compiler.reset()
    model.forward = torch.compile(model.forward, backend="drystone")
    got = model.generate(text(1, 9), max_new_tokens=4, do_sample=False, cache_implementation="static", disable_compile=True)
    assert got.tolist() == want.tolist()
