"""The form of what the doctor says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``advice`` says what it costs and how to mend it; it is empty where all is well.

    ``bad``: models run several times slower than they could, or not at all.
    """

    topic: str
    state: str
    advice: str = ""
    bad: bool = False
