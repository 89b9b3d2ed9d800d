"""The benchmark: its zoo, its arithmetic, its processes, its files and its command line. Nothing here depends on speed."""

from __future__ import annotations

import io
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import drystone
from drystone.cli import application
from drystone.tools.bench import zoo
from drystone.tools.bench.contenders import CONTENDERS
from drystone.tools.bench.environment import environment, key_of
from drystone.tools.bench.plot import plot
from drystone.tools.bench.process import WorkerFailed, WorkerProcess
from drystone.tools.bench.report import show_summary
from drystone.tools.bench.results import Outcome, Result, ResultFile, geometric_mean, summaries
from drystone.tools.bench.rounds import measure, steps
from drystone.tools.bench.targets import Call
from drystone.tools.bench.worker import relative_error, shorten
from drystone.tools.bench.workload import Workload, fingerprint, shapes_of

# Parameters as published (torchvision's documentation; without Inception's auxiliary classifier).
PARAMETERS = {
    "resnet50": 25_557_032,
    "resnext50": 25_028_904,
    "regnet_x": 9_190_136,
    "regnet_y": 11_202_430,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3": 5_483_032,
    "efficientnet_b0": 5_288_548,
    "densenet121": 7_978_856,
    "squeezenet": 1_235_496,
    "vgg16": 138_357_544,
    "shufflenet_v2": 2_278_604,
    "inception_v3": 23_834_568,
    "convnext_tiny": 28_589_128,
    "r3d_18": 33_371_472,
    "r2plus1d_18": 31_505_325,
}
# As published, without heads and poolers.
ENCODERS = {
    "bert_base": 108_891_648,
    "distilbert": 66_362_880,
    "roberta_base": 124_055_040,
    "vit_b_16": 85_798_656,
    "swin_t": 27_519_354,
    "whisper_base": 20_590_592,
    "wav2vec2_base": 94_371_712,
}
# Two layers of 4 gates: weights of inputs and states, two biases.
LAYERS = {"lstm": 2 * 4 * 512 * (512 + 512 + 2)}

MODELS = '''
import os, time
import torch
from torch import nn

def small(batch=1):
    """A convolution that every contender runs."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))
    return module, (torch.randn(batch, 3, 8, 8),)

def hardswish():
    """torch.utils.mkldnn has no hard-swish."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish()), (torch.randn(1, 3, 8, 8),)

def changing():
    torch.manual_seed(os.getpid())
    return nn.Linear(4, 4), torch.randn(1, 4)

def dying():
    os._exit(3)

def slow():
    time.sleep(60)

not_a_model = lambda: 3
'''


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.py"
    path.write_text(MODELS)
    return path


