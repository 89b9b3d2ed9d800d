"""What an implementation is: one way to compute one operator, on given formats.

Adding one is adding a file here with a subclass of ``Implementation`` and naming it in ``__init__.py``.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

from drystone import native
from drystone.errors import WeightsReleasedError
from drystone.graph.dtypes import FLOATS
from drystone.graph.graph import Node, Value
from drystone.graph.ops import Operator, WeightProduct
from drystone.plan.formats import PLAIN, formats_of
from drystone.plan.ranges import UNKNOWN, Range, largest_gain, range_of_tensor


@dataclass(frozen=True)
class Layout:
    """The formats of a node's inputs (None for a constant, which has no choice) and of its outputs."""

    inputs: tuple[str | None, ...]
    output: str

    def __str__(self) -> str:
        kinds = dict.fromkeys(format for format in self.inputs if format)
        return self.output if list(kinds) == [self.output] else f"{'+'.join(kinds)}→{self.output}"


# Steps that multiply by a weight which they pack; and all that packs weights.
WeightStep = (
    native.Convolution | native.Depthwise | native.Direct | native.Linear | native.Winograd | native.Gemm | native.ImplicitGemm
)
Packing = WeightStep | native.RecurrentWeights

# A step's operand: input i of the node, its output i, or constant memory made by the implementation (packed weights).
Operand = tuple[Literal["in", "out"], int] | torch.Tensor


@dataclass
class Converted:
    """An operand or a result that lies in another dtype than its step computes with: ``step`` converts it, to or from memory like
    ``desc``."""

    step: native.Step
    desc: native.TensorDesc


@dataclass
class Created:
    """What ``Implementation.create`` gives.

    Either a native ``step`` with its ``operands`` (in the order of the step's slots); or a ``call`` that gives torch tensors
    for torch tensors; or a view: the output is the memory of
    input ``view_of`` from byte ``view_offset`` on, and nothing runs. ``overwrites`` is the input whose memory the output
    takes over, as for a residual that is added where it lies. ``finish``: another step, with its operands, that goes over the
    output afterwards, where it lies. ``before`` and ``after``: steps that convert inputs, by number, and the output.
    """

    step: native.Step | None = None
    operands: list[Operand] = field(default_factory=list)
    call: Callable[[list[torch.Tensor]], list[torch.Tensor]] | None = None
    view_of: int | None = None
    view_offset: int = 0
    overwrites: int | None = None
    finish: tuple[native.Step, list[Operand]] | None = None
    before: dict[int, Converted] = field(default_factory=dict)
    after: Converted | None = None


class Implementation:
    """``name`` is what explain() shows; ``op`` is the operator it computes."""

    name: str = ""
    op: type[Operator]
    # Operands with any strides, if so many elements follow each other (the last axis at least; 0: in any case). None: dense ones.
    reads_strided: int | None = None
    suits_codes = False  # whether what it computes of codes is faster than the same of floats between conversions, on any CPU
    packs_for_sizes = False  # whether how it packs a weight depends on the sizes of x
    rounds_x = False  # whether it rounds its x to codes, where the node says that this may be

    def refuses(self, node: Node) -> str | None:
        """Why this node can't be computed here, or None. The only place where an ISA is tested."""
        return None if native.isa() != "none" else "the CPU has no AVX2, or DRYSTONE_MAX_ISA bars it"

    def layouts(self, node: Node) -> list[Layout]:
        """The formats on which it works, each a candidate of its own."""
        raise NotImplementedError

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        """The step for these descriptors. Raises ``ValueError`` where the native side declines them."""
        raise NotImplementedError


@dataclass
class Context:
    """What a step's maker may use: the store of packed weights, and which inputs it may overwrite."""

    weights: WeightStore
    free_inputs: frozenset[int] = frozenset()

    def operand(self, node: Node, index: int) -> Operand:
        """Input ``index`` of ``node`` as a step's operand: a constant's own memory, or where the value lies."""
        value = node.inputs[index]
        return ("in", index) if not value.is_constant else self.weights.plain(value, value.dtype)

    def product(
        self, node: Node, step: WeightStep, more: list[Operand], overwrites: int | None, dtype: torch.dtype | None = None
    ) -> Created:
        """A step with slots for x, the weight packed (from ``dtype``, its own if none is given), the bias in float32 if there is
        one, the output, and the operands ``more`` of the epilogue."""
        return self.product_of(node, step, self.weights.packed(step, node.inputs[1], dtype), more, overwrites)

    def product_of(
        self, node: Node, step: native.Step, weight: torch.Tensor, more: list[Operand], overwrites: int | None
    ) -> Created:
        """The same of a weight that is packed."""
        constants: list[Operand] = [weight]
        if (bias := node.of(WeightProduct).bias(node.inputs)) is not None:
            constants.append(self.weights.plain(bias, torch.float32))
        return Created(step, [("in", 0), *constants, ("out", 0), *more], overwrites=overwrites)


