"""``drystone bench``: models against eager PyTorch and against the other ways to run them on a CPU.

Each contender lives in a process of its own (``worker``), prepares the same model, and is timed in short bursts in turn with
the others (``rounds``), because machines drift by more than contenders differ. What counts is the median over the rounds
of the ratio within a round (``results``); ``report`` and ``plot`` show it, and JSON keeps it with the ``environment``.
"""