class TestZoo:
    @pytest.mark.parametrize("name", PARAMETERS | ENCODERS | LAYERS)
    def test_parameters_as_published(self, name):
        with torch.device("meta"):
            module = zoo.ZOO[name].build()
        assert sum(parameter.numel() for parameter in module.parameters()) == (PARAMETERS | ENCODERS | LAYERS)[name]

    def test_every_model_is_checked(self):
        assert (zoo.CNNS | zoo.VOLUMES).keys() == PARAMETERS.keys() | {"unet", "unet_3d"}
        assert zoo.TRANSFORMERS.keys() == ENCODERS.keys()
        assert zoo.RECURRENT.keys() == LAYERS.keys()

    @pytest.mark.parametrize(
        ("name", "shapes"),
        [
            ("distilbert", [[2, 9], [2, 9]]),
            ("swin_t", [[2, 3, 224, 224]]),
            ("wav2vec2_base", [[2, 800]]),
            ("lstm", [[2, 7, 512]]),
        ],
    )
    def test_inputs_of_encoders_and_recurrent_networks(self, name, shapes):
        size = tuple(shapes[0][-2:] if name == "swin_t" else shapes[0][1:])
        module, inputs = zoo.load(name, batch=2, size=size)
        assert shapes_of(Call(inputs)) == shapes
        with torch.no_grad():
            assert module(*inputs).isfinite().all()

    def test_a_size_of_other_axes(self):
        with pytest.raises(ValueError, match=r"distilbert has inputs of 1 sizes \(128\), not of 2"):
            zoo.load("distilbert", size=(64, 64))

    @pytest.mark.parametrize("name", sorted(PARAMETERS.keys() - {"vgg16"} | {"unet", "unet_3d"}))
    def test_outputs_are_well_scaled_and_differ_by_image(self, name):
        side = 192 if name == "inception_v3" else 96  # below, its last maps are single pixels
        size = {"r3d_18": (8, 64, 64), "r2plus1d_18": (8, 64, 64), "unet_3d": (16, 32, 32)}.get(name, (side, side))
        module, (images,) = zoo.load(name, batch=2, size=size)
        assert not module.training
        with torch.no_grad():
            output = module(images)
            exact = module.double()(images.double())
        assert output.shape[0] == 2 and 0.1 < output.std() < 20
        # Rounding is not blown up on its way through the network, and what the image shows is not lost.
        assert (output - exact).norm() / exact.norm() < 5e-6
        assert (output[0] - output[1]).norm() / output.norm() > 0.02

    def test_same_arguments_same_model(self):
        first, again, other = (zoo.load("shufflenet_v2", size=(64, 64), seed=seed) for seed in (0, 0, 1))
        marks = [fingerprint(module, Call(inputs)) for module, inputs in (first, again, other)]
        assert marks[0] == marks[1] != marks[2]

    def test_weights_do_not_depend_on_the_batch(self):
        one, many = (zoo.load("squeezenet", batch=batch, size=(64, 64))[0].state_dict() for batch in (1, 3))
        assert all(torch.equal(one[key], many[key]) for key in one)


class TestWorkload:
    def test_from_file(self, models):
        workload = Workload(f"{models}:small", batch=3)
        module, call = workload.load()
        assert not module.training and shapes_of(call) == [[3, 3, 8, 8]] and workload.name == "models.py:small"

    @pytest.mark.parametrize(
        ("model", "options", "message"),
        [
            ("resnet51", {}, "no model 'resnet51' in the zoo: resnet50"),
            ("{models}:nothing", {}, "models.py has no function 'nothing'"),
            ("{models}.txt:small", {}, "no file"),
            ("{models}:small", {"size": (8, 8)}, "models.py:small has no parameter size"),
            ("{models}:not_a_model", {}, r"must return \(module, inputs\), .*not int"),
        ],
    )
    def test_errors_say_what_is_wrong(self, models, model, options, message):
        with pytest.raises(ValueError, match=message):
            Workload(model.format(models=models), **options).load()

    def test_fingerprint_sees_one_changed_weight(self):
        module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
        before = fingerprint(module, Call((torch.zeros(1, 3),)))
        module[1].running_mean[2] += 1e-6
        assert fingerprint(module, Call((torch.zeros(1, 3),))) != before


def result(rounds: dict[str, list[float]], model: str = "m", **fields) -> Result:
    outcomes = [Outcome(name, rounds=values, reason=None if values else "it broke") for name, values in rounds.items()]
    values = {"dtype": "float32", "batch": 1, "threads": 2, "shapes": [[1, 3, 8, 8]], "date": "d", "environment": "e"} | fields
    return Result(model=model, outcomes=outcomes, **values)


