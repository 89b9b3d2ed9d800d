"""Caps on the instruction set, and the choice of oneDNN, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import fresh_process
from drystone import native

COMPARE = """
import warnings
warnings.simplefilter("error")  # running on ATen because the CPU has nothing else is not worth a warning
warnings.filterwarnings("ignore", "other work took")  # as other tests do
import torch, drystone
from drystone.preparer import programs_of
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(16, 17, 1), nn.GroupNorm(1, 17),
    nn.Flatten(), nn.Linear(17 * 20, 10), nn.Softmax(1),
).eval()
x = torch.randn(2, 3, 8, 10)
with torch.no_grad():
    want = model.double()(x.double())
    model.float()
fast = drystone.optimize(model, (x,), tuning=TUNING)
for result in (fast(x), programs_of(fast).current[1].program([x])[0]):
    error = ((result - want).norm() / want.norm()).item()
    assert error < 2e-6, error
explanation = fast.explain()
print(explanation.isa, len(explanation.segments), len(explanation.steps))
"""


def run(code: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    return fresh_process.run(code, check=check, DRYSTONE_CACHE="off", **environment)


@pytest.mark.parametrize("tuning", ["measure", "estimate"])
def test_without_avx2_everything_runs_on_aten(tuning: str) -> None:
    isa, segments, _steps = run(COMPARE.replace("TUNING", repr(tuning)), DRYSTONE_MAX_ISA="none").stdout.split()
    assert isa == "none"
    assert int(segments) >= 6


def test_without_avx2_results_that_are_given_twice_are_copied() -> None:
    code = """
import torch, drystone
from torch import nn

class Twice(nn.Module):
    def forward(self, x):
        y = x.softmax(1)
        return y, y, x, x.transpose(0, 1)

x = torch.randn(2, 3)
for given, expected in zip(drystone.optimize(Twice().eval(), x, tuning="estimate")(x), Twice()(x), strict=True):
    torch.testing.assert_close(given, expected)
"""
    run(code, DRYSTONE_MAX_ISA="none")


MOVED = """
import torch, drystone
from drystone.preparer import programs_of
class Same(torch.nn.Module):
    def forward(self, *tensors):
        return [*tensors, tensors[0] + 1]
dtypes = "int64 int32 int16 int8 uint8 bool float16 float64 bfloat16 float32 complex64".split()
given = [torch.arange(-3, 9).view(3, 1, 4).to(getattr(torch, dtype)) for dtype in dtypes]
for one, given in ((x, x if x.is_floating_point() else ~x if x.dtype == torch.bool else x * 3) for x in given):
    fast = drystone.optimize(Same().eval(), (one, one), tuning="estimate")
    for result in (fast(one, given), programs_of(fast).current[1].program([one, given])):
        assert torch.equal(result[0], one) and torch.equal(result[1], given) and result[1].dtype == given.dtype, given.dtype
