"""Code in a process of its own, which has imported torch and nothing of drystone: a fork of one that waits for such code.

To import torch takes two seconds or more, which a process that is started for a test would take each time.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def run(
    code: str, *arguments: str, check: bool = True, timeout: int = 120, filter: Any = "default", **environment: str
) -> subprocess.CompletedProcess[str]:
    """What ``python -W FILTER -c CODE ARGUMENTS`` does, in this folder, with this environment and what is added to it.

    Variables that torch reads when it is imported (those of OpenMP) are as they were at the first call.
    """
    server = _server()
    assert server.stdin and server.stdout
    with tempfile.TemporaryDirectory() as folder:
        outputs = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        request = [code, arguments, os.getcwd(), {**os.environ, **environment}, filter, timeout, outputs]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the process that forks has ended"
        ended = int(answer)
        shown = [Path(output).read_text() for output in outputs]
    assert ended == 0 or not check, f"ended with {ended}:\n{''.join(shown)[-5000:]}"
    return subprocess.CompletedProcess([code, *arguments], ended, *shown)


@functools.cache
def _server() -> subprocess.Popen[str]:
    import drystone

    path = os.pathsep.join([str(Path(drystone.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])  # the same packages as here
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    atexit.register(server.communicate)  # which ends its input, and so it
    return server


def _serve(requests: Iterable[str]) -> None:
    for request in requests:
        code, arguments, folder, environment, filter, timeout, outputs = json.loads(request)
        child = os.fork()
        if child:
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.write(1, f"{ended}\n".encode())
            continue
        signal.alarm(timeout)  # ends this process, whatever it does
        for number, file in enumerate([os.devnull, *outputs]):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        warnings.simplefilter(filter)
        sys.argv = ["-c", *arguments]
        sys.path[0] = ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
        return


if __name__ == "__main__":
    import torch.export._trace  # noqa: F401 (what a capture takes, and most of the time)

    gc.freeze()  # what is there now is not looked at again, which would take a child most of a second when it ends
    _serve(sys.stdin)
