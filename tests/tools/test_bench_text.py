"""``drystone bench … --generate``: its figures, files and refusals. Nothing here depends on speed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from drystone.cli import application
from drystone.tools.bench.text.contenders import CONTENDERS, Lengths, read_bytes
from drystone.tools.bench.text.measure import measure
from drystone.tools.bench.text.peer import Peer
from drystone.tools.bench.text.results import TextFile

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, vocab_size=256, max_position_embeddings=128, **more)
    return transformers.LlamaForCausalLM(config).eval()


def test_the_command(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "small")
    asked = ["bench", str(tmp_path / "small"), "--generate", "4", "--prompt", "8", "--rounds", "3", "--threads", "1"]
    file, picture = tmp_path / "texts.json", tmp_path / "texts.png"
    more = ["--against", "eager,eager_static", "--json", str(file), "--plot", str(picture)]
    for weights in ("float32", "int8", "int8"):
        found = CliRunner().invoke(application("bench"), [*asked, *more, "--dtype", weights])
        assert found.exit_code == 0, found.output
        assert "reading the weights" in found.output and "eager_static" in found.output
    kept = TextFile.read(file).results
    assert [result["weights"] for result in kept] == ["float32", "int8"], "the same is measured once more, in place of the old"
    for result in kept:
        assert (result["model"], result["prompt"], result["generate"], result["failed"]) == ("small", 8, 4, {})
        assert [*result["contenders"]] == ["drystone", "eager", "eager_static"]
        assert all(len(one["rounds"]) == 3 for one in result["contenders"].values())
    limits = [result["limit_milliseconds"] * result["read_gigabytes_a_second"] for result in kept]
    assert limits[0] / limits[1] == pytest.approx(32 / 8.5)
    assert picture.stat().st_size > 1000
    file.write_text(json.dumps({"format": 1}))
    found = CliRunner().invoke(application("bench"), [*asked, "--json", str(file)], env={"COLUMNS": "300"})
    assert "not a file of measured texts" in found.output


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("--generate is for causal", ["resnet50"]),
        ("no contender 'vllm'", ["resnet50", "--against", "vllm"]),
        ("'int3' is none", ["resnet50", "--dtype", "int3"]),
        ("takes no --instances", ["resnet50", "--again"]),
        ("no model 'none'", ["none"]),
    ],
)
def test_refusals(message: str, arguments: list[str]) -> None:
    found = CliRunner().invoke(application("bench"), ["bench", "--generate", "4", *arguments], env={"COLUMNS": "300"})
    assert found.exit_code == 2 and message in found.output


def test_a_tied_embedding_is_read_by_the_last_layer() -> None:
    apart, tied = llama(), llama(tie_word_embeddings=True)
    assert read_bytes(apart, "float32") == read_bytes(tied, "float32")


def test_a_contender_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("not today")

    monkeypatch.setitem(CONTENDERS, "eager", fails)
    found = measure(llama(), "float32", torch.ones(1, 8, dtype=torch.int64), Lengths(8, 4), ["eager", "eager_static"], 1)
    assert found["failed"] == {"eager": "ValueError: not today"} and [*found["contenders"]] == ["eager_static"]


def test_a_peer_says_what_goes_wrong() -> None:
    second, wrong = Peer(itemgetter, 1), Peer(int, "one")
    assert second("ab") == "b"
    with pytest.raises(IndexError):
        second("a")
    assert second("cd") == "d"
    with pytest.raises(ValueError, match="'one'"):
        wrong("ab")
    second.close()
    wrong.close()


@pytest.mark.parametrize(
    ("name", "packages"),
    [("llama.cpp", ("gguf", "xllamacpp")), ("openvino", ("gguf", "openvino_genai")), ("onnxruntime", ("onnxruntime_genai",))],
)
def test_other_engines(name: str, packages: tuple[str, ...]) -> None:
    if missing := [package for package in packages if find_spec(package) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    ids = torch.randint(3, 256, (2, 8))
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2)).eval()
    for rows in (1, 2):
        found = measure(llama(), "int8", ids[:rows], Lengths(8, 4, rows), [name], 1)
        assert name in found["contenders"], found["failed"]
    assert "of a Llama" in measure(gpt, "int8", ids[:1], Lengths(8, 4), [name], 1)["failed"][name]
    if name == "openvino":
        assert "not in float32" in measure(llama(), "float32", ids[:1], Lengths(8, 4), [name], 1)["failed"][name]
