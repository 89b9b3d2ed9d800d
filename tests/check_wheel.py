"""Checks of what is published: ``make wheel`` calls them, and the workflow that builds wheels for all Pythons.

python tests/check_wheel.py dist/*.whl     # what is in a wheel
python tests/check_wheel.py --installed    # that what is installed works, in an environment with torch alone
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

# What the core may ask of the system. libdnnl comes with onednn-cpu-gomp, libgomp with torch: neither may be in the wheel too.
NEEDED = {
    "libdnnl.so.3",
    "libgomp.so.1",
    "libstdc++.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libc.so.6",
    "ld-linux-x86-64.so.2",
    "libpthread.so.0",
}
SHIPPED = ("drystone/py.typed", "drystone/_native.pyi", "dist-info/licenses/LICENSE", "dist-info/licenses/THIRD_PARTY.md")


def check_contents(path: Path) -> None:
    """Raises ``SystemExit`` with what is wrong."""
    with ZipFile(path) as wheel:
        names = wheel.namelist()
        missing = [wanted for wanted in SHIPPED if not any(name.endswith(wanted) for name in names)]
        require(not missing, f"{path.name} lacks {', '.join(missing)}")
        libraries = [name for name in names if ".so" in Path(name).name]
        require(len(libraries) == 1 and libraries[0].startswith("drystone/_native."), f"{path.name} holds {', '.join(libraries)}")
        require("manylinux" in path.name, f"{path.name} is not for manylinux: repair it with auditwheel")
        require(
            not any(part in name for name in names for part in ("tests/", "benchmarks/", "__pycache__")),
            "it holds more than the package",
        )
        with tempfile.TemporaryDirectory() as folder:
            dynamic = subprocess.run(
                ["readelf", "-d", wheel.extract(libraries[0], folder)], capture_output=True, text=True, check=True
            )
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.stdout.splitlines() if "(NEEDED)" in line}
    require({"libdnnl.so.3", "libgomp.so.1"} <= needed <= NEEDED, f"its core needs {', '.join(sorted(needed))}")
    require("PATH)" not in dynamic.stdout, "its core has a search path of the machine that built it")
    print(f"{path.name}: complete, {path.stat().st_size / 2**20:.1f} MB")


def check_installed() -> None:
    """A network, prepared, saved and loaded; one OpenMP and one oneDNN of ours; the command."""
    import threadpoolctl
    import torch
    from torch import nn

    import drystone
    from drystone import native

    require("site-packages" in str(drystone.__file__), f"this tests {drystone.__file__}")
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)).eval()
    x = torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(model, x, tuning="estimate", strict=True)
    torch.testing.assert_close(fast(x), model(x))
    with tempfile.TemporaryDirectory() as folder:
        drystone.save(fast, Path(folder) / "net.drystone")
        torch.testing.assert_close(drystone.load(Path(folder) / "net.drystone")(x), model(x))
    runtimes = {entry["filepath"] for entry in threadpoolctl.threadpool_info() if entry["user_api"] == "openmp"}
    require(len(runtimes) == 1, f"OpenMP runtimes in this process: {', '.join(sorted(runtimes))}")
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libdnnl" in line}
    require(len(mapped) == 1, f"oneDNN libraries in this process: {', '.join(sorted(mapped))}")
    version = subprocess.run([Path(sys.executable).with_name("drystone"), "--version"], capture_output=True, text=True, check=True)
    require(version.stdout.split() == ["drystone", drystone.__version__], f"drystone --version says {version.stdout!r}")
    print(f"drystone {drystone.__version__} works on Python {sys.version.split()[0]}, torch {torch.__version__}, {native.isa()}")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"check_wheel: {otherwise}")


if __name__ == "__main__":
    if "--installed" in sys.argv:
        check_installed()
    elif len(sys.argv) < 2:
        raise SystemExit(__doc__)
    else:
        for name in sys.argv[1:]:
            check_contents(Path(name))
