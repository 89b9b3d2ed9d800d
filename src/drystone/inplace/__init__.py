"""Optimisation in place: ``optimize_``, ``restore``, ``optimizing`` and ``explain``."""
