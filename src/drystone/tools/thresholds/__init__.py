"""``drystone thresholds``: whether the sizes from which drystone serves torch's operators are right on this machine.

The files in ``tools.ops.operators`` have a few calls of torch's for each threshold, at any size; ``search`` times them around the
figure in force, once served by drystone and once by torch; ``command`` shows what follows.
"""