"""


def test_tensors_of_any_dtype_go_in_and_out_without_avx2() -> None:
    run(MOVED, DRYSTONE_MAX_ISA="none")


ORDER = ("avx2", "avx512", "amx")


@pytest.mark.parametrize("cap", [cap for cap in ORDER if native.isa() in ORDER and ORDER.index(cap) <= ORDER.index(native.isa())])
def test_cap_is_obeyed(cap: str) -> None:
    isa, segments, _steps = run(COMPARE.replace("TUNING", "'estimate'"), DRYSTONE_MAX_ISA=cap).stdout.split()
    assert isa == cap
    assert int(segments) == 0


# For each level, its own features, and the flags that Linux gives for each.
LEVELS = {
    "none": {},
    "avx2": {"avx2": "avx2 fma f16c", "avx_vnni": "avx2 avx_vnni"},
    "avx512": {
        "avx512": "avx2 avx512f avx512bw avx512dq avx512vl",
        "avx512_vnni": "avx512f avx512_vnni",
        "avx512_bf16": "avx512f avx512_bf16",
        "avx512_fp16": "avx512f avx512_fp16",
    },
    "amx": {"amx_bf16": "avx512f amx_tile amx_bf16", "amx_int8": "avx512f amx_tile amx_int8"},
}


@pytest.mark.parametrize("cap", LEVELS)
def test_features_are_the_cpus_up_to_the_cap(cap: str) -> None:
    flags = set(re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0].split())
    up_to = list(LEVELS)[: list(LEVELS).index(cap) + 1]
    expected = [name for level in up_to for name, needed in LEVELS[level].items() if flags.issuperset(needed.split())]
    code = "from drystone import native\nprint(native.isa(), *native.features(), native.multiplies_bfloat16(), native.blocked())"
    isa, *features, multiplies, blocked = run(code, DRYSTONE_MAX_ISA=cap).stdout.split()
    assert features == expected
    assert isa == max((level for level in up_to if set(LEVELS[level]) & set(features)), key=list(LEVELS).index, default="none")
    assert multiplies == str("avx512_bf16" in expected or "amx_bf16" in expected)
    assert blocked == ("blocked16" if "avx512" in expected else "blocked8")


def test_levels_are_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "how_it_works.md").read_text()
    for level, features in LEVELS.items():
        added = ", ".join(f"`{name}`" for name in features) or "nothing"
        assert f"| `{level}` | {added} |" in page


def test_cap_reaches_onednn() -> None:
    code = (
        "import torch, drystone\n"
        "fast = drystone.optimize(torch.nn.Conv2d(32, 32, 3).eval(), torch.randn(1, 32, 9, 9), tuning='estimate', formats='channels_last')\n"
        "print(' '.join(step.implementation for step in fast.explain().steps))"
    )
    shown = run(code, DRYSTONE_MAX_ISA="avx2").stdout
    assert "avx512" not in shown and "avx2" in shown


@pytest.mark.parametrize("value", ["sse", "AVX-2048", "2"])
def test_wrong_cap_is_refused(value: str) -> None:
    done = run("import drystone\ndrystone.optimize", check=False, DRYSTONE_MAX_ISA=value)
    assert done.returncode != 0
    said = re.search(r"^drystone\.errors\.DrystoneError: .*", done.stderr, re.MULTILINE)
    assert said, done.stderr
    for word in ("DRYSTONE_MAX_ISA", value, "none", "avx2", "avx512", "amx"):
        assert word in said[0], said[0]


def test_wrong_onednn_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "libdnnl.so.3"
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"\x7fELF not a library")
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (missing, damaged, folder):
        done = run("import drystone\ndrystone.optimize", check=False, DRYSTONE_ONEDNN=str(path))
        assert done.returncode != 0
        errors = [line for line in done.stderr.splitlines() if line.startswith("drystone.errors.DrystoneError:")]
        assert errors, done.stderr
        for word in ("DRYSTONE_ONEDNN", str(path), "libdnnl.so.3", "pip install onednn-cpu-gomp"):
            assert word in errors[-1]


def test_library_that_is_not_onednn_is_refused(tmp_path: Path) -> None:
    """One that loads, but holds nothing of oneDNN."""
    import ctypes.util

    other = ctypes.util.find_library("m")
    assert other is not None
    done = run("import drystone\ndrystone.optimize", check=False, DRYSTONE_ONEDNN=other)
    assert done.returncode != 0
    assert "drystone.errors.DrystoneError:" in done.stderr and other in done.stderr, done.stderr


def test_onednn_of_choice_is_used(tmp_path: Path) -> None:
    given = native.onednn_path()
    copy = tmp_path / "libdnnl.so.3"
    copy.symlink_to(given)
    code = "import drystone.native as n; print(n.onednn_path()); print(n.onednn_version())"
    for choice in (str(copy), str(tmp_path)):
        path, version = run(code, DRYSTONE_ONEDNN=choice).stdout.split()
        assert path == str(copy) and version == native.onednn_version()
