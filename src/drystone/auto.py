"""``import drystone.auto``, or ``python -m drystone.auto script.py ...``: for programs that can't be edited.

Faster operators under torch's own names, and TorchScript modules that optimise themselves at their first call.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import drystone

drystone.enable(torchscript=True)


def _run() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python -m drystone.auto script.py [its arguments]: expected the path of a Python program")
    del sys.argv[0]
    program = Path(sys.argv[0])
    if not program.is_file():
        sys.exit(f"drystone.auto: there is no file {str(program)!r}; expected the path of a Python program")
    sys.path[0] = str(program.resolve().parent)
    runpy.run_path(str(program), run_name="__main__")


if __name__ == "__main__":
    _run()
