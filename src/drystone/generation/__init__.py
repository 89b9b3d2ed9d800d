"""Generation of text: a causal language model's programs, caches of keys and values, and attention over them."""
