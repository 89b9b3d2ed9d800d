"""``python -m drystone``: the command ``drystone``."""

from drystone.cli import main

main()
