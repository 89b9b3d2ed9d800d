"""The benchmark of operators: its cases, the choice among them, its contenders' results and its command line."""

from __future__ import annotations

import itertools
import os
import platform
import sys

import pytest
import torch
from typer.testing import CliRunner

from drystone import native
from drystone.cli import application
from drystone.eager import operators
from drystone.tools.bench.worker import relative_error
from drystone.tools.ops import catalogue, limits, measure
from drystone.tools.ops.case import Contest, copies_to_be_cold, last_level_cache_bytes
from drystone.tools.ops.operators import attention, gemm, volumes
from drystone.tools.ops.results import ResultFile

# Rounding alone, of operands that are exact: bfloat16 rounds the result, and inside attention the probabilities.
ERROR = {"float32": 2e-6, "bfloat16": 8e-3}
# Contenders and dtypes that do not go together here: oneDNN has no bfloat16 below AVX-512.
REFUSED = {("onednn", "bfloat16")} if native.isa() == "avx2" else set()
MIB = 1 << 20


class TestCases:
    def test_gemm_has_every_row_count_and_layer(self):
        sizes = {(case.tag, *case.sizes.values()) for case in gemm.cases("float32")}
        rows = (1, 4, 16, 64, 128, 512, 2048)
        for tag, layers in {
            "bert-base": [(768, 768), (2304, 768), (3072, 768), (768, 3072)],
            "bert-large": [(1024, 1024), (4096, 1024), (1024, 4096)],
            "llama-7b": [(4096, 4096), (11008, 4096), (4096, 11008)],
        }.items():
            assert sizes >= {(tag, m, n, k) for m in rows for n, k in layers}
        odd = {case[1:] for case in sizes if case[0] == "odd"}
        assert (197, 3072, 768) in odd and (197, 768, 3072) in odd
        layers = {(n, k) for m, n, k in odd if m != 197}
        assert odd >= {(m, n, k) for m in rows for n, k in layers}
        for which, divisor in itertools.product((0, 1), (16, 32)):
            assert any(layer[which] % divisor for layer in layers)
        assert len(sizes) == len(list(gemm.cases("float32")))

    def test_volumes_count_their_work(self):
        plain = volumes.case(volumes.Layer("x", 2, 3, (4, 5, 6), (1, 3, 3), (1, 2, 1)), "float32")
        assert plain.flops == 2 * 2 * 3 * 9 * (4 * 3 * 6) and plain.bytes == 4 * (2 * 120 + 3 * 72 + 54)
        turned = volumes.case(volumes.Layer("x", 2, 3, (4, 5, 6), (2, 2, 2), (2, 2, 2), True), "bfloat16")
        assert turned.flops == 2 * 2 * 3 * 8 * 120 and turned.bytes == 2 * (2 * 120 + 3 * 960 + 48)
        names = [case.name for operator in ("conv3d", "conv_transpose3d") for case in catalogue.OPERATORS[operator]("float32")]
        assert len(names) == len(set(names))

    def test_attention_has_every_length(self):
        sizes = [tuple(case.sizes.values()) for case in attention.cases("bfloat16")]
        assert sorted(sizes) == sorted(itertools.product((64, 128, 256, 512, 1024, 2048), ("no", "yes")))

    def test_work(self):
        case = gemm.case("odd", "bfloat16", 2, 3, 5, 32 * MIB)
        assert (case.flops, case.bytes) == (60, 2 * (10 + 15 + 3 + 6))
        full, causal = (attention.case("float32", 64, causal) for causal in (False, True))
        assert full.flops == 4 * 12 * 64 * 64 * 64 and full.bytes == causal.bytes == 4 * 4 * 12 * 64 * 64
        assert causal.flops == 4 * 12 * 64 * sum(range(1, 65))
        assert full.copies == 1

    @pytest.mark.parametrize("case", [*gemm.cases("float32"), *gemm.cases("bfloat16")], ids=lambda case: case.name)
    def test_weights_are_cold(self, case):
        weights = case.sizes["N"] * case.sizes["K"] * (4 if case.dtype == "float32" else 2)
        assert case.copies * weights >= 4 * last_level_cache_bytes() and case.copies >= 2

    def test_copies(self):
        assert copies_to_be_cold(MIB, 32 * MIB) == 128 and copies_to_be_cold(MIB + 1, 32 * MIB) == 128
        assert copies_to_be_cold(512 * MIB, 32 * MIB) == 2

    def test_last_level_caches_are_counted_once_each(self, tmp_path):
        for cpu, (index, level, size, shared) in itertools.product(range(4), [(0, 1, 48, 1), (2, 2, 1024, 1), (3, 3, 16384, 2)]):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in {"level": level, "size": f"{size}K", "shared_cpu_list": cpu // shared}.items():
                (folder / name).write_text(f"{text}\n")
        assert last_level_cache_bytes(tmp_path) == 2 * 16384 << 10
        (tmp_path / "cpu0" / "cache" / "index3" / "level").unlink()
        assert last_level_cache_bytes(tmp_path) == 32 * MIB
        assert last_level_cache_bytes(tmp_path / "nothing") == 32 * MIB


class TestChoice:
    def names(self, *tags, operators=("gemm", "attention")):
        return {case.name for case in catalogue.choose(operators, ["float32"], tags)}

    def test_any_of_one_option_and_all_of_several(self):
        assert self.names("N=333", "M=1") == {"gemm float32 odd M=1 N=333 K=1217"}
        assert self.names("T=64, T=128", "causal=yes", "bert-base") == {
            "attention float32 bert-base T=64 causal=yes",
            "attention float32 bert-base T=128 causal=yes",
        }
        assert {name.split()[0] for name in self.names("bert-base")} == {"gemm", "attention"}

    def test_without_tags_all(self):
        chosen = catalogue.choose(["gemm"], ["float32", "bfloat16"])
        assert len(chosen) == len(list(gemm.cases("float32"))) + len(list(gemm.cases("bfloat16")))

    @pytest.mark.parametrize(
        ("tags", "message"),
        [(["M=1,M=3"], "'M=3'.*bert-base.*M, N, K"), (["llama-7b", "N=333"], "no case has all of llama-7b and N=333")],
    )
    def test_errors(self, tags, message):
        with pytest.raises(ValueError, match=message):
            catalogue.choose(["gemm"], ["float32"], tags)


@pytest.mark.skipif(native.isa() == "none", reason="no native kernels")
class TestContenders:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_linear_layers_agree_on_every_copy(self, dtype):
        contest = gemm.layer(5, 33, 50, getattr(torch, dtype), 3)
        calls, reasons = contest.prepare()
        assert list(contest.contenders) == ["drystone", "onednn", "torch"]
        assert {(name, dtype) for name in reasons} == {refused for refused in REFUSED if refused[1] == dtype}
        exact = contest.exact().numpy()
        for name, call in calls.items():
            for i in range(3):
                assert relative_error(call(i), exact) < ERROR[dtype], (name, i)

    def test_linear_layers_of_codes_agree(self):
        contest = gemm.layer(5, 33, 50, torch.int8, 3)
        calls, reasons = contest.prepare()
        assert list(calls) == ["drystone", "drystone_8_bits", "onednn"] and not reasons
        for name, call in calls.items():
            for i in range(3):
                assert (call(i).double() - contest.exact()).abs().max() <= 1, (name, i)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize(
        "layer",
        [
            volumes.Layer("plain", 16, 32, (5, 6, 7)),
            volumes.Layer("strided", 3, 24, (5, 12, 13), (3, 7, 7), (1, 2, 2)),
            volumes.Layer("transposed", 24, 16, (3, 4, 5), (2, 2, 2), (2, 2, 2), True),
            volumes.Layer("without bias", 64, 64, (3, 4, 5), (4, 4, 4), (2, 2, 2), True, has_bias=False),
        ],
        ids=lambda layer: layer.tag,
    )
    def test_volumes_agree(self, layer, dtype):
        contest = volumes.contest(layer, getattr(torch, dtype))
        calls, _ = contest.prepare()
        assert calls.keys() >= {"drystone", "torch"} or (dtype == "bfloat16" and native.isa() == "avx2")
        exact = contest.exact()
        for name, call in calls.items():
            assert call(0).shape == exact.shape
            assert relative_error(call(0), exact.numpy()) < ERROR[dtype], name

    @pytest.mark.skipif(operators.why_not() is not None, reason=str(operators.why_not()))
    @pytest.mark.parametrize("of", volumes.MASKS)
    @pytest.mark.parametrize(
        "layer",
        [
            volumes.Layer("plain", 16, 32, (5, 16, 17)),
            volumes.Layer("transposed", 24, 16, (3, 14, 15), (2, 2, 2), (2, 2, 2), True, has_bias=False),
        ],
        ids=lambda layer: layer.tag,
    )
    def test_gradients_of_volumes_agree(self, layer, of):
        contest = volumes.gradient(layer, of)
        calls, reasons = contest.prepare()
        assert calls.keys() == {"drystone", "torch"} and not reasons
        exact = contest.exact()
        for name, call in calls.items():
            with contest.around(name):
                assert call(0).shape == exact.shape
                assert relative_error(call(0), exact.numpy()) < ERROR["float32"], name

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_attention_agrees(self, dtype, causal):
        pytest.importorskip("openvino")
        contest = attention.attention(70, getattr(torch, dtype), causal)
        calls, reasons = contest.prepare()
        assert list(calls) == ["drystone", "torch", "openvino"] and not reasons
        for name, call in calls.items():
            assert relative_error(call(0), contest.exact().numpy()) < ERROR[dtype], name

    def test_one_that_cannot_run_is_left_out_with_its_reason(self):
        def missing():
            raise ImportError("No module named 'library'")

        def failing():
            def call(i):
                raise ValueError("not on this processor")

            return call

        contest = Contest({"a": missing, "b": failing, "c": lambda: lambda i: torch.ones(1)}, lambda: torch.ones(1))
        calls, reasons = contest.prepare()
        assert list(calls) == ["c"]
        assert reasons == {"a": "ImportError: No module named 'library'", "b": "ValueError: not on this processor"}


@pytest.fixture
def short(monkeypatch):
    """Bursts of one call, and copies for a small cache."""
    monkeypatch.setattr(measure, "BURST_SECONDS", 0.0)
    monkeypatch.setattr(limits, "SECONDS", 0.0)
    monkeypatch.setattr(gemm, "last_level_cache_bytes", lambda: MIB)


@pytest.mark.skipif(native.isa() == "none", reason="no native kernels")
@pytest.mark.usefixtures("short")
class TestCommand:
    def test_measures_shows_and_keeps(self, tmp_path):
        pytest.importorskip("openvino")
        tags = ["--tag", "M=1,T=64", "--tag", "N=333,T=64"]
        files = ["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png")]
        answer = CliRunner().invoke(application(), ["ops", "all", *tags, "--rounds", "3", "--threads", "1", *files])
        assert answer.exit_code == 0, answer.output
        for text in (
            "gemm · float32 · threads 1",
            "attention · bfloat16 · threads 1",
            "openvino",
            "M <= 128",
            "not causal",
        ):
            assert text in answer.output
        text = (tmp_path / "r.json").read_text()
        assert str(tmp_path) not in text and platform.node() not in text and os.getcwd() not in text
        rows = ResultFile.read(tmp_path / "r.json").measurements
        assert [(row.operator, row.dtype, *row.sizes.values()) for row in rows] == [
            ("attention", "float32", 64, "no"),
            ("attention", "float32", 64, "yes"),
            ("attention", "bfloat16", 64, "no"),
            ("attention", "bfloat16", 64, "yes"),
            ("gemm", "float32", 1, 333, 1217),
            ("gemm", "bfloat16", 1, 333, 1217),
        ]
        for row in rows:
            for timing in row.timings:
                if (timing.contender, row.dtype) in REFUSED:
                    assert timing.reason and not timing.rounds
                    continue
                assert timing.reason is None and len(timing.rounds) == 3 and min(timing.rounds) > 0
                assert timing.relative_error < ERROR[row.dtype]
            assert set(row.run.limits) == {"float32", "bfloat16", "read"} and min(row.run.limits.values()) > 0
        assert (tmp_path / "r.png").stat().st_size > 1000

    def test_without_openvino_the_table_says_so(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "openvino", None)
        arguments = ["--tag", "T=64", "--tag", "causal=no", "--dtype", "float32", "--rounds", "3"]
        answer = CliRunner().invoke(application(), ["ops", "attention", *arguments])
        assert answer.exit_code == 0, answer.output
        assert "openvino is left out: ModuleNotFoundError" in answer.output

    def test_code_1_where_drystone_cannot_run(self, monkeypatch):
        def refuse(*_):
            raise ValueError("not on this processor")

        monkeypatch.setattr("drystone.native.attention", refuse)
        arguments = ["--tag", "T=64", "--tag", "causal=no", "--dtype", "float32", "--rounds", "3"]
        answer = CliRunner().invoke(application(), ["ops", "attention", *arguments])
        assert answer.exit_code == 1 and "drystone is left out: ValueError: not on this processor" in answer.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["softmux"], "softmux"),
            (["gemm", "--dtype", "float16"], "float16"),
            (["gemm", "--tag", "gpt-5"], "gpt-5"),
            (["gemm", "--tag", "llama-7b", "--tag", "N=333"], "N=333"),
            (["gemm", "--rounds", "2"], "rounds"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        answer = CliRunner().invoke(application(), ["ops", *arguments])
        assert answer.exit_code == 2 and message in answer.output

    def test_a_file_of_something_else(self, tmp_path):
        (tmp_path / "r.json").write_text('{"format": 1, "results": []}')
        answer = CliRunner().invoke(application(), ["ops", "gemm", "--json", str(tmp_path / "r.json")])
        assert answer.exit_code == 2 and "operators' results" in answer.output.replace("\n", " ")
