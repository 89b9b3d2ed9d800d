"""Encoders of transformers in few layers: all of each runs natively; texts with padding as users have it."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import FLOAT32_LIMIT, bfloat16_limit, relative_error
from drystone import native

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(native.isa() == "none", reason="everything runs on ATen")

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT: dict[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "DistilBert": {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "Albert": {**SIZES, "embedding_size": 16},
    "Electra": {**SIZES, "embedding_size": 16},
    "MPNet": SIZES,
    "DebertaV2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "T5Encoder": {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "GPT2": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
    "Llama": {**SIZES, "num_key_value_heads": 2, "use_cache": False},
    "CLIPText": {**SIZES, "eos_token_id": 2},
}
PATCHES = {"image_size": 32, "patch_size": 8, **{key: SIZES[key] for key in SIZES if key != "vocab_size"}}
IMAGES: dict[str, dict[str, Any]] = {
    "ViT": PATCHES,
    "DeiT": PATCHES,
    "Beit": {**PATCHES, "use_relative_position_bias": True},
    "Dinov2": {**PATCHES, "layerscale_value": 0.5},
    "CLIPVision": PATCHES,
    "Swin": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    "Segformer": {"hidden_sizes": [8, 16, 32, 32], "num_attention_heads": [1, 2, 2, 4], "depths": [1, 1, 1, 1]},
}
SOUND: dict[str, dict[str, Any]] = {
    "WhisperEncoder": {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "num_mel_bins": 8},
    "Wav2Vec2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": [16] * 3,
        "conv_kernel": [10, 3, 3],
        "conv_stride": [5, 2, 2],
        "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
}
MODELS = {**TEXT, **IMAGES, **SOUND}


@cache
def load(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name.removesuffix('Encoder')}Config")(**MODELS[name])
    if name == "WhisperEncoder":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder(config).eval(), {"input_features": torch.randn(2, 8, 2 * config.max_source_positions)}
    model = getattr(transformers, f"{name}Model")(config).eval()
    if name in IMAGES:
        return model, {"pixel_values": torch.randn(2, 3, 32, 32)}
    if name in SOUND:
        return model, {"input_values": torch.randn(2, 900)}
    ids = torch.randint(3, 99, (2, 9))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 1, 0
    return model, {"input_ids": ids, "attention_mask": mask}


def results(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [value for value in model(**inputs).values() if isinstance(value, torch.Tensor)]


def optimized(name: str, **options: Any) -> Any:
    model, inputs = load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", drystone.DrystoneWarning)
        return drystone.optimize(model, example_kwargs=inputs, tuning="estimate", **options)


@pytest.mark.parametrize("name", MODELS)
def test_float32(name: str, no_tuning_cache: None) -> None:
    model, inputs = load(name)
    fast = optimized(name)
    assert not fast.explain().segments
    exact = results(copy.deepcopy(model).double(), {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()})
    for got, want in zip(results(fast, inputs), exact, strict=True):
        assert relative_error(got, want) <= FLOAT32_LIMIT
    # Another padding, the same program.
    inputs = {key: value.flip(0) for key, value in inputs.items()}
    for got, want in zip(results(fast, inputs), results(model, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16(name: str, no_tuning_cache: None) -> None:
    model, inputs = load(name)
    fast = optimized(name, dtype=torch.bfloat16)
    assert not fast.explain().segments
    with torch.autocast("cpu", torch.bfloat16):
        lowered = results(model, inputs)
    for got, want, eager in zip(results(fast, inputs), results(model, inputs), lowered, strict=True):
        assert relative_error(got, want) <= bfloat16_limit(relative_error(eager, want))


def test_positions_are_not_rounded_to_bfloat16(no_tuning_cache: None) -> None:
    model = copy.deepcopy(load("Llama")[0])
    for name, parameter in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            parameter.data *= 30  # so that it matters where tokens stand
    inputs = {"input_ids": torch.randint(3, 99, (1, 16)), "position_ids": torch.arange(1000, 1016)[None]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", drystone.DrystoneWarning)
        fast = drystone.optimize(model, example_kwargs=inputs, tuning="estimate", dtype=torch.bfloat16)
    (got,), (want,) = results(fast, inputs), results(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        (eager,) = results(model, inputs)
    assert relative_error(got, want) <= bfloat16_limit(relative_error(eager, want))


def test_ids_out_of_range(no_tuning_cache: None) -> None:
    _, inputs = load("Bert")
    fast = optimized("Bert")
    for bad in (99, -1):
        with pytest.raises(IndexError):
            fast(**inputs | {"input_ids": inputs["input_ids"].clone().fill_(bad)})
