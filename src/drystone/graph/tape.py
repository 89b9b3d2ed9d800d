"""Numbers that know how they were computed from sizes: what is built with them can be had for other sizes too.

Arithmetic on a ``Number`` gives another, and its ``Tape`` notes the step. A comparison gives a plain bool, which must come out the
same for other sizes, or else all would be built otherwise. So must a number that is needed as a plain one: as an index, say.
``replay`` computes everything for other sizes, or finds that it does not hold for them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

_Function = Callable[..., Any]


class Number:
    """An int or float that was computed from sizes."""

    __slots__ = ("place", "tape", "value")

    def __init__(self, tape: Tape, place: int, value: Any) -> None:
        self.tape, self.place, self.value = tape, place, value

    @staticmethod
    def _arithmetic(function: _Function, reflected: bool = False) -> Any:
        def method(self: Number, other: Any) -> Any:
            if not isinstance(other, (int, float, Number)):
                return NotImplemented
            return self.tape.number(function, other, self) if reflected else self.tape.number(function, self, other)

        return method

    @staticmethod
    def _comparison(function: _Function) -> Any:
        def method(self: Number, other: Any) -> Any:
            if not isinstance(other, (int, float, Number)):
                return NotImplemented
            if isinstance(other, Number) and other.place == self.place:
                return function(0, 0)
            return self.tape.decision(function, self, other)

        return method

    __add__, __radd__ = _arithmetic(operator.add), _arithmetic(operator.add, True)
    __sub__, __rsub__ = _arithmetic(operator.sub), _arithmetic(operator.sub, True)
    __mul__, __rmul__ = _arithmetic(operator.mul), _arithmetic(operator.mul, True)
    __truediv__, __rtruediv__ = _arithmetic(operator.truediv), _arithmetic(operator.truediv, True)
    __floordiv__, __rfloordiv__ = _arithmetic(operator.floordiv), _arithmetic(operator.floordiv, True)
    __mod__, __rmod__ = _arithmetic(operator.mod), _arithmetic(operator.mod, True)
    __pow__, __rpow__ = _arithmetic(operator.pow), _arithmetic(operator.pow, True)
    __eq__, __ne__ = _comparison(operator.eq), _comparison(operator.ne)
    __lt__, __le__ = _comparison(operator.lt), _comparison(operator.le)
    __gt__, __ge__ = _comparison(operator.gt), _comparison(operator.ge)

    def __neg__(self) -> Number:
        return self.tape.number(operator.neg, self)

    def __abs__(self) -> Number:
        return self.tape.number(operator.abs, self)

    def __bool__(self) -> bool:
        return self.tape.decision(operator.truth, self)

    def __index__(self) -> int:
        return operator.index(self.tape.fixed(self))

    def __int__(self) -> int:
        return int(self.tape.fixed(self))

    def __float__(self) -> float:
        return float(self.tape.fixed(self))

    def __hash__(self) -> int:
        return hash(self.tape.fixed(self))

    def __repr__(self) -> str:
        return repr(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)


class Computed:
    """What is no number and was computed from sizes: the data of a constant, or a table. What looks into it fixes the sizes."""

    __slots__ = ("place", "tape", "value")

    def __init__(self, tape: Tape, place: int, value: Any) -> None:
        self.tape, self.place, self.value = tape, place, value

    def __call__(self) -> Any:
        self.tape.fix_sizes(self.place)
        return self.value

    def __len__(self) -> int:
        return len(self())

    def __iter__(self) -> Iterator[Any]:
        return iter(self())

    def __getitem__(self, index: Any) -> Any:
        return self()[index]

    def __eq__(self, other: object) -> bool:
        return other is self or bool(self() == other)

    def __hash__(self) -> int:
        return hash(self())

    def __repr__(self) -> str:
        return repr(self.value)


class _Entry(NamedTuple):
    place: int
    function: _Function
    operands: tuple[int, ...]
    expected: Any


_ANYTHING = object()

# A number and what changes nothing about it, to the right of it.
_NEUTRAL = {operator.add: 0, operator.sub: 0, operator.mul: 1, operator.floordiv: 1}
_COMMUTE = (operator.add, operator.mul)


class Tape:
    """What is computed from ``sizes``, in order. Places hold the sizes, then constants and results."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._values: list[Any] = list(sizes)
        self.numbers = [Number(self, place, size) for place, size in enumerate(sizes)]
        self._entries: list[_Entry] = []
        self._results: dict[tuple[_Function, tuple[int, ...]], int] = {}  # the places of entries
        self._constants: dict[tuple[type, Any], int] = {}
        self._open = True

    def number(self, function: _Function, *operands: Any) -> Any:
        """Of one or two numbers."""
        if len(operands) == 2:
            neutral, (left, right) = _NEUTRAL.get(function), operands
            if type(right) is int and right == neutral:
                return left
            if type(left) is int and left == neutral and function in _COMMUTE:
                return right
        return self._result(self._noted(function, operands))

    def computed(self, function: _Function, *operands: Any) -> Any:
        """The result of ``function``, a number or anything else; a list has each entry alone."""
        place = self._noted(*self._flat(function, operands))
        made = self._values[place]
        if not isinstance(made, list):
            return self._result(place)
        whole = Computed(self, place, made)
        return [self._result(self._noted(operator.getitem, (whole, index))) for index in range(len(made))]

    def decision(self, function: _Function, *operands: Any) -> Any:
        """What ``function`` says, which it must say for other sizes too."""
        place = self._noted(*self._flat(function, operands), decides=True)
        return self._values[place]

    def _result(self, place: int) -> Any:
        value = self._values[place]
        if value is None:
            return None
        return (Number if isinstance(value, (int, float)) else Computed)(self, place, value)

    def _flat(self, function: _Function, operands: Sequence[Any]) -> tuple[_Function, Sequence[Any]]:
        """The same with numbers and such inside structures as operands of their own."""
        if all(isinstance(operand, (Number, Computed, int, float)) for operand in operands):
            return function, operands
        leaves: list[Number | Computed] = []

        def noted(leaf: Any) -> Any:
            if not isinstance(leaf, (Number, Computed)):
                return leaf
            leaves.append(leaf)
            return _Leaf(len(leaves) - 1)

        structure = mapped(noted, operands)

        def call(*values: Any) -> Any:
            return function(*mapped(lambda leaf: values[leaf] if type(leaf) is _Leaf else leaf, structure))

        return call, leaves

    def fixed(self, number: Number) -> Any:
        """The plain number, which must be the same for other sizes."""
        self.decision(operator.eq, number, number.value)
        return number.value

    def fix_sizes(self, *places: int) -> None:
        """Let only those sizes hold from which the very same comes."""
        of = {entry.place: entry.operands for entry in self._entries}
        waiting, seen = [*places], set[int]()
        while waiting:
            place = waiting.pop()
            if place not in seen:
                seen.add(place)
                waiting += of.get(place, ())
        for place in sorted(seen):
            if place < len(self.numbers):
                self.fixed(self.numbers[place])

    @property
    def decides(self) -> bool:
        return any(entry.expected is not _ANYTHING for entry in self._entries)

    def close(self) -> None:
        """Nothing more is noted: from here on it is replayed."""
        self._open = False
        for entry in self._entries:
            self._values[entry.place] = None

    def replay(self, sizes: Sequence[int]) -> list[Any] | None:
        """What lies at each place for these sizes; None where anything is decided otherwise, or fails."""
        values = [*sizes, *self._values[len(sizes) :]]
        try:
            for place, function, operands, expected in self._entries:
                values[place] = found = function(*[values[operand] for operand in operands])
                if expected is not _ANYTHING and found != expected:
                    return None
        except Exception:  # what fails here would fail there
            return None
        return values

    def _noted(self, function: _Function, operands: Sequence[Any], decides: bool = False) -> int:
        assert self._open, "a number of a tape that is closed"
        places = tuple([self._place(operand) for operand in operands])
        if function in _COMMUTE:
            places = tuple(sorted(places))
        known = self._results.get((function, places))
        if known is not None:
            return known
        try:
            value = function(*[self._values[place] for place in places])
        except Exception:  # which is a decision too
            self.fix_sizes(*places)
            raise
        place = self._results[function, places] = len(self._values)
        self._values.append(value)
        self._entries.append(_Entry(place, function, places, value if decides else _ANYTHING))
        return place

    def _place(self, operand: Any) -> int:
        if isinstance(operand, (Number, Computed)):
            return operand.place
        plain = isinstance(operand, (int, float))  # -0.0 is 0.0, but is another number
        key = type(operand), repr(operand) if plain else id(operand)
        if key not in self._constants:
            self._constants[key] = len(self._values)
            self._values.append(operand)
        return self._constants[key]


