"""What ``drystone bench`` and ``drystone profile`` take: functions, saved modules, folders; and what is wrong with those that fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import drystone
from drystone.cli import application
from drystone.cores import cores
from drystone.tools.bench.results import ResultFile
from drystone.tools.bench.targets import Input, check, load
from drystone.tools.bench.workload import shapes_of

SOURCE = """
import torch
from torch import nn
from torch.export import Dim

class Scaled(nn.Linear):
    def forward(self, x, *, scale):
        return super().forward(x) * scale

def keywords():
    return Scaled(4, 3), {"x": torch.ones(2, 4), "scale": torch.ones(1)}

def both():
    return Scaled(4, 3), torch.ones(2, 4), {"scale": torch.ones(1)}

def varying():
    return Scaled(4, 3), torch.ones(2, 4), {"scale": torch.ones(1)}, {"x": {0: Dim("batch", min=2, max=8)}, "scale": None}
"""


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    torch.jit.save(torch.jit.script(layers()), str(tmp_path / "script.pt"))
    torch.save(layers(), tmp_path / "pickled.pt")
    torch.save(layers().state_dict(), tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("none")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["keywords", "both", "varying"])
def test_functions(folder: Path, name: str) -> None:
    module, call = load(f"{folder / 'mine.py'}:{name}", 1, None, (), 0)
    assert call(module).shape == (2, 3) and shapes_of(call) == [[2, 4], [1]]
    assert not module.training and bool(call.dynamic_shapes) == (name == "varying")


@pytest.mark.parametrize("name", ["script.pt", "pickled.pt"])
def test_saved_modules(folder: Path, name: str) -> None:
    check(str(folder / name), ["2x4"])
    module, call = load(str(folder / name), 1, None, ["2x4"], 0)
    with torch.no_grad():
        assert call(module).shape == (2, 3)


def test_an_artefact(folder: Path) -> None:
    drystone.save(drystone.optimize(layers(), (torch.ones(5, 4),), tuning="estimate"), folder / "kept")
    check(str(folder / "kept"))
    module, call = load(str(folder / "kept"), 1, None, (), 0)
    assert call(module).shape == (5, 3)
    (folder / "kept" / "program.json").write_text("{}")
    with pytest.raises(drystone.ArtefactError):
        check(str(folder / "kept"))


def test_a_folder_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 99}
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(folder / "bert")
    check(str(folder / "bert"))
    module, call = load(str(folder / "bert"), 2, (7,), (), 0)
    assert type(module).__name__ == "BertForMaskedLM" and shapes_of(call) == [[2, 7], [2, 7]]
    with torch.no_grad():
        assert call(module).logits.shape == (2, 7, 99)
    for file in (folder / "bert").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="no weights"):
        check(str(folder / "bert"))


def test_inputs() -> None:
    assert Input.parse("ids=1x128*:int64") == Input("ids", (1, 128), (1,), "int64")
    assert Input.parse("3") == Input("", (3,), (), "float32")
    assert Input.parse("2x3:bool").tensor().all()
    for wrong in ("", "axb", "1x2:complex64", "=1", "x=1x"):
        with pytest.raises(ValueError, match="is no input"):
            Input.parse(wrong)


def test_sizes_that_vary(folder: Path) -> None:
    module, call = load(str(folder / "pickled.pt"), 1, None, ["2*x4"], 0)
    fast = drystone.optimize(module, call.args, dynamic_shapes=call.dynamic_shapes, tuning="estimate")
    assert fast(torch.ones(7, 4)).shape == (7, 3)


@pytest.mark.parametrize("command", ["bench", "profile"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet51"], "no model 'resnet51' in the zoo"),
        (["missing.pt"], "no file 'missing.pt'"),
        (["missing.py:build"], "no file 'missing.py'"),
        (["mine.py:nothing"], "mine.py has no function 'nothing'"),
        (["broken.py:build"], "broken.py can't be imported: ModuleNotFoundError"),
        (["text.pt"], "text.pt is no file that torch.jit.save or torch.save wrote"),
        (["script.pt"], "script.pt says nothing of its inputs"),
        (["script.pt", "--input", "1by4"], "'1by4' is no input"),
        (["mine.py:both", "--input", "1x4"], "has inputs of its own"),
        (["empty"], "neither an artefact of drystone.save nor a model of transformers"),
    ],
)
def test_what_is_wrong_is_said_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    answer = CliRunner().invoke(application(command), [command, *arguments], env={"COLUMNS": "400"})
    assert answer.exit_code == 2 and message in " ".join(answer.output.split()), answer.output


def test_an_artefact_has_no_other_engines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    drystone.save(drystone.optimize(layers(), (torch.ones(5, 4),), tuning="estimate"), "kept")
    answer = CliRunner().invoke(application("bench"), ["bench", "kept", "--against", "eager"], env={"COLUMNS": "400"})
    assert answer.exit_code == 2 and "drystone's alone" in answer.output
    answer = CliRunner().invoke(application("profile"), ["profile", "kept", "--eager", "--threads", "1"], env={"COLUMNS": "400"})
    assert answer.exit_code == 2 and "no eager model" in answer.output
    shutil.rmtree("kept")


@pytest.mark.skipif(len(cores()) < 2, reason="one core")
def test_instances(folder: Path, tmp_path: Path) -> None:
    options = ["--instances", "2", "--threads", "1", "--rounds", "3", "--against", "", "--json", str(tmp_path / "r.json")]
    answer = CliRunner().invoke(application("bench"), ["bench", f"{folder / 'mine.py'}:both", *options], env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    (row,) = ResultFile.read(tmp_path / "r.json").results
    outcome = row["drystone"]
    assert row.instances == 2 and "instances 2" in answer.output and "inputs/s" in answer.output
    assert len(outcome.per_second) == 3 and min(outcome.per_second) > 0
    assert 0 < outcome.percentiles["p50"] <= outcome.percentiles["p90"] <= outcome.percentiles["p99"]
    assert outcome.relative_error is not None and outcome.relative_error < 1e-5
    answer = CliRunner().invoke(application("bench"), ["bench", "resnet50", "--instances", "9999"], env={"COLUMNS": "200"})
    assert answer.exit_code == 2 and "may use" in answer.output
