"""Weights out of a GGUF file: every type of block against the package's own reading, and what files may have wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import drystone
from agreement import float32_limit, prepared_of, program_of, relative_error
from drystone.checkpoints.gguf import BLOCKS, read_blocks
from drystone.graph.groups import dequantised
from drystone.graph.interpreter import run
from drystone.graph.ops import QuantisedLinear

gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")


def blocks(kind: str, rows: int, numbers: int, seed: int = 0) -> Any:
    """Random bytes, but for the float16 of scales, which are small numbers."""
    of, random = BLOCKS[kind], np.random.default_rng(seed)
    data = random.integers(0, 256, (rows, numbers // of.numbers, of.bytes), dtype=np.uint8)
    halves = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}[kind]
    for at in halves:
        scale = random.normal(size=data.shape[:2]).astype(np.float16) / 64
        data[..., at : at + 2] = scale[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def floats(kind: str, data: Any) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_block_is_read_as_the_package_reads_it(kind: str) -> None:
    data = blocks(kind, 3, 512)
    parts = read_blocks(BLOCKS[kind], data).tensors()
    got = dequantised(BLOCKS[kind].kind.bits, *(part.double() if part.is_floating_point() else part for part in parts))
    assert relative_error(got, floats(kind, data)) < 1e-6


def write(path: Path, tensors: dict[str, tuple[str, Any]]) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, (kind, data) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Model(nn.Module):
    """An embedding that is the last layer too, an attention whose rows lie in another order, and one weight more."""

    def __init__(self, path: Path, value: str = "Q6_K") -> None:
        super().__init__()
        kinds = {"tokens": ("Q8_0", 40), "q": ("Q4_K", 256), "k": ("Q4_K", 256), "v": (value, 256), "middle": ("Q4_1", 256)}
        stored = {name: (kind, blocks(kind, rows, 256, seed)) for seed, (name, (kind, rows)) in enumerate(kinds.items())}
        self.path = write(path, stored | {"norm": ("F32", np.ones((256, 1), np.float32))})
        self.tokens = nn.Embedding(40, 256, _weight=floats(*stored["tokens"]))
        for name in ("q", "k", "v", "middle"):
            layer = nn.Linear(256, 256, bias=False)
            weight = floats(*stored[name])
            layer.weight = nn.Parameter(
                weight if name in ("v", "middle") else weight.view(4, 32, 2, 256).swapaxes(1, 2).reshape(256, 256)
            )
            setattr(self, name, layer)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens)
        q, k, v = (layer(x).unflatten(2, (4, 64)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return torch.nn.functional.linear(self.middle(x), self.tokens.weight)


@pytest.mark.parametrize(("value", "kinds"), [("Q6_K", [(4, 32)] * 3 + [(8, 16), (8, 32)]), ("Q4_K", [(4, 32)] * 2 + [(8, 32)])])
def test_a_model_keeps_the_codes_of_its_file(value: str, kinds: list[tuple[int, int]], tmp_path: Path) -> None:
    """The weights of queries, keys and values are one where all are of a type."""
    model, tokens = Model(tmp_path / "model.gguf", value).eval(), torch.tensor([[1, 39, 0]])
    fast = drystone.optimize(model, tokens, weights=str(model.path), tuning="estimate")
    graph, got = prepared_of(fast).graph, program_of(fast)([tokens])[0]
    want, plain = model.double()(tokens), run(graph, [tokens])[0]
    assert relative_error(got, want) <= float32_limit(relative_error(plain, want))
    assert sorted((node.op.bits, node.op.group) for node in graph if isinstance(node.op, QuantisedLinear)) == kinds
    assert "Not quantised" not in str(fast.explain())


def test_kept_modules_keep_floats(tmp_path: Path) -> None:
    model, tokens = Model(tmp_path / "model.gguf").eval(), torch.tensor([[1, 39, 0]])
    fast = drystone.optimize(model, tokens, weights=model.path, keep=["middle"], tuning="estimate")
    assert "Not quantised: middle." in str(fast.explain())


def test_files_that_are_wrong(tmp_path: Path) -> None:
    model, tokens = Model(tmp_path / "model.gguf").eval(), torch.tensor([[1]])
    whole = model.path.read_bytes()

    def raises(error: type[Exception], says: str, path: Path) -> None:
        with pytest.raises(error, match=says):
            drystone.optimize(model, tokens, weights=path, tuning="estimate")

    raises(drystone.InputError, "there is no file", tmp_path / "none.gguf")
    damaged = tmp_path / "damaged.gguf"
    for length in (0, 3, 20, 150, len(whole) // 2, len(whole) - 40):
        damaged.write_bytes(whole[:length])
        raises(drystone.InputError, "damaged", damaged)
    damaged.write_bytes(b"no such" + whole[7:])
    raises(drystone.InputError, "damaged", damaged)
    other = write(tmp_path / "other.gguf", {"middle": ("Q4_0", blocks("Q4_0", 256, 256, 9))})
    raises(drystone.InputError, "none of the model's weights", other)
    unserved = write(tmp_path / "unserved.gguf", {"middle": ("Q5_0", np.zeros((4, 22), np.uint8))})
    raises(drystone.UnsupportedError, "Q5_0.*served are Q8_0", unserved)
