"""``drystone bench … --generate 64``: a causal language model's prefill and decode, beside the model's own and llama.cpp's."""
