"""``drystone run``: which cores, which environment, and processes that behave as if they had been started alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drystone import cores
from drystone.cli import application
from drystone.cores import Core, divide
from drystone.tools.run.instances import command_of, environment_of
from drystone.tools.run.tune import divisions

OWN = sorted(os.sched_getaffinity(0))
two_cores = pytest.mark.skipif(len(cores.cores()) < 2, reason="one core")


def said(*arguments: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    answer = CliRunner().invoke(application("run"), ["run", *arguments], env={"COLUMNS": "200", "LD_PRELOAD": "", **(env or {})})
    assert answer.exit_code == code, answer.output
    return answer.output


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "drystone", "run", "--use-default-allocator", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment)


# -- instances ---------------------------------------------------------------------------------------------------------------

SIX = [Core(number, number, int(number >= 3)) for number in range(6)]  # three cores a node


@pytest.mark.parametrize(
    ("instances", "each", "within_nodes", "expected"),
    [
        (1, None, False, [[0, 1, 2, 3, 4, 5]]),
        (2, None, False, [[0, 1, 2], [3, 4, 5]]),
        (4, None, False, [[0], [1], [2], [3]]),
        (None, 2, False, [[0, 1], [2, 3], [4, 5]]),
        (None, 2, True, [[0, 1], [3, 4]]),
        (2, None, True, [[0, 1, 2], [3, 4, 5]]),
        (2, 2, False, [[0, 1], [2, 3]]),
    ],
)
def test_division(instances: int | None, each: int | None, within_nodes: bool, expected: list[list[int]]) -> None:
    places = divide(SIX, instances, each, within_nodes=within_nodes)
    assert [[core.number for core in place] for place in places] == expected


@pytest.mark.parametrize(("instances", "each", "within_nodes"), [(7, None, False), (None, 7, False), (3, 2, True), (4, 2, False)])
def test_what_does_not_fit(instances: int | None, each: int | None, within_nodes: bool) -> None:
    with pytest.raises(ValueError, match="do not fit on 6 cores"):
        divide(SIX, instances, each, within_nodes=within_nodes)


def test_what_the_user_has_set_stays() -> None:
    library = Path("/lib/libjemalloc.so.2")
    assert environment_of(3, None, {}) == {"OMP_NUM_THREADS": "3"}
    given = {"OMP_NUM_THREADS": "1", "MALLOC_CONF": "mine", "LD_PRELOAD": "libmine.so"}
    assert environment_of(3, library, given) == {"LD_PRELOAD": "/lib/libjemalloc.so.2:libmine.so"}
    assert "background_thread:true" in environment_of(3, library, {})["MALLOC_CONF"]


def test_python_files_run_by_this_python() -> None:
    assert command_of(["serve.py", "--port", "1"]) == (sys.executable, "-u", "serve.py", "--port", "1")
    assert command_of(["serve"], module=True) == (sys.executable, "-u", "-m", "serve")
    assert command_of(["serve.py"], no_python=True) == ("serve.py",)
    assert command_of(["python", "serve.py"]) == ("python", "serve.py")


def test_divisions_that_are_tried() -> None:
    assert divisions(6) == [(6, 1), (3, 2), (1, 4), (1, 6)]
    assert divisions(1) == [(1, 1)]


# -- the command -------------------------------------------------------------------------------------------------------------


def test_dry_run() -> None:
    line = said("--core-list", str(OWN[0]), "--use-default-allocator", "--dry-run", "train.py", "--lr", "1")
    assert line == f"OMP_NUM_THREADS=1 taskset -c {OWN[0]} {sys.executable} -u train.py --lr 1\n"
    assert "OMP_NUM_THREADS" not in said("--dry-run", "a", env={"OMP_NUM_THREADS": "5"})
    assert "taskset" not in said("--disable_taskset", "--dry-run", "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--core-list", "99999"], "no core 99999"),
        (["--core-list", "x"], "no list of cores"),
        (["--ninstances", "0"], "Invalid value for '--ninstances'"),
        (["--ninstances", "99999"], "do not fit"),
        (["--node-id", "999"], "no node 999"),
        (["--rank", "5", "--ninstances", "1"], "instances 0 to 0"),
        (["--latency-mode", "--throughput-mode"], "one of the modes"),
        (["--enable-tcmalloc", "--enable-jemalloc"], "one allocator"),
        (["--tune", "("], "no regular expression"),
        (["--tune", "figure"], "0 groups"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    assert message in " ".join(said(*arguments, "true", code=2).split())


def test_one_instance_takes_the_place_of_the_launcher() -> None:
    code = "import os, sys; print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], os.getpid()); sys.exit(7)"
    environment = {"OMP_NUM_THREADS": "3"}
    process = started("--core-list", str(OWN[-1]), sys.executable, "-c", code, **environment)
    output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == (f"[{OWN[-1]}] 3 {process.pid}\n", 7)


def test_a_program_that_does_not_exist() -> None:
    process = started("no-such-program")
    assert "no-such-program: No such file" in process.communicate(timeout=60)[0]
    assert process.returncode == 2


@two_cores
def test_several_instances(tmp_path: Path) -> None:
    """Lines are prefixed, and one that fails leaves the other alone."""
    code = "import os, sys, time; one = len(os.sched_getaffinity(0)); fails = min(os.sched_getaffinity(0)) == int(sys.argv[1]); "
    code += "time.sleep(0 if fails else 0.3); print(one, 'cores'); sys.exit(3 * fails)"
    first = cores.cores()[0].number
    options = ("--ninstances", "2", "--ncores-per-instance", "1", "--log-path", str(tmp_path / "logs"))
    process = started(*options, sys.executable, "-c", code, str(first))
    output, _ = process.communicate(timeout=60)
    assert sorted(output.splitlines()) == ["[0] 1 cores", "[1] 1 cores"]
    assert process.returncode == 3
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name.rsplit("_cores")[0] for log in logs] == ["run_instance_0", "run_instance_1"]
    assert {log.read_text() for log in logs} == {"1 cores\n"}


@two_cores
def test_signals_reach_all_instances() -> None:
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); print('up', flush=True); signal.pause()"
    process = started("--ninstances", "2", sys.executable, "-c", code)
    assert process.stdout is not None
    assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] up\n", "[1] up\n"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 5


def test_tuning() -> None:
    """The figure is larger where there are fewer cores, so one core each is the best."""
    code = "import os; print('speed: 1'); print('speed:', 10 / len(os.sched_getaffinity(0)))"
    output = said("--use-default-allocator", "--tune", r"speed: ([\d.]+)", sys.executable, "-c", code)
    count = min(len(cores.cores()), int(cores.quota() or 1 << 20) or 1)
    assert f"--ninstances {count} --ncores-per-instance 1" in output
    failed = said("--tune", r"speed: ([\d.]+)", sys.executable, "-c", "print('nothing')", code=1)
    assert "printed nothing like" in failed
