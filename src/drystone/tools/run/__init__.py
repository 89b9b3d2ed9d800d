"""The launcher ``drystone run``."""
