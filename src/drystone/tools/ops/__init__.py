"""``drystone ops``: single operators against the other libraries' and against what the machine can do.

An operator is a file in ``operators`` that yields its ``case``s; ``catalogue`` has all. ``measure`` times the
contenders of a case in turn, ``limits`` finds the machine's own rates in the same run, ``results`` keeps the rounds as JSON;
``report`` and ``plot`` show what follows from them.
"""
