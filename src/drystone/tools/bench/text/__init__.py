"""``drystone bench … --generate 64``: a causal language model's prefill and decode, beside its own and other engines'."""
