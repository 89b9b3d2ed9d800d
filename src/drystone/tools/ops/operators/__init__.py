"""How each operator is measured: a file an operator or a few alike, found by being here.

``OPERATORS`` has a function for each name that ``drystone ops`` takes: it yields the cases of a dtype. ``PROBES`` are the calls
by which ``drystone thresholds`` checks from which size on drystone serves the operator.
"""
