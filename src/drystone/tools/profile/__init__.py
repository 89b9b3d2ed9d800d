"""``drystone profile``: where a model's time goes."""
