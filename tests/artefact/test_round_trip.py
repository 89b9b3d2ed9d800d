"""What is saved is what comes back: the same bits, the same call, without the model's code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import drystone
import fresh_process
from agreement import assert_close, leaves, program_of
from artefacts import FILES, change, everything, read
from drystone import native
from drystone.artefact import graphs
from drystone.artefact.weights import Constants
from drystone.tools.native_table import SAMPLES, graph_of
from small_models import Decides

pytestmark = pytest.mark.filterwarnings("ignore:.*operators run on ATen")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.Flatten(),
        nn.Linear(16 * 36, 5),
    )
    return nn.Sequential(*layers).eval().requires_grad_(False)


def assert_equal(given: Any, expected: Any) -> None:
    assert pytree.tree_structure(given) == pytree.tree_structure(expected)
    for a, b in zip(pytree.tree_leaves(given), pytree.tree_leaves(expected), strict=True):
        assert a == b if not isinstance(b, torch.Tensor) else torch.equal(a, b) and a.dtype == b.dtype


def through(fast: Any, folder: Path) -> Any:
    drystone.save(fast, folder / "m.drystone")
    return drystone.load(folder / "m.drystone")


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_every_operator_gives_the_same_bits(tmp_path: Path, dtype: torch.dtype | None) -> None:
    model, inputs = everything()
    fast = drystone.optimize(model, inputs, tuning="estimate", dtype=dtype)
    again = through(fast, tmp_path)
    assert_equal(again(*inputs), fast(*inputs))
    assert sorted(os.listdir(tmp_path / "m.drystone")) == sorted(FILES)


def test_a_measured_plan_is_kept(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(net(), x)
    again = through(fast, tmp_path)
    shown = [(step.name, step.implementation, step.format) for step in again.explain().steps]
    assert shown == [(step.name, step.implementation, step.format) for step in fast.explain().steps]
    assert again.explain().runs == "drystone" and again.explain().microseconds > 0
    assert torch.equal(again(x), program_of(fast)([x])[0])


def test_a_process_without_the_model_loads_it(tmp_path: Path) -> None:
    model, inputs = everything()
    fast = drystone.optimize(model, inputs, tuning="estimate")
    drystone.save(fast, tmp_path / "m.drystone")
    torch.save((inputs, leaves(fast(*inputs))), tmp_path / "calls.pt")
    code = f"""