class _Leaf(int):
    """The number of a leaf, in its place."""


def mapped(function: Callable[[Any], Any], item: Any) -> Any:
    """``function`` of every leaf of nested tuples, lists, dicts and dataclasses; what has no other leaf is the same object."""
    if isinstance(item, (tuple, list)):
        entries = [mapped(function, entry) for entry in item]
        return item if all(map(operator.is_, entries, item)) else type(item)(entries)
    if isinstance(item, dict):
        found = {key: mapped(function, entry) for key, entry in item.items()}
        return item if all(found[key] is item[key] for key in item) else found
    if is_dataclass(item) and not isinstance(item, type):
        changed = {}
        for field in fields(item):
            entry = getattr(item, field.name)
            if (new := mapped(function, entry)) is not entry:
                changed[field.name] = new
        return replace(item, **changed) if changed else item
    return function(item)


def tape_of(item: Any) -> Tape | None:
    """The tape of the numbers and ``Computed`` tensors inside, where there are any."""
    found: list[Tape] = []

    def look(leaf: Any) -> Any:
        if isinstance(leaf, (Number, Computed)):
            found.append(leaf.tape)
        return leaf

    mapped(look, item)
    return found[0] if found else None


def computed(function: _Function, *operands: Any) -> Any:
    """``function(*operands)``: ``Computed``, or a ``Number``, where operands come from sizes of a tape."""
    tape = tape_of(operands)
    return tape.computed(function, *operands) if tape else function(*operands)


def decided(function: _Function, *operands: Any) -> Any:
    """``function(*operands)``, which is to be the same for other sizes where operands come from those of a tape."""
    tape = tape_of(operands)
    return tape.decision(function, *operands) if tape else function(*operands)
