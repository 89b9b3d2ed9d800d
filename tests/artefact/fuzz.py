"""Changed artefacts, many of them: each must be refused with ArtefactError, or run. ``python tests/artefact/fuzz.py --count 10000``

The changes are loaded and run in processes of their own, which may die or hang without ending the run. A change is made from its number
alone: ``--first N --count 1`` makes one again.
"""

from __future__ import annotations

import argparse
import collections
import copy
import hashlib
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import drystone
from artefacts import DOCUMENTS, FILES, copied, header, read, saved, write, write_header

WATCHDOG_SECONDS = 60
MEMORY = 12 << 30

INTEGERS = (0, 1, -1, 2, 7, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, -(2**63), 10**30)
WORDS = ("", "x", "aten", "conv", "add.Tensor", "from_file.default", "add_.Tensor", "float64", "bool", "blocked16", "../x")
WORDS += ("inf", "nan", "0")
OTHERS = (
    None,
    True,
    False,
    [],
    {},
    0.5,
    -0.0,
    1e308,
    1e-320,
    "inf",
    [[]],
    {"input": 0},
    {"float": "nan"},
    {"device": "cpu"},
    [0, 1],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--bfloat16", action="store_true", help="in reduced precision, which converts on the way")
    parser.add_argument("--batches", type=int, default=1, help="programs in the artefact")
    parser.add_argument("--worker", type=Path)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.first, options.count)
    with tempfile.TemporaryDirectory() as folder:
        saved(Path(folder), torch.bfloat16 if options.bfloat16 else None, options.batches)
        outcomes = fuzz(Path(folder), options.first, options.count)
    for (kind, outcome), numbers in sorted(outcomes.items()):
        print(f"{kind:24} {outcome:40} {len(numbers):6}  {numbers[:5]}")