import sys, torch, drystone
torch.set_num_threads({torch.get_num_threads()})
fast = drystone.load({str(tmp_path / "m.drystone")!r})
inputs, expected = torch.load({str(tmp_path / "calls.pt")!r})
given = [leaf for leaf in torch.utils._pytree.tree_leaves(fast(*inputs)) if isinstance(leaf, torch.Tensor)]
assert all(map(torch.equal, given, expected)), "other results"
assert "artefacts" not in sys.modules
"""
    fresh_process.run(code)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_other_threads_and_infinite_inputs(tmp_path: Path, threads: int) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    again = through(drystone.optimize(model, x, tuning="estimate"), tmp_path)
    torch.set_num_threads(threads)
    assert_close(again(x), model(x))
    x[0, 0, 0, 0] = float("nan")
    assert torch.equal(again(x).isnan(), model(x).isnan())


def test_all_prepared_shapes_are_saved_and_others_are_refused(tmp_path: Path) -> None:
    model = net()
    fast = drystone.optimize(model, torch.randn(2, 3, 8, 8), tuning="estimate")
    batches = [torch.randn(size, 3, 8, 8) for size in (2, 5, 1)]
    expected = [fast(x) for x in batches]
    again = through(fast, tmp_path)
    for x, y in zip(batches, expected, strict=True):
        assert torch.equal(again(x), y)
    with pytest.raises(drystone.ShapeError, match=r"before it is saved"):
        again(torch.randn(3, 3, 8, 8))
    with pytest.raises(drystone.ShapeError):
        again(torch.randn(2, 3, 9, 8))
    big = [entry for entry in read(tmp_path / "m.drystone", "program.json")["constants"] if len(entry["shape"]) > 1]
    assert len(big) == 3, "weights are there once, whatever the number of shapes"


def test_a_loaded_module_is_measured_and_saved_again(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(net(), x, tuning="estimate")
    again = through(fast, tmp_path)
    assert again.prepare(x).runs == "drystone"
    third = through(again, tmp_path)
    assert torch.equal(third(x), again(x))


def test_plans_of_other_versions_are_made_anew(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    fast = drystone.optimize(net(), x, tuning="estimate")
    drystone.save(fast, tmp_path / "m.drystone")

    def older(plan: Any) -> None:
        plan["environment"]["onednn"] = "3.1.0"
        plan["choices"][0]["options"][0][0] = "what was there then"

    change(tmp_path / "m.drystone", "plan.json", older)
    assert_close(drystone.load(tmp_path / "m.drystone")(x), fast(x))


def test_calls_are_as_the_models(tmp_path: Path) -> None:
    model, (x, tokens) = everything()
    again = through(drystone.optimize(model, (x, tokens), tuning="estimate"), tmp_path)
    expected = again(x, tokens)
    assert_equal(again(x=x, tokens=tokens), expected)
    assert_equal(again(x, tokens, scale=2), expected)
    with pytest.raises(drystone.InputError):
        again(x)
    with pytest.raises(drystone.InputError):
        again(x, tokens.int())
    assert not again.training and not list(again.parameters())
    with pytest.raises(drystone.InputError, match="loaded from an artefact"):
        again.refresh()
    assert_equal(again(x, tokens), expected)
    with pytest.raises(AttributeError):
        _ = again.first


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(7, 16), nn.Linear(16, 7, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(tokens))


def test_tied_weights_are_saved_once(tmp_path: Path) -> None:
    tokens = torch.randint(0, 7, (2, 3))
    fast = drystone.optimize(Tied().eval(), tokens, tuning="estimate")
    again = through(fast, tmp_path)
    assert len(read(tmp_path / "m.drystone", "program.json")["constants"]) == 1
    assert torch.equal(again(tokens), fast(tokens))


def test_the_weights_are_as_safetensors_reads_them(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model, inputs = everything()
    drystone.save(drystone.optimize(model, inputs, tuning="estimate", dtype=torch.bfloat16), tmp_path / "m.drystone")
    given = safetensors.load_file(tmp_path / "m.drystone" / "weights.safetensors")
    described = read(tmp_path / "m.drystone", "program.json")["constants"]
    assert {int(name): (str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in given.items()} == {
        index: (entry["dtype"], entry["shape"]) for index, entry in enumerate(described)
    }
    weight = model.linear.weight if native.isa() == "none" else model.linear.weight.bfloat16()  # type: ignore[operator, union-attr]
    assert any(t.dtype == weight.dtype and torch.equal(t, weight) for t in given.values())


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.warns(drystone.DrystoneWarning, match="captured whole"):
        parted = drystone.optimize(Decides(net()), torch.randn(2, 3, 8, 8), tuning="estimate")
    with pytest.raises(drystone.UnsupportedError, match="captured whole"):
        drystone.save(parted, tmp_path / "m.drystone")
    model = net()
    fast = drystone.optimize(model, torch.randn(2, 3, 8, 8), tuning="estimate")
    model[0].weight.mul_(2)
    with pytest.raises(drystone.WeightsChangedError):
        drystone.save(fast, tmp_path / "m.drystone")
    assert not os.listdir(tmp_path)


def test_operators_that_no_artefact_holds_are_refused_when_saving(tmp_path: Path) -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(5, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.bag(tokens)

    fast = drystone.optimize(Bags().eval(), torch.randint(0, 5, (2, 3)), tuning="estimate")
    with pytest.raises(drystone.UnsupportedError, match="embedding_bag"):
        drystone.save(fast, tmp_path / "m.drystone")
    assert not os.listdir(tmp_path)


def test_only_artefacts_are_replaced(tmp_path: Path) -> None:
    fast = drystone.optimize(net(), torch.randn(2, 3, 8, 8), tuning="estimate")
    path = tmp_path / "m.drystone"
    drystone.save(fast, path)
    drystone.save(fast, path)
    (path / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    for taken in (path, tmp_path / "file", tmp_path / "link", tmp_path):
        with pytest.raises(drystone.ArtefactError, match="not replaced"):
            drystone.save(fast, taken)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "m.drystone"], "something was left behind"
    assert (path / "notes.txt").read_text() == "mine"


def test_transformers_results_have_their_fields(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=16
    )
    torch.manual_seed(0)
    model, tokens = transformers.BertModel(config).eval(), torch.randint(0, 50, (2, 8))
    fast = drystone.optimize(model, (tokens,), tuning="estimate")
    drystone.save(fast, tmp_path / "m.drystone")
    expected = fast(tokens)
    given = drystone.load(tmp_path / "m.drystone")(tokens)
    assert type(given) is type(expected), "the class is registered here"
    assert torch.equal(given.last_hidden_state, expected.last_hidden_state)
    code = f"""
import sys, torch, drystone
torch.set_num_threads({torch.get_num_threads()})
result = drystone.load({str(tmp_path / "m.drystone")!r})(torch.tensor({tokens.tolist()}))
assert "transformers" not in sys.modules
assert list(result) == ["last_hidden_state", "pooler_output"]
assert result[0] is result.last_hidden_state is result["last_hidden_state"] is result.to_tuple()[0]
assert torch.equal(result.last_hidden_state, torch.tensor({expected.last_hidden_state.tolist()}))
"""
    fresh_process.run(code)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_node_of_each_operator(name: str) -> None:
    graph = graph_of(name, torch.float32)
    (node,) = graph
    constants = Constants()
    described = json.loads(json.dumps(graphs.of_graph(graph, constants)))
    again = graphs.graph(described, [value for value in node.inputs if value.is_constant], 1 << 30)
    (read,) = again.nodes
    assert read.op == node.op and [(v.shape, v.dtype) for v in read.outputs] == [(v.shape, v.dtype) for v in node.outputs]
