"""JSON that may come from anybody: read strictly, each item checked for its kind and range where it is taken out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from drystone import native
from drystone.errors import ArtefactError

# What JSON may be at most, in bytes: a model of ten thousand operators takes 5 MB.
MAX_BYTES = 32 << 20
MAX_TEXT = 4096
MAX_ITEMS = 1 << 20  # of a list
MAX_INT = 2**63 - 1

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*native.DTYPES, torch.complex64)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def name_of(dtype: torch.dtype) -> str:
    """The dtype's name in a file. Raises ``ArtefactError`` for one that no artefact holds."""
    require(dtype in _NAMES, f"{dtype} is a dtype that no artefact holds")
    return _NAMES[dtype]


def require(condition: object, problem: str) -> None:
    """Raise ``ArtefactError`` unless ``condition``."""
    if not condition:
        raise ArtefactError(problem)


def parse(data: bytes, what: str) -> Any:
    """The JSON in ``data``. Raises ``ArtefactError`` for anything else, for a key given twice, NaN, and too deep nesting."""
    require(len(data) <= MAX_BYTES, f"{what} is larger than {MAX_BYTES} bytes")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise ValueError("a key is given twice")
        return table

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{what} can't be read: {error}") from None


def serialise(content: Any, what: str, limit: int = MAX_BYTES) -> bytes:
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
    require(len(data) <= limit, f"{what} would be larger than {limit} bytes")
    return data


def entries(item: Any, what: str, *names: str) -> list[Any]:
    """The values of an object that has exactly these keys, in this order."""
    require(type(item) is dict, f"{what} is no object")
    require(item.keys() == set(names), f"{what} must have {', '.join(names)}, and has {', '.join(map(repr, list(item)[:20]))}")
    return [item[name] for name in names]


def listed(item: Any, what: str, count: int | None = None) -> list[Any]:
    require(type(item) is list and len(item) <= MAX_ITEMS, f"{what} is no list of at most {MAX_ITEMS} entries")
    require(count is None or len(item) == count, f"{what} must have {count} entries, and has {len(item)}")
    return item


def text(item: Any, what: str) -> str:
    require(
        type(item) is str and len(item) <= MAX_TEXT and item.isprintable(), f"{what} is no text of at most {MAX_TEXT} characters"
    )
    return item


def word(item: Any, what: str, choices: Iterable[str]) -> str:
    known = list(choices)
    require(type(item) is str and item in known, f"{what}: {item!r:.80} is none of {', '.join(known)}")
    return item


def whole(item: Any, what: str, low: int = 0, high: int = MAX_INT) -> int:
    require(type(item) is int and low <= item <= high, f"{what}: {item!r:.80} is no integer from {low} to {high}")
    return item


def wholes(item: Any, what: str, low: int = 0, high: int = MAX_INT, count: int | None = None) -> tuple[int, ...]:
    return tuple(whole(entry, what, low, high) for entry in listed(item, what, count))


def truth(item: Any, what: str) -> bool:
    require(type(item) is bool, f"{what}: {item!r:.80} is neither true nor false")
    return item


def number(item: Any, what: str) -> float:
    """A JSON number, or "inf", "-inf" or "nan"."""
    if type(item) is str and item in _SPECIAL:
        return _SPECIAL[item]
    require(type(item) in (int, float), f"{what}: {item!r:.80} is no number")
    try:
        value = float(item)
    except OverflowError:
        value = math.inf
    require(math.isfinite(value), f"{what} is no number that a float holds")
    return value


def finite(item: Any, what: str) -> float:
    value = number(item, what)
    require(math.isfinite(value), f"{what} is not finite")
    return value


def of_number(value: float) -> float | str:
    """What ``number`` reads."""
    return float(value) if math.isfinite(value) else str(float(value))


def dtype_of(item: Any, what: str) -> torch.dtype:
    return DTYPES[word(item, what, DTYPES)]


def constant_of(item: Any, what: str) -> Any:
    """A constant of the call: None, a bool, an int, a text, ``{"float": x}`` or ``{"dtype": name}``."""
    if item is None or type(item) is bool:
        return item
    if type(item) is int:
        return whole(item, what, -MAX_INT - 1)
    if type(item) is str:
        return text(item, what)
    require(type(item) is dict and len(item) == 1, f"{what}: {item!r:.80} is no constant")
    if "float" in item:
        return number(item["float"], what)
    return dtype_of(entries(item, what, "dtype")[0], what)


def of_constant(value: Any, what: str) -> Any:
    """What ``constant_of`` reads. Raises ``ArtefactError`` for other values."""
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is str:
        return text(value, what)
    if type(value) is float:
        return {"float": of_number(value)}
    require(isinstance(value, torch.dtype), f"{what}: {value!r:.80} is a {type(value).__name__}, which no artefact holds")
    return {"dtype": name_of(value)}


def plain(value: Any) -> Any:
    """Attributes as JSON: tuples as lists, floats as ``number`` reads them."""
    if isinstance(value, float):
        return of_number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    return value