class TestArithmetic:
    def test_ratio_is_the_median_of_the_rounds_ratios(self):
        # The machine slows down tenfold in the last two rounds; in each round the peer takes twice as long, in one five times.
        drifting = result({"drystone": [1, 1, 1, 10, 10], "openvino": [2, 2, 5, 20, 20]})
        assert drifting.ratio("openvino", "drystone") == 2
        assert drifting["openvino"].milliseconds / drifting["drystone"].milliseconds == 5

    def test_ratio_with_what_failed_or_is_not_there(self):
        some = result({"drystone": [1, 1], "openvino": []})
        assert some.ratio("openvino", "drystone") is None and some.ratio("eager", "drystone") is None

    def test_base(self):
        assert result({"eager": [1], "drystone": [1]}).base == "drystone"
        assert result({"drystone": [], "openvino": [1], "eager": [1]}).base == "eager"
        assert result({"drystone": [], "openvino": [1]}).base == "openvino"

    def test_best_peer_is_the_fastest_engine_and_never_eager(self):
        assert result({"drystone": [2], "eager": [1], "openvino": [3], "onnxruntime": [2.5]}).best_peer() == ("onnxruntime", 1.25)
        assert result({"drystone": [2], "eager": [1]}).best_peer() is None

    def test_summaries_keep_conditions_apart(self):
        rows = [
            result({"drystone": [1], "eager": [2], "openvino": [4]}, "a"),
            result({"drystone": [1], "eager": [8], "openvino": [1]}, "b"),
            result({"drystone": [1], "eager": [3], "openvino": [3]}, "a", dtype="bfloat16"),
        ]
        first, second = summaries(rows)
        assert first["best_peer_over_drystone"] == pytest.approx(2) and first["eager_over_drystone"] == pytest.approx(4)
        assert first["least_best_peer_over_drystone"] == ("b", 1) and first["models"] == 2
        assert second["dtype"] == "bfloat16" and second["eager_over_drystone"] == pytest.approx(3)

    def test_geometric_mean(self):
        assert geometric_mean([1, 4, 16]) == pytest.approx(4)
        assert geometric_mean([]) is None

    def test_relative_error(self):
        assert relative_error(torch.tensor([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.5 / np.hypot(3, 4.5))
        assert relative_error(torch.zeros(2), np.zeros(3)) == float("inf")


class TestFile:
    def test_round_trip(self, tmp_path):
        kept = ResultFile()
        kept.add(result({"drystone": [1.5], "eager": [2.5], "to_mkldnn": []}), {"cpu": "c"})
        kept.write(tmp_path / "new" / "r.json")
        assert ResultFile.read(tmp_path / "new" / "r.json") == kept
        assert '"rounds": [1.5]' in (tmp_path / "new" / "r.json").read_text()

    def test_a_new_measurement_replaces_the_old_of_the_same_thing_only(self):
        kept = ResultFile()
        for row in (
            result({"eager": [1]}),
            result({"eager": [2]}, batch=16),
            result({"eager": [3]}),
            result({"eager": [4]}, environment="f"),
        ):
            kept.add(row, {})
        assert [row["eager"].rounds for row in kept.results] == [[3], [2], [4]]

    @pytest.mark.parametrize("text", ["", "{}", '{"format": 99}', '{"format": 1, "environments": {}, "results": [{"model": "m"}]}'])
    def test_unreadable(self, tmp_path, text):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ValueError, match=r"r\.json is not a file of benchmark results"):
            ResultFile.read(tmp_path / "r.json")

    def test_plot(self, tmp_path):
        kept = ResultFile()
        kept.add(result({"drystone": [1], "eager": [2], "openvino": []}, "a"), {})
        kept.add(result({"drystone": [1], "eager": [4], "openvino": [2]}, "b"), {})
        kept.write(tmp_path / "r.json")
        plot(tmp_path / "r.json", tmp_path / "r.png")
        assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")

    def test_plot_needs_eager(self, tmp_path):
        kept = ResultFile()
        kept.add(result({"drystone": [1]}), {})
        kept.write(tmp_path / "r.json")
        with pytest.raises(ValueError, match="beside eager"):
            plot(tmp_path / "r.json", tmp_path / "r.png")


class TestEnvironment:
    def test_says_what_bears_on_speed_and_nothing_private(self, monkeypatch):
        monkeypatch.setenv("DRYSTONE_MAX_ISA", "avx2")
        facts = environment()
        assert facts["caps"]["DRYSTONE_MAX_ISA"] == "avx2" and facts["packages"]["torch"] == torch.__version__
        text = json.dumps(facts)
        assert platform.node() not in text and os.getcwd() not in text and str(Path.home()) not in text

    def test_key(self):
        assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})

    def test_reasons_lose_their_folders(self):
        assert shorten("ImportError: /home/someone/lib/libx.so.3: not found") == "ImportError: libx.so.3: not found"
        assert len(shorten("x" * 1000)) == 200