class CodedWeight(NamedTuple):
    """What a product of codes is told of its weight; nothing of floats."""

    scales: list[float]  # one an output channel
    fits_7_bits: bool  # so that sums of two products fit 16 bits; asked of CPUs without VNNI alone


class WeightStore:
    """Packed weights, each once: equal layouts of the same tensor share memory between steps, programs and threads.

    Nothing is kept alive here: memory goes when the last program that reads it goes. It is cut from chunks that are large
    enough for huge pages.
    """

    CHUNK = 32 << 20
    ALIGNMENT = 64
    are_placeholders = False  # what it gives has the size of weights, not their numbers

    def __init__(self) -> None:
        self._packed: weakref.WeakValueDictionary[tuple[Hashable, str], torch.Tensor] = weakref.WeakValueDictionary()
        self._users: weakref.WeakValueDictionary[tuple[Hashable, str], torch.Tensor] = weakref.WeakValueDictionary()
        self._chunk: weakref.ref[torch.Tensor] | None = None
        self._used = 0
        self._gains: dict[Hashable, float] = {}
        self._ranges: dict[Hashable, Range] = {}
        self._narrow: dict[Hashable, bool] = {}

    def _allocate(self, size: int) -> torch.Tensor:
        """``size`` bytes; the view that is given keeps its chunk alive."""
        chunk = self._chunk() if self._chunk else None
        if chunk is None or self._used + size > chunk.numel():
            chunk = native.allocate(max(size, self.CHUNK))
            self._chunk, self._used = weakref.ref(chunk), 0
        memory = chunk[self._used : self._used + size]
        setattr(memory, "chunk", chunk)  # noqa: B010 (a view shares the storage, not the object that the weak reference needs)
        self._used += -(-size // self.ALIGNMENT) * self.ALIGNMENT
        return memory

    def packed(self, packing: Packing, weight: Value, dtype: torch.dtype | None = None) -> torch.Tensor:
        """``weight`` (a constant) in the layout that ``packing`` says, which takes it in ``dtype``, its own if none is given."""
        key = (weight.key, packing.packed_key)
        memory = self._packed.get(key)
        if memory is None:
            plain = weight.constant.detach().to(dtype or weight.dtype).contiguous()
            if weight.key not in self._gains:  # while what a function makes, or what is released later, is at hand
                self._gains[weight.key] = largest_gain(real(weight, plain))
            memory = self._allocate(max(packing.packed_bytes, 1))
            packing.pack(native.DTYPES[plain.dtype], plain.data_ptr(), memory.data_ptr())
            self._packed[key] = memory
        return memory

    def packed_groups(self, strips: native.GroupedStrips, weight: list[Value]) -> torch.Tensor:
        """A weight of codes, scales, and minima if there are any (constants)."""
        key = (tuple([value.key for value in weight]), strips.packed_key)
        memory = self._packed.get(key)
        if memory is None:
            parts = [value.constant.detach().contiguous() for value in weight]
            memory = self._allocate(strips.packed_bytes)
            codes, scales, *minima = [part.data_ptr() for part in parts]
            strips.pack(codes, scales, minima[0] if minima else 0, memory.data_ptr())
            self._packed[key] = memory
        return memory

    def plain(self, weight: Value, dtype: torch.dtype) -> torch.Tensor:
        """``weight`` (a constant) densely row-major in ``dtype``: the user's own memory where it is that already."""
        key = (weight.key, f"plain {dtype}")
        for known in (self._packed, self._users):
            if (memory := known.get(key)) is not None:
                return memory
        data = weight.constant.detach()
        memory = data.to(dtype).contiguous()
        users = memory is data and isinstance(weight.data, torch.Tensor)
        (self._users if users else self._packed)[key] = memory
        return memory

    def gain(self, weight: Value) -> float:
        """How many times the largest |x| a product of x with ``weight`` can be."""
        if weight.key not in self._gains:
            try:
                self._gains[weight.key] = largest_gain(real(weight, weight.constant))
            except WeightsReleasedError:
                return math.inf
        return self._gains[weight.key]

    def coded(self, weight: Value) -> CodedWeight:
        codes = weight.quantisation
        if codes is None:
            return CodedWeight([], False)
        scales = list(codes.scales) if len(codes.scales) > 1 else [*codes.scales] * weight.shape[0]
        return CodedWeight(scales, self._fits_7_bits(weight))

    def _fits_7_bits(self, weight: Value) -> bool:
        if native.has_vnni():
            return False
        if weight.key not in self._narrow:
            low, high = torch.aminmax(weight.constant.detach())
            self._narrow[weight.key] = -64 <= int(low) <= int(high) <= 64
        return self._narrow[weight.key]

    def range(self, constant: Value) -> Range:
        if constant.key not in self._ranges:
            try:
                self._ranges[constant.key] = range_of_tensor(constant.constant)
            except WeightsReleasedError:
                return UNKNOWN
        return self._ranges[constant.key]

    @property
    def bytes(self) -> int:
        return sum(memory.nbytes for memory in self._packed.values())


class PlaceholderWeights(WeightStore):
    """Weights for an autotuning run: zeros of the packed size, in memory that the next candidate takes over.

    How long a kernel takes does not depend on the values; packing, and the page faults of fresh memory, take longer than the
    runs that are timed.
    """

    are_placeholders = True

    def __init__(self, store: WeightStore) -> None:
        super().__init__()
        self.store = store
        self._chunks: list[torch.Tensor] = []
        self._taken: dict[tuple[Hashable, str], torch.Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """A new candidate begins; nothing of the one before may run any more."""
        self._taken.clear()
        self._index = self._used = 0

    def release(self) -> None:
        """Give the memory back, before as much is packed."""
        self.reset()
        self._chunks.clear()

    def packed(self, packing: Packing, weight: Value, dtype: torch.dtype | None = None) -> torch.Tensor:
        return self._placeholder(weight.key, packing)

    def packed_groups(self, strips: native.GroupedStrips, weight: list[Value]) -> torch.Tensor:
        return self._placeholder(tuple([value.key for value in weight]), strips)

    def _placeholder(self, key: Hashable, packing: Packing | native.GroupedStrips) -> torch.Tensor:
        place = (key, packing.packed_key)
        if place not in self._taken:
            self._taken[place] = self._zeros(max(packing.packed_bytes, 1))
        return self._taken[place]

    def plain(self, weight: Value, dtype: torch.dtype) -> torch.Tensor:
        return self.store.plain(weight, dtype)

    def _zeros(self, size: int) -> torch.Tensor:
        while self._index < len(self._chunks) and self._used + size > self._chunks[self._index].numel():
            self._index, self._used = self._index + 1, 0
        if self._index == len(self._chunks):
            self._chunks.append(native.allocate(max(size, self.CHUNK)).zero_())
        start = self._used
        self._used += -(-size // self.ALIGNMENT) * self.ALIGNMENT
        return self._chunks[self._index][start : start + size]


def real(value: Value, data: torch.Tensor) -> torch.Tensor:
    """``data`` of a constant, or what its codes stand for."""
    return data if value.quantisation is None else value.quantisation.real(data)


def float_reason(node: Node) -> str | None:
    """Why the operands are no floats that the native side computes with, or None."""
    for value in [*node.inputs, *node.outputs]:
        if value.dtype not in FLOATS:
            return f"{str(value.dtype).removeprefix('torch.')} has no native kernel for {node.op}"
    return None


def number_reason(node: Node) -> str | None:
    """Why the operands are neither such floats nor codes, or None."""
    for value in [*node.inputs, *node.outputs]:
        if value.dtype not in FLOATS and value.quantisation is None:
            return f"{str(value.dtype).removeprefix('torch.')} has no native kernel for {node.op}"
    return None


def joint_layouts(node: Node, like: Value) -> list[Layout]:
    """Every format of ``like``, in which all operands of its rank lie as well; other operands are plain."""
    layouts = []
    for format in formats_of(like):
        inputs = tuple(
            None if value.is_constant else format if len(value.shape) == len(like.shape) else PLAIN for value in node.inputs
        )
        same_rank = len(node.output.shape) == len(like.shape)
        layouts.append(Layout(inputs, format if same_rank else PLAIN))
    return layouts
