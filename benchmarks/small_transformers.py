"""Every architecture of transformers' base-model mapping in a small size, with random weights and inputs; nothing is downloaded.

Sizes are made small by the names that configurations give them. Some architectures do not fit together that way (a fixed split
of the head's width, a backbone from another library): those raise ``NotBuilt``.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from model_coverage import spread_weights
from torch import nn

# By name of the field. What a configuration derives from these it derives itself.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "hidden_dim", "encoder_hidden_dim", "embedding_size"), 64),
    **dict.fromkeys(("dim", "projection_dim", "decoder_hidden_size", "embedding_dim", "projection_hidden_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "mlp_dim"), 128),
    **dict.fromkeys(("decoder_intermediate_size", "d_inner", "conv_channels", "ffn_hidden_size"), 128),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "fusion_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "decoder_num_hidden_layers", "num_hidden_groups"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "decoder_num_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_target_positions", "context_length"), 128),
    **dict.fromkeys(("image_size", "img_size"), 64),
    "vocab_size": 256,
    "max_source_positions": 64,
    "num_queries": 10,
    "num_frames": 8,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
# Lists with an entry a stage: one layer in each, an eighth of the width.
ONE_A_STAGE = {"depths", "depth", "num_blocks", "layers"}
WIDTHS = {"hidden_sizes", "embed_dim", "embed_dims", "neck_hidden_sizes", "conv_dim", "stem_channels"}
# What the names do not say.
OVERRIDES: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {"max_length": 128},
    "beit": {"image_size": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "openai-gpt": {"n_positions": 128},
    "regnet": {"groups_width": 8},
    "swin": {"embed_dim": 24, "window_size": 2},
    "swinv2": {"embed_dim": 24, "window_size": 2},
    "donut-swin": {"embed_dim": 24, "window_size": 2, "num_heads": [3, 6, 12, 24]},
    "maskformer-swin": {"embed_dim": 24, "window_size": 2},
    "swin2sr": {"embed_dim": 24, "num_heads": [3, 3], "depths": [1, 1], "window_size": 2},
    "focalnet": {"embed_dim": 24},
    "wav2vec2": {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "hubert": {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "reformer": {"is_decoder": False},
    "mobilebert": {"intra_bottleneck_size": 32, "true_hidden_size": 32, "embedding_size": 32},
}
LARGEST = 60_000_000  # parameters: a size that was not made small
TOKENS = 16
SAMPLES = 6400  # of a waveform


class NotBuilt(Exception):
    """The architecture does not come small from its configuration's names, or its inputs are not known; says why."""


def architectures() -> list[str]:
    """The names of all architectures."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return list(dict.fromkeys(MODEL_MAPPING_NAMES))


def load(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The model in eval mode, seeded, and its inputs by name."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    torch.manual_seed(0)
    try:
        config = small_config(CONFIG_MAPPING[name], name)
        kind = MODEL_MAPPING[type(config)]
        kind = kind[0] if isinstance(kind, tuple) else kind
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in kind(config).parameters())
        if size > LARGEST:
            raise NotBuilt(f"{size / 1e6:.0f} million parameters are left")
        model = kind(config).eval()
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}") from error
    spread_weights(model)
    return model, inputs_for(model, config)


def small_config(kind: Any, name: str = "") -> Any:
    from transformers import CONFIG_MAPPING

    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        default = field.default
        if isinstance(default, (list, tuple)):
            if field.name in ONE_A_STAGE:
                values[field.name] = [1] * len(default)
            elif field.name in WIDTHS:
                values[field.name] = [max(8, width // 8) for width in default]
        elif field.name in SMALL:
            values[field.name] = SMALL[field.name]
    for field, sub in (kind.sub_configs_defaults or {}).items():
        if not sub.optional:
            part = sub.config_class if sub.model_type is None else CONFIG_MAPPING[sub.model_type]
            values[field] = small_config(part, part.model_type)
    return kind(**values | OVERRIDES.get(name, {}))


def inputs_for(model: nn.Module, config: Any) -> dict[str, Any]:
    """Inputs by name: what ``forward`` asks for and is known here."""
    accepted = inspect.signature(model.forward).parameters
    parts = [config, *(getattr(config, sub) for sub in type(config).sub_configs if getattr(config, sub, None) is not None)]

    def of(field: str, default: Any) -> Any:
        return next((value for part in parts if (value := getattr(part, field, None)) is not None), default)

    inputs: dict[str, Any] = {}
    main = getattr(model, "main_input_name", "input_ids")
    joint = {"input_ids", "pixel_values"} <= set(accepted)
    tokens = torch.randint(5, max(6, min(of("vocab_size", 256), 250)), (1, TOKENS))
    # Placeholders for images among the tokens would have to be counted out: such models run on text alone.
    pictured = any(hasattr(config, field) for field in ("image_token_id", "image_token_index"))
    if main == "input_ids" or joint:
        inputs["input_ids"] = tokens
        if "attention_mask" in accepted:
            inputs["attention_mask"] = torch.ones_like(tokens)
    if main == "pixel_values" or (joint and not pictured):
        inputs["pixel_values"] = pixels(model, of)
    if main == "input_values":
        if hasattr(config, "max_length") and hasattr(config, "num_mel_bins"):
            inputs[main] = torch.randn(1, config.max_length, config.num_mel_bins)
        else:
            channels = of("audio_channels", 0)
            inputs[main] = torch.randn(1, channels, SAMPLES) if channels else torch.randn(1, SAMPLES)
    if main == "input_features":
        inputs[main] = features(config, of)
    if not inputs or main not in inputs:
        raise NotBuilt(f"nothing is known here of its input {main!r}")
    for name, parameter in accepted.items():
        needed = parameter.default is inspect.Parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if name == "decoder_input_ids" and getattr(config, "is_encoder_decoder", False):
            inputs[name] = tokens[:, :8]
        elif needed and name not in inputs:
            raise NotBuilt(f"nothing is known here of its input {name!r}")
    inputs |= {name: value for name, value in {"use_cache": False, "return_dict": True}.items() if name in accepted}
    return inputs


def pixels(model: nn.Module, of: Any) -> torch.Tensor:
    size = of("image_size", 64)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    image = torch.randn(1, of("num_channels", 3), height, width)
    video = any(hasattr(model.config, field) for field in ("tubelet_size", "num_frames")) and of("num_frames", None)
    return image.unsqueeze(1).repeat(1, of("num_frames", 1), 1, 1, 1) if video else image


def features(config: Any, of: Any) -> torch.Tensor:
    """Spectra: (1, bins, frames) where the encoder convolves over frames, else (1, frames, bins)."""
    bins = of("num_mel_bins", None) or of("feature_projection_input_dim", None) or of("input_feat_per_channel", 80)
    if hasattr(config, "max_source_positions") and not hasattr(config, "input_feat_per_channel"):
        return torch.randn(1, bins, 2 * config.max_source_positions)
    return torch.randn(1, 64, bins)
