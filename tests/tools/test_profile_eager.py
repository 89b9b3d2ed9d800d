"""``drystone profile`` of models as they are: operators, reorders inside of them, and the page in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from browser import after_scripts, needs_browser, screenshot
from drystone.cli import application
from drystone.tools.profile.eager import profile_eager
from drystone.tools.profile.onednn_verbose import Verbose, mark, parse, verbose

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(layers, nn.Flatten(), nn.Linear(16 * 256, 4)), torch.ones(2, 8, 16, 16)

def branching():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x
    return Branching(4, 4), torch.ones(1, 4)
"""

# oneDNN 3.12 and, with its template, 3.5: descriptors and fields differ.
LINES = """
drystone_mark,0
onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,memory_descriptors,attributes,auxiliary,problem_desc,exec_time
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:blk,undef,src:f32::blocked:abcd::f0 dst:f32::blocked:aBcd16b::f0,attr-scratchpad:user,,1x64x32x32,0.25
onednn_verbose,v1,primitive,exec,cpu,convolution,ref:any,forward_training,src:f32:a:blocked:aBcd16b::f0 wei:f32:a:blocked:ABcd16b16a::f0 bia:undef::undef::: dst:f32:a:blocked:aBcd16b::f0,attr-scratchpad:user,alg:convolution_direct,mb1_ic64oc64_ih32oh32kh3sh1dh0ph1_iw32ow32kw3sw1dw0pw1,2
the model's own
drystone_mark,1
onednn_verbose,primitive,info,template:operation,engine,primitive,implementation,prop_kind,memory_descriptors,attributes,auxiliary,problem_desc,exec_time
onednn_verbose,primitive,exec,cpu,matmul,brg_matmul:avx2,undef,src_f32::blocked:ab::f0 wei_f32::blocked:ab::f0 dst_f32::blocked:ab::f0,,,8x8:8x8,0.5
""".strip()


def test_lines_of_onednn() -> None:
    found = Verbose()
    assert parse(LINES, found) == ["the model's own"]
    reorder, convolution = found.between[0]
    assert (reorder.kind, reorder.shape, reorder.microseconds) == ("reorder", [1, 64, 32, 32], 250)
    assert reorder.formats == {"src": "abcd", "dst": "aBcd16b"} and not reorder.is_reference
    assert convolution.is_reference and convolution.formats["dst"] == "aBcd16b"
    (matmul,) = found.between[1]
    assert matmul.microseconds == 500 and not matmul.is_reference and matmul.formats["dst"] == "ab"


def test_what_is_printed_meanwhile_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with verbose() as found:
        print("before")
        mark(3)
        torch.randn(1, 8, 4, 4).to_mkldnn().to_dense()
    assert "before" in capfd.readouterr().out
    assert found.between.keys() == {3} and {primitive.kind for primitive in found.between[3]} == {"reorder"}


def test_operators_and_their_reorders() -> None:
    layers = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    model, x = nn.Sequential(layers, nn.Softmax(1)).eval(), torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        found = profile_eager(model, lambda: model(x), calls=2)
    assert [step.module for step in found.fusible] == ["0.1", "0.2"]
    products = [step for step in found.steps if step.operations]
    assert [(step.module, step.shape) for step in products] == [("0.0", [2, 16, 14, 14])]
    assert products[0].operations == 2 * 2 * 16 * 14 * 14 * 8 * 9
    reorders = [step for step in found.steps if step.kind == "reorder"]
    assert {step.module for step in reorders} <= {"0.0"}  # which of them there are, is torch's affair
    assert all(step.microseconds > 0 and "→" in step.format for step in reorders)
    assert "aten::_softmax" in [step.op for step in found.steps if step.module == "1"]
    explained = found.explanation(1e9, model)  # longer than any operator is looked at
    assert explained.modules["0"] == pytest.approx(sum(step.microseconds for step in found.steps if step.module.startswith("0.")))
    estimate = found.figures(explained).saving
    assert estimate["2 operators that fuse into a product"] * 1e3 == pytest.approx(sum(s.microseconds for s in found.fusible))
    quick = found.figures(found.explanation(1e-6, model))
    assert sum(quick.saving.values()) <= 1e-6, "no more than a call takes"


def test_reorders_of_a_blocked_model() -> None:
    """Tensors that go through oneDNN's own formats, whatever torch chooses for convolutions."""

    class Through(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x.to_mkldnn().to_dense())

    with torch.no_grad():
        model, x = Through(), torch.randn(2, 8, 16, 16)
        found = profile_eager(model, lambda: model(x), calls=1)
    assert found.explanation(1.0, model).reorder_share > 0 and any(step.kind == "reorder" for step in found.steps)


def run(tmp_path: Path, function: str, *options: str) -> str:
    (tmp_path / "mine.py").write_text(MODEL)
    arguments = ["profile", f"{tmp_path / 'mine.py'}:{function}", "--threads", "1", "--seconds", "0.1", *options]
    answer = CliRunner().invoke(application("profile"), arguments, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_command(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = run(tmp_path, "build", "--eager", f"--json={tmp_path / 'json'}", f"--trace={tmp_path / 'trace'}")
    assert "Estimated, not measured" in output and "aten::convolution" in output and "reference loops" in output
    written = json.loads((tmp_path / "json").read_text())
    assert written["explanation"]["runs"] == "eager" and 0 <= written["eager"]["reorder_share"] < 1
    assert any(event.get("cat") == "module" for event in json.loads((tmp_path / "trace").read_text())["traceEvents"])


@pytest.mark.filterwarnings("ignore::drystone.DrystoneWarning")
def test_a_model_without_a_program_is_looked_at_as_it_is(tmp_path: Path) -> None:
    output = run(tmp_path, "branching")
    assert "runs eagerly" in output and "aten::addmm" in output


@needs_browser
def test_page_in_a_browser(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    run(tmp_path, "build", "--eager", f"--html={tmp_path / 'page.html'}")
    page = tmp_path / "page.html"
    clicked = tmp_path / "clicked.html"
    sort = "document.querySelectorAll('table')[1].querySelectorAll('th.number')[0].click()"
    clicked.write_text(f"{page.read_text()}<script>{sort}</script>")
    document = after_scripts(clicked)
    times = [float(value) for value in re.findall(r'data-value="([\d.]+)">', document.rpartition("<table")[2])]
    rows = document.rpartition("<table")[2].count("<tr>") - 1
    assert rows > 4 and times[0] == max(times), "the costliest step comes first"
    assert "aten::convolution" in document and "Estimated, not measured" in document
    screenshot(page, tmp_path / "page.png")
    pixels = image.open(tmp_path / "page.png").convert("RGB")
    colours = {colour: count for count, colour in pixels.getcolors(1 << 24)}
    assert pixels.size == (1200, 1600) and colours[(192, 57, 43)] > 200, "bars and points are drawn"
    assert colours[(255, 255, 255)] < 0.98 * 1200 * 1600, "the page is not empty"