class TestContenders:
    def test_parts_are_not_the_whole(self):
        inner = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
        model, x = nn.Sequential(inner).eval(), torch.randn(1, 3, 8, 8)
        want = model(x)
        with torch.no_grad(), pytest.warns(drystone.DrystoneWarning, match="can't be captured whole"):
            made = CONTENDERS["drystone_parts"].prepare(model, Call((x,)), torch.float32, 2)
            torch.testing.assert_close(made.output(made.call()), want, atol=1e-5, rtol=1e-4)
        programs = [part["name"] for part in made.details()["parts"] if part["programs"]]
        assert programs == ["0.0", "0.2"]  # what has no weights runs eagerly

    def test_summary_has_every_contender_over_drystone(self):
        console = Console(width=200, file=io.StringIO())
        rows = [result({"drystone": [1], "drystone_parts": [2]}, "a"), result({"drystone": [1], "drystone_parts": [8]}, "b")]
        show_summary(rows, console)
        assert "4.00 x drystone" in console.file.getvalue()


class TestProcesses:
    def test_contenders_in_turn_and_one_that_fails(self, models, tmp_path):
        told = []
        names = ["eager", "to_mkldnn", "channels_last"]
        row = measure(Workload(f"{models}:hardswish"), names, 3, "e", told.append, outputs=tmp_path)
        assert len(told) == steps(names, 3)
        assert [outcome.contender for outcome in row.outcomes] == names and row.shapes == [[1, 3, 8, 8]]
        for name in ("eager", "channels_last"):
            outcome = row[name]
            assert outcome.ok and len(outcome.rounds) == 3 and min(outcome.rounds) > 0
            assert outcome.relative_error < 1e-6 and outcome.peak_rss > 50e6 and outcome.prepare_seconds > 0
            assert relative_error(torch.from_numpy(np.load(tmp_path / f"{name}.npy")), np.load(tmp_path / "reference.npy")) < 1e-6
        assert "hardswish" in row["to_mkldnn"].reason and row["to_mkldnn"].rounds == []

    def test_a_model_that_differs_by_process_is_refused(self, models):
        row = measure(Workload(f"{models}:changing"), ["eager"], 3, "e")
        assert "not deterministic" in row["eager"].reason

    def test_a_worker_that_dies(self, models):
        row = measure(Workload(f"{models}:dying"), ["eager"], 3, "e")
        assert "the process ended with code 3" in row["eager"].reason

    def test_a_worker_that_takes_too_long(self, models, tmp_path):
        workload = {"model": f"{models}:slow", "dtype": "float32", "batch": 1, "threads": 1, "seed": 0, "size": None}
        start = time.monotonic()
        with WorkerProcess(1, tmp_path) as worker, pytest.raises(WorkerFailed, match="no answer within 1 s"):
            worker.ask(1.0, do="prepare", contender="eager", workload=workload, reference=None, save=None)
        assert time.monotonic() - start < 20


class TestCommand:
    def test_measures_shows_and_keeps(self, models, tmp_path):
        arguments = ["--against", "eager", "--rounds", "3", "--batch", "2", "--threads", "1", "--again"]
        files = ["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png")]
        answer = CliRunner().invoke(application(), ["bench", f"{models}:small", *arguments, *files])
        assert answer.exit_code == 0, answer.output
        assert "models.py:small" in answer.output and "drystone" in answer.output
        text = (tmp_path / "r.json").read_text()
        assert str(tmp_path) not in text and platform.node() not in text
        (row,) = ResultFile.read(tmp_path / "r.json").results
        assert row["drystone"].relative_error < 2e-5 and row["drystone"].prepare_again_seconds > 0
        assert row["drystone"].details["aten_segments"] == []
        assert row.batch == 2 and row.threads == 1 and (tmp_path / "r.png").stat().st_size > 1000

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["resnet51"], "resnet51"),
            (["resnet50", "--against", "tensorrt"], "tensorrt"),
            (["resnet50", "--dtype", "float16"], "float16"),
            (["resnet50", "--dtype", "bfloat16", "--against", "onnxruntime"], "bfloat16"),
            (["resnet50", "--size", "224"], "H,W"),
            (["bert_base", "--size", "12,12"], "one number"),
            (["resnet50", "--size", "224,0"], "224,0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        answer = CliRunner().invoke(application(), ["bench", *arguments])
        assert answer.exit_code == 2 and message in answer.output
