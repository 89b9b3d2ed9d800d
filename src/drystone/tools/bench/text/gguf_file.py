"""A Llama of transformers written as GGUF, for llama.cpp and OpenVINO. Needs the package ``gguf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Types of weights, by drystone's names, and as the file says them of most of its weights.
KINDS = {"float32": "F32", "bfloat16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "Q4_0": 2}


def write(model: Any, path: Path, kind: str) -> None:
    """Matrices as ``kind`` (F32, F16, Q8_0, Q4_0), the rest as float32; a vocabulary of words that only numbers tell apart."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(3, config.vocab_size))])
    writer.add_token_types([2, 3, 3, *[1] * (config.vocab_size - 3)])
    writer.add_token_merges(["w 3"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    quantised = gguf.GGMLQuantizationType[kind]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        data = tensor.detach().float()
        for part, count in (("q_proj", heads), ("k_proj", key_heads)):
            if part in name:  # llama.cpp turns neighbours, transformers halves
                data = data.reshape(count, 2, -1, data.shape[1]).transpose(1, 2).reshape(data.shape)
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target is not None, name
        array = data.contiguous().numpy()
        if data.dim() == 2:
            writer.add_tensor(target, gguf.quants.quantize(array, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(target, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
