"""The benchmark of operators: the figures that follow from what it measured, its file and its picture."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from drystone.tools.ops.plot import plot
from drystone.tools.ops.report import show_operator
from drystone.tools.ops.results import Measurement, ResultFile, Run, Timing, summary


def run(threads: int = 2, date: str = "2026-01-01", **facts: str) -> Run:
    return Run(date, threads, {"cpu": "c"} | facts, {"float32": 100.0, "bfloat16": 200.0, "read": 20.0})


def measured(rounds: dict[str, list[float]], m: int = 1, **fields) -> Measurement:
    timings = [Timing(name, None if values else "it broke", 1e-7, values) for name, values in rounds.items()]
    values = {
        "operator": "gemm",
        "tag": "odd",
        "dtype": "float32",
        "sizes": {"M": m, "N": 2},
        "axis": "M",
        "group": "few" if m < 10 else "many",
        "flops": 50_000,
        "bytes": 40_000,
        "copies": 3,
        "run": run(),
    } | fields
    return Measurement(timings=timings, **values)


class TestArithmetic:
    def test_ratio_is_the_median_of_the_rounds_ratios(self):
        # The machine slows down tenfold in the last two rounds; in each round the other takes twice as long, in one five times.
        drifting = measured({"drystone": [1, 1, 1, 10, 10], "torch": [2, 2, 5, 20, 20]})
        assert drifting.ratio("torch") == 2 and drifting["torch"].microseconds == 5

    def test_best_other(self):
        assert measured({"drystone": [2], "onednn": [3], "torch": [5], "openvino": []}).best_other_over_own == 1.5
        assert measured({"drystone": [2], "onednn": [1]}).best_other_over_own == 0.5
        assert measured({"drystone": [], "torch": [1]}).best_other_over_own is None
        assert measured({"drystone": [1], "torch": []}).best_other_over_own is None

    def test_shares_of_the_limits(self):
        # 50 000 in 1 us are 50 GFLOP/s of 100; 40 000 bytes in 4 us are 10 GB/s of 20.
        assert measured({"drystone": [1]}).arithmetic_share == pytest.approx(0.5)
        assert measured({"drystone": [4]}).reading_share == pytest.approx(0.5)

    def test_limits_of_both_ends(self):
        some = Run("d", 2, {})
        some.raise_limits({"float32": 3.0, "read": 2.0})
        some.raise_limits({"float32": 1.0, "read": 4.0})
        assert some.limits == {"float32": 3.0, "read": 4.0}

    def test_summary(self):
        rows = [
            measured({"drystone": [1], "onednn": [2], "torch": [9]}, 16),
            measured({"drystone": [1], "onednn": [9], "torch": [8]}, 16),
            measured({"drystone": [1], "onednn": [1], "torch": [2]}, 1),
            measured({"drystone": [], "onednn": [1], "torch": [2]}, 4),
            measured({"drystone": [1], "onednn": [3], "torch": [3]}, 1, dtype="bfloat16"),
            measured({"drystone": [1], "onednn": [5], "torch": [5]}, 1, run=run(threads=1)),
        ]
        found = [(mean.dtype, mean.threads, mean.over, mean.cases, mean.best_other_over_own) for mean in summary(rows)]
        assert found == [
            ("float32", 2, "many", 2, pytest.approx(4)),
            ("float32", 2, "few", 1, pytest.approx(1)),
            ("float32", 2, "M = 1", 1, pytest.approx(1)),
            ("float32", 2, "M = 16", 2, pytest.approx(4)),
            ("bfloat16", 2, "few", 1, pytest.approx(3)),
            ("bfloat16", 2, "M = 1", 1, pytest.approx(3)),
            ("float32", 1, "few", 1, pytest.approx(5)),
            ("float32", 1, "M = 1", 1, pytest.approx(5)),
        ]


class TestFile:
    def test_round_trip(self, tmp_path):
        path = tmp_path / "new" / "r.json"
        kept = ResultFile()
        kept.add(measured({"drystone": [1.5, 2.5], "torch": [2.5, 3.5], "openvino": []}))
        kept.add(measured({"drystone": [1.5]}, 16, run=run(date="2026-01-02")))
        kept.write(path)
        assert ResultFile.read(path) == kept
        assert '"rounds": [1.5, 2.5]' in path.read_text() and list(json.loads(path.read_text())["runs"]) == [
            "2026-01-01",
            "2026-01-02",
        ]

    def test_a_new_measurement_replaces_the_old_of_the_same_thing_only(self):
        kept = ResultFile()
        for row in (
            measured({"drystone": [1]}),
            measured({"drystone": [2]}, 4),
            measured({"drystone": [3]}, run=run(date="2026-01-02")),
            measured({"drystone": [4]}, run=run(threads=1)),
            measured({"drystone": [5]}, run=run(kernel="other")),
            measured({"drystone": [6]}, tag="bert-base"),
        ):
            kept.add(row)
        assert [row["drystone"].rounds[0] for row in kept.measurements] == [3, 2, 4, 5, 6]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "[]",
            '{"format": 99}',
            '{"format": 1, "runs": [], "measurements": []}',
            '{"format": 1, "runs": {}, "measurements": [{"run": "r", "timings": []}]}',
        ],
    )
    def test_unreadable(self, tmp_path, text):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ValueError, match=r"r\.json is not a file of operators' results"):
            ResultFile.read(tmp_path / "r.json")

    def test_plot(self, tmp_path):
        kept = ResultFile()
        kept.add(measured({"drystone": [1], "torch": [2], "openvino": []}))
        kept.add(measured({"drystone": [1], "torch": [2]}, 16, run=run(threads=1)))
        kept.add(measured({"drystone": [1], "torch": [4]}, operator="attention"))
        kept.write(tmp_path / "r.json")
        plot(tmp_path / "r.json", tmp_path / "new" / "r.png")
        assert (tmp_path / "new" / "r.png").read_bytes().startswith(b"\x89PNG")

    def test_plot_needs_others(self, tmp_path):
        kept = ResultFile()
        kept.add(measured({"drystone": [1], "torch": []}))
        kept.write(tmp_path / "r.json")
        with pytest.raises(ValueError, match="beside drystone"):
            plot(tmp_path / "r.json", tmp_path / "r.png")


def test_a_table_of_cases_that_differ_in_contenders_and_sizes():
    rows = [
        measured({"drystone": [1], "drystone.enable": [3], "torch": [7]}),
        measured({"drystone": [2], "torch": [9]}, sizes={"M": 1, "N": 2, "of": "weight"}),
    ]
    shown = io.StringIO()
    show_operator(rows, Console(file=shown, width=300))
    forward, gradient = (line.split("\u2502") for line in shown.getvalue().splitlines() if "odd" in line)
    assert [cell.strip() for cell in forward[2:10]] == ["1", "2", "", "3.00", "7.00", "1.0", "3.0", "7.0"]
    assert [cell.strip() for cell in gradient[2:10]] == ["1", "2", "weight", "-", "4.50", "2.0", "-", "9.0"]
