"""Work in a forked child, which may raise, die or hang."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
from collections.abc import Callable


def child(work: Callable[[], object], limit: float = 60, threads: int | None = None) -> str:
    """What ``work`` comes to: "ok", an error as "Type: message", "hangs", or the signal that ends it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "crashed"
        try:
            faulthandler.disable()  # a signal is an answer here, and no fault to report
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            work()
            said = "ok"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, said.encode()[:999])
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        if not select.select([pipe], [], [], limit)[0]:
            os.kill(pid, signal.SIGKILL)
        said = pipe.read().decode(errors="replace")
    status = os.waitpid(pid, 0)[1]
    return said or ("hangs" if os.WTERMSIG(status) == signal.SIGKILL else f"signal {os.WTERMSIG(status)}")
