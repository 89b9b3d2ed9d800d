"""Encoders of transformers in their published sizes, with random weights drawn as each model draws its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class LastHidden(nn.Module):
    """An encoder that returns its last hidden state alone, which every contender can convert."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)[0]


class Text(nn.Module):
    """The same of token ids and a mask that hides padding, as tokenizers give them: int64 (N, T) both."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]


def bert_base() -> nn.Module:
    """BERT-base (Devlin et al., 2019)."""
    from transformers import BertConfig, BertModel

    return Text(BertModel(BertConfig(), add_pooling_layer=False))


def distilbert() -> nn.Module:
    """DistilBERT (Sanh et al., 2019)."""
    from transformers import DistilBertConfig, DistilBertModel

    return Text(DistilBertModel(DistilBertConfig()))


def roberta_base() -> nn.Module:
    """RoBERTa-base (Liu et al., 2019)."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    return Text(RobertaModel(config, add_pooling_layer=False))


def vit_b_16() -> nn.Module:
    """ViT-B/16 (Dosovitskiy et al., 2021)."""
    from transformers import ViTConfig, ViTModel

    return LastHidden(ViTModel(ViTConfig(), add_pooling_layer=False))


def swin_t() -> nn.Module:
    """Swin-T (Liu et al., 2021)."""
    from transformers import SwinConfig, SwinModel

    return LastHidden(SwinModel(SwinConfig(), add_pooling_layer=False))


def whisper_base() -> nn.Module:
    """The encoder of Whisper base (Radford et al., 2022)."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes: dict[str, Any] = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
    return LastHidden(WhisperEncoder(WhisperConfig(**sizes)))


def wav2vec2_base() -> nn.Module:
    """wav2vec 2.0 base (Baevski et al., 2020)."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    return LastHidden(Wav2Vec2Model(Wav2Vec2Config()))