def fuzz(folder: Path, first: int, count: int) -> dict[tuple[str, str], list[int]]:
    """(kind of change, what came of it) → the numbers of the changes. ``folder`` holds what ``saved`` put there."""
    outcomes: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    number, end = first, first + count
    while number < end:
        command = [sys.executable, __file__, "--worker", str(folder), "--first", str(number), "--count", str(end - number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
            assert process.stdout is not None
            while number < end:
                ready, _, _ = select.select([process.stdout], [], [], WATCHDOG_SECONDS)
                line = process.stdout.readline() if ready else ""
                if not line:
                    process.kill()
                    kind = KINDS[number % len(KINDS)].__name__
                    outcomes[kind, f"died ({process.wait()})" if ready else "hung"].append(number)
                    number += 1
                    break
                kind, outcome = line.rstrip("\n").split("\t")
                outcomes[kind, outcome].append(number)
                number += 1
    return outcomes


def work(folder: Path, first: int, count: int) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    original = folder / "model.drystone"
    with tempfile.TemporaryDirectory(dir=folder) as own:
        inputs = drystone.load(original), torch.Generator().manual_seed(0)
        x = (torch.randn(2, 3, 8, 8, generator=inputs[1]), torch.randint(0, 11, (2, 5), generator=inputs[1]))
        expected = torch.utils._pytree.tree_leaves(inputs[0](*x))
        for number in range(first, first + count):
            path = copied(original, Path(own) / "model.drystone")
            kind = KINDS[number % len(KINDS)]
            kind(path, random.Random(number))
            print(f"{kind.__name__}\t{outcome(path, x, expected)}", flush=True)


def outcome(path: Path, inputs: tuple[torch.Tensor, ...], expected: list[Any]) -> str:
    try:
        fast = drystone.load(path)
    except drystone.ArtefactError:
        return "refused"
    except Exception as error:
        return f"load raised {type(error).__name__}"
    try:
        result = torch.utils._pytree.tree_leaves(fast(*inputs))
    except drystone.InputError:
        return "takes other inputs"
    except Exception as error:
        return f"call raised {type(error).__name__}"
    same = len(result) == len(expected) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in zip(result, expected, strict=True)
    )
    return "runs, the same results" if same else "runs, other results"


# -- changes -------------------------------------------------------------------------------------------------------------


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(max(len(data), 1))
    length = chance.choice((1, 2, 7, 64, 1000))
    match chance.randrange(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case 2:
            return data[:at] + chance.randbytes(length) + data[at + length :]
        case 3:
            return data[:at] + data[at + length :]
        case 4:
            return data[:at] + chance.randbytes(length) + data[at:]
        case _:
            return data[:at] + data[max(at - length, 0) : at] * 2 + data[at:]


def bytes_of_a_file(path: Path, chance: random.Random) -> None:
    """No checksum is made anew: each of these must be found."""
    file = path / chance.choice(FILES)
    file.write_bytes(changed_bytes(file.read_bytes(), chance))


def bytes_with_checksum(path: Path, chance: random.Random) -> None:
    name = chance.choice(DOCUMENTS)
    write(path, name, changed_bytes((path / name).read_bytes(), chance))


def places(content: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every item."""
    found: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        keys: Any = list(content)
    elif isinstance(content, list):
        keys = range(len(content))
    else:
        return found
    for key in keys:
        found.append((content, key))
        found += places(content[key])
    return found


def changed_item(content: Any, chance: random.Random) -> None:
    """Something of another value, another kind, from another place, gone, or twice."""
    found = places(content)
    container, key = chance.choice(found)
    # Numbers and words lie deep in long lists: look for them as often as for what holds them.
    if chance.random() < 0.7:
        leaves = [(c, k) for c, k in found if not isinstance(c[k], (dict, list))]
        container, key = chance.choice(leaves)
    item = container[key]
    other, place = chance.choice(found)
    match chance.randrange(10):
        case 0:
            container[key] = copy.deepcopy(other[place])
        case 1:
            container[key] = chance.choice(OTHERS)
        case 2:
            del container[key]
        case 3 if isinstance(container, list):
            container.insert(key, copy.deepcopy(item))
        case 4 if isinstance(container, list):
            swap = chance.randrange(len(container))
            container[key], container[swap] = container[swap], item
        case _:
            if type(item) is int:
                container[key] = chance.choice((chance.choice(INTEGERS), item + 1, item - 1, item * 2, chance.randrange(20)))
            elif isinstance(item, str):
                words = [c[k] for c, k in found if isinstance(c[k], str)]
                container[key] = chance.choice((chance.choice(WORDS), chance.choice(words), item[:-1], item.upper()))
            elif isinstance(item, bool):
                container[key] = not item
            elif isinstance(item, float):
                container[key] = chance.choice((0.0, -1.0, 1e38, 1e-38, "inf", "-inf", "nan", item * 2))
            elif isinstance(item, list):
                chance.shuffle(item)
            else:
                container[key] = chance.choice(OTHERS)


def program_items(path: Path, chance: random.Random) -> None:
    content = read(path, "program.json")
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        changed_item(content, chance)
    write(path, "program.json", content)


def graph_numbers(path: Path, chance: random.Random) -> None:
    """What stays plausible: two numbers of one node, one more and one less; or one of them a little."""
    content = read(path, "program.json")
    node = chance.choice(chance.choice(content["programs"])["graph"]["nodes"])
    part = chance.choice([node[key] for key in ("attributes", "args", "epilogue", "inputs", "outputs") if node.get(key)] or [node])
    numbers = [(c, k) for c, k in places(part) if type(c[k]) is int]
    step = chance.choice((1, 1, 2, 3, 8))
    for (container, key), sign in zip(chance.sample(numbers, min(len(numbers), 2)), (1, -1), strict=False):
        container[key] += sign * step
        if chance.random() < 0.3:
            break
    write(path, "program.json", content)


def plan_items(path: Path, chance: random.Random) -> None:
    content = read(path, "plan.json")
    changed_item(content, chance)
    write(path, "plan.json", content)


def manifest_items(path: Path, chance: random.Random) -> None:
    content = read(path, "artefact.json")
    changed_item(content, chance)
    write(path, "artefact.json", content)


def header_items(path: Path, chance: random.Random) -> None:
    content, data = header(path)
    changed_item(content, chance)
    write_header(path, content, data)


def header_bytes(path: Path, chance: random.Random) -> None:
    content, data = header(path)
    write_header(path, changed_bytes(json.dumps(content).encode(), chance), data)


def header_length(path: Path, chance: random.Random) -> None:
    data = (path / "weights.safetensors").read_bytes()
    length = chance.choice((chance.choice(INTEGERS), int.from_bytes(data[:8], "little") + chance.randrange(-9, 9)))
    write(path, "weights.safetensors", (length % 2**64).to_bytes(8, "little") + data[8:])


def weights(path: Path, chance: random.Random) -> None:
    """Other numbers, with their checksums: NaN and infinity among them, and indices beyond what they index."""
    content, data = header(path)
    program = read(path, "program.json")
    index = chance.randrange(len(program["constants"]))
    start, stop = content[str(index)]["data_offsets"]
    size = stop - start
    value = chance.choice(
        (chance.randbytes(size), b"\xff" * size, b"\x00" * size, b"\x7f" * size, b"\x00\x00\x80\x7f" * (size // 4))
    )
    value = value[:size].ljust(size, b"\x01")
    write_header(path, content, data[:start] + value + data[stop:])
    program["constants"][index]["sha256"] = hashlib.sha256(value).hexdigest()
    write(path, "program.json", program)


KINDS = (
    *(program_items, graph_numbers, bytes_of_a_file, program_items, graph_numbers),
    *(bytes_with_checksum, plan_items, header_items, weights, graph_numbers),
    *(program_items, header_bytes, header_length, manifest_items, program_items),
)

if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
