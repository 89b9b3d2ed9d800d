"""
The native core's interface. Addresses are ``tensor.data_ptr()``; the caller keeps the memory alive.

A factory of steps raises ``ValueError``, saying why, where it does not serve the descriptors it is given.
"""

from collections.abc import Sequence
import enum
from typing import Any


class DType(enum.Enum):
    f32 = 0

    bf16 = 1

    s64 = 2

    s32 = 3

    s16 = 4

    s8 = 5

    u8 = 6

    boolean = 7

    f64 = 8

    f16 = 9

    @property
    def torch_name(self) -> str: ...

    @property
    def itemsize(self) -> int: ...

    @property
    def is_float(self) -> bool:
        """Whether graphs compute with it in float32."""

    @property
    def is_moved(self) -> bool:
        """Whether graphs move it only."""

class Format:
    """How the axes of a tensor (N, C, spatial…) lie in memory."""

    @property
    def name(self) -> str: ...

    @property
    def is_channels_last(self) -> bool: ...

    @property
    def block(self) -> int:
        """So many neighbouring channels lie together; 1: no blocks."""

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __repr__(self) -> str: ...

    plain: Format = ...

    channels_last: Format = ...

    blocked16: Format = ...

    blocked8: Format = ...

def formats() -> list[Format]:
    """All that there are."""

def blocked() -> Format:
    """
    The blocks that the CPU in force computes in: one fills a vector of float32.
    """

class TensorDesc:
    """
    Dtype, format, logical shape (N, C, spatial...), strides in elements; in blocks, strides[1] leads to the next block. s8 and u8 stand for (code - zero_point) * scale.
    """

    def __init__(self, dtype: DType, format: Format, shape: Sequence[int], strides: Sequence[int], scale: float = 1.0, zero_point: int = 0) -> None: ...

    @staticmethod
    def dense(dtype: DType, format: Format, shape: Sequence[int], scale: float = 1.0, zero_point: int = 0) -> TensorDesc: ...

    @property
    def dtype(self) -> DType: ...

    @property
    def format(self) -> Format: ...

    @property
    def shape(self) -> list[int]: ...

    @property
    def strides(self) -> list[int]: ...

    @property
    def scale(self) -> float: ...

    @property
    def zero_point(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def is_dense(self) -> bool: ...

    @property
    def has_padding(self) -> bool: ...

    def same_memory(self, other: TensorDesc) -> bool: ...

    def __repr__(self) -> str: ...

class Step:
    """One kernel, ready to run on the addresses in its slots."""

    @property
    def implementation(self) -> str: ...

    @property
    def scratchpad_bytes(self) -> int: ...

class Program:
    """Steps in order, each with the slots that it works on."""

    def __init__(self) -> None: ...

    def add(self, step: Step, slots: Sequence[int], exact: bool = False) -> None: ...

    def __len__(self) -> int: ...

    @property
    def scratchpad_bytes(self) -> int: ...

    @property
    def slot_count(self) -> int: ...

class Frame:
    """
    The memory of one call: an address for each slot; ``externals`` (slot, argument, byte offset) are bound at each call.
    """

    def __init__(self, program: Program, addresses: Sequence[int], externals: Sequence[tuple[int, int, int]], scratchpad: int, threads: int) -> None: ...

    def bind(self, arguments: Sequence[int]) -> None: ...

    def call(self, arguments: Sequence[int], steps: int) -> None: ...

    def run(self, begin: int, end: int) -> None: ...

    def run_timed(self, begin: int, end: int) -> list[float]: ...

    def run_watched(self, begin: int, end: int) -> tuple[list[float], list[float]]:
        """
        Seconds of each step, and those that its threads waited for each other, in the mean; below 0 where they were not seen.
        """

class Snapshot:
    """
    The bytes at some places, each an address and a number of bytes, as they were when this was made.
    """

    def __init__(self, places: Sequence[tuple[int, int]]) -> None: ...

    def unchanged(self) -> bool:
        """
        Whether all bytes are what they were. Places after the first that is not need not be readable.
        """

    def changed(self) -> list[int]:
        """
        The indices of the places whose bytes are others now. All of them have to be readable.
        """

def entries_hold(dicts: list[Any], keys: list[Any], values: list[Any]) -> bool:
    """
    Whether each dict has, under its key, the very object in ``values``. Lists of equal length.
    """

def guard(desc: TensorDesc, limit: float) -> Step:
    """
    Has the steps after it run exact where its slot holds a NaN, an infinity or a magnitude above the limit.
    """

def set_threads(threads: int) -> None:
    """
    Threads of steps made and run by the calling thread. oneDNN divides a primitive's work when it is made, by the maker's count.
    """

def advise_huge_pages(address: int, bytes: int) -> None: ...

VERSION: str

def isa() -> str:
    """
    The level of instructions in force: none, avx2, avx512 or amx, as ``DRYSTONE_MAX_ISA`` takes them.
    """

def features() -> list[str]:
    """The instructions in force, by name."""

def onednn_version() -> str: ...

def post_op_limit(kind: str, alpha: float) -> float: ...

class Product(Step):
    """
    A convolution or a linear layer by oneDNN. x may be codes (u8, s8): with weights of s8 and ``weight_scales``, one an output channel, and the output codes, float32 or bfloat16.
    """

    @property
    def has_exact_run(self) -> bool:
        """Whether, run exact, its epilogue goes another way."""

    @property
    def packed_bytes(self) -> int: ...

    @property
    def packed_key(self) -> str: ...

class Convolution(Product):
    """
    Slots: x, packed weights, bias where there is one, output, operands of the post-ops.
    """

    def __init__(self, x: TensorDesc, weights: Sequence[int], has_bias: bool, output: TensorDesc, stride: Sequence[int], padding_l: Sequence[int], padding_r: Sequence[int], dilation: Sequence[int], groups: int, post_ops: Sequence[tuple[str, float, float, TensorDesc | None]], transposed: bool = False, weight_scales: Sequence[float] = [], weights_fit_7_bits: bool = False) -> None: ...

    def pack(self, dtype: DType, source: int, packed: int) -> None: ...

class Linear(Product):
    """
    Slots: x (M, K), packed weights, bias where there is one, output (M, N), operands of the post-ops.
    """

    def __init__(self, inner_product: bool, x: TensorDesc, n: int, has_bias: bool, output: TensorDesc, post_ops: Sequence[tuple[str, float, float, TensorDesc | None]], weight_scales: Sequence[float] = [], weights_fit_7_bits: bool = False) -> None: ...

    def pack(self, dtype: DType, source: int, packed: int) -> None: ...

class Matmul(Step):
    """
    Slots: a (..., M, K), b (..., K, N), output. Strides as they come; a batch axis of 1 is broadcast.
    """

    def __init__(self, a: TensorDesc, b: TensorDesc, output: TensorDesc) -> None: ...

class Reorder(Step):
    def __init__(self, source: TensorDesc, destination: TensorDesc) -> None: ...

def attention(query: TensorDesc, key: TensorDesc, value: TensorDesc, mask: TensorDesc | None, output: TensorDesc, heads_first: Sequence[bool], scale: float, causal: bool, nan_if_hidden: bool) -> Step:
    """
    softmax(scale * query keyᵀ + mask) value for each head, as torch.nn.functional.scaled_dot_product_attention: float32 or bfloat16, of any strides but 1 between neighbours on the last axis. heads_first, of query, key, value and output: the axes are (B, H, T, D), or else (B, T, H, D). The heads of query may be a multiple of those of key and value, which then serve several in turn. mask: float32 or bfloat16 to add, or bool (False hides), broadcast to (B, H, T, S). causal hides the keys after a query's own index. A row of which every key is hidden gives 0, or NaN where nan_if_hidden (as a softmax does). The output overlaps none.
    """

def cached_attention(query: TensorDesc, key: TensorDesc | None, value: TensorDesc | None, cosines: TensorDesc | None, sines: TensorDesc | None, pages: TensorDesc, lengths: TensorDesc, sinks: TensorDesc | None, bias: TensorDesc | None, output: TensorDesc, layer: int, scale: float, window: int, softcap: float, by_distance: bool, causal: bool) -> Step:
    """
    Attention over the pages of a cache (core/cache_pages.h): key (B, Hk, T, D) and value (B, Hk, T, width), if given, are written after the `lengths` (int64, B) positions that each row of `pages` (int64: layers, B, capacity) has, then query (B, H, T, D) attends to what its row has: float32 or bfloat16, of any strides but 1 between neighbours on the last axis. cosines and sines, which broadcast to (B, 1, T, D): query and key are turned first, as by rotary. The output is (B, T, H, width). causal: query t sees position lengths + t last, which must have been written; else each sees all. window: so many positions at most; 0: all. softcap: c of c * tanh(score / c); 0: none. sinks (H): a score more a head, without value. bias (float32: H, size): added to the scores of the key at position i is column i, or by_distance, counted back from the last column, which is the query's own position; at most the first or the last column. A table that leads to no pages, or to others than these operands need, raises drystone.InputError.
    """

def copy(input: TensorDesc, output: TensorDesc, axes: Sequence[int], tables: Sequence[Sequence[int]], value: float) -> Step:
    """
    Permute, slice, pad, expand, concatenate (into a strided output) and reorder: output axis i reads input axis axes[i] at index tables[i][o]. axes[i] = -1 does not move in the input; an empty table is the identity; index -1 fills `value`. Any formats and strides, equal dtypes or float32 and bfloat16. Channels that pad a blocked output become zero. The two must not overlap.
    """

def quantise(input: TensorDesc, output: TensorDesc) -> Step:
    """
    float32 or bfloat16 to codes (s8, u8): round(x / scale) + zero_point, ties to even, kept within the dtype's codes, as torch's quantized_decomposed has it (NaN becomes the code 0). One shape and format, any strides; channels that pad a block become zero.
    """

def dequantise(input: TensorDesc, output: TensorDesc) -> Step:
    """
    Codes (s8, u8) to the float32 or bfloat16 that they stand for: (code - zero_point) * scale. One shape and format, any strides; channels that pad a block become zero.
    """

def elementwise(inputs: Sequence[TensorDesc], output: TensorDesc, kind: str) -> Step:
    """
    One operation in the operands' own dtype, which broadcast and are plain. Kinds: convert; invert, bit_and, bit_or, bit_xor (integers, bool); add, sub, mul, floor_div, remainder, maximum, minimum (integers); eq, ne, lt, le, gt, ge (output bool); where (bool, two of the output's dtype).
    """

def aggregate(input: TensorDesc, output: TensorDesc, kind: str, dims: Sequence[int]) -> Step:
    """
    Along the neighbouring axes dims of dense plain memory: cumsum and cumprod (float32, bfloat16, int64; one axis), cummax and cummin (one axis), sum (int64), any, all (bool), amax, amin, argmax, argmin (output int64). A third slot of cummax and cummin is their places (int64, of the output's shape).
    """

def gather(input: TensorDesc, indices: TensorDesc, output: TensorDesc, dim: int) -> Step:
    """
    output[…, g, …] = input[…, indices[…, g, …], …] along the axis dim, the other places being the entry's own. An index out of range raises RuntimeError. All dense and plain.
    """

def grid_sample(input: TensorDesc, grid: TensorDesc, output: TensorDesc, mode: str, padding: str, align_corners: bool) -> Step:
    """
    torch.nn.functional.grid_sample of images: 'bilinear' or 'nearest'; padding 'zeros', 'border' or 'reflection'. float32 and bfloat16; the grid is plain, of the same dtype. One format of input and output, no overlap.
    """

def grouped_rows(strips: GroupedStrips, indices: TensorDesc, output: TensorDesc) -> Step:
    """
    The rows at indices (int64 or int32) of weights that ``strips`` packs, decoded to float32 or bfloat16. An index out of range raises IndexError. Slots: packed weights, indices, output; all dense and plain.
    """

def index(input: TensorDesc, indices: Sequence[TensorDesc], output: TensorDesc, dim: int, wraps: bool, name: str) -> Step:
    """
    output[o…, g…, i…] = input[o…, indices[0][g…], indices[1][g…], …, i…], where the indexed axes begin with dim and the indices (int64 or int32) broadcast to the grid g. wraps: negative indices count from the end. An index out of range raises IndexError, in the words of the operator `name`. All dense and plain.
    """

def index_copy(input: TensorDesc, indices: TensorDesc, source: TensorDesc, output: TensorDesc, dim: int, wraps: bool) -> Step:
    """
    The input, with source[…, i, …] at […, indices[i], …] along the axis dim; of equal indices the last counts. wraps: negative indices count from the end. An index out of range raises IndexError. All dense and plain. The output may be the input's memory.
    """

def lrn(input: TensorDesc, output: TensorDesc, size: int, alpha: float, beta: float, k: float) -> Step:
    """
    torch.nn.functional.local_response_norm. float32 and bfloat16, plain or channels_last; no overlap.
    """

def norm(input: TensorDesc, weight: TensorDesc | None, bias: TensorDesc | None, output: TensorDesc, kind: str, dims: Sequence[int], groups: int, eps: float) -> Step:
    """
    'layer' or 'rms' norm over the axes dims, 'group' norm of so many groups over the channels of each and all spatial axes, or 'batch' norm over all axes but the channels', of plain and channels_last tensors. The output may be the input's memory.
    """

def overlap_add(input: TensorDesc, output: TensorDesc, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], padding: Sequence[int]) -> Step:
    """
    torch's col2im: windows (N, C, kernel, windows), in whatever shape, added up where they lie in the output (N, C, H, W). All dense and plain, float32 or bfloat16.
    """

def pool(input: TensorDesc, output: TensorDesc, kind: str, windows: Sequence[Sequence[Sequence[int]]], divisors: Sequence[Sequence[int]], divisor_override: int) -> Step:
    """
    max or avg pooling ('max', 'avg'). windows: for each spatial axis, for each output index, the (start, stop, step) of the input positions it reads, inside of the input. avg divides the sum by the product of divisors[axis][index], or by divisor_override if that is > 0; one of nothing is 0. float32, bfloat16, codes; one format on both sides, no overlap.
    """

def reduce(input: TensorDesc, output: TensorDesc, kind: str, dims: Sequence[int]) -> Step:
    """
    'mean' or 'sum' over the axes dims, of floats or codes. The output has them of size 1, or does not have them.
    """

def resize(input: TensorDesc, output: TensorDesc, mode: str, align_corners: bool, scales: Sequence[float]) -> Step:
    """
    torch's upsample_nearest{1,2,3}d ('nearest', 'nearest_exact'), upsample_linear1d, bilinear2d, trilinear3d ('linear'), upsample_bicubic2d ('cubic'), _upsample_bilinear2d_aa and _upsample_bicubic2d_aa ('linear_antialias', 'cubic_antialias'). scales[axis], of output coordinates: (in - 1) / (out - 1), or 0 where out is 1, with align_corners (not nearest); else 1 / scale factor where one was given (and recompute_scale_factor was not); else in / out. Input coordinates are o * scale for nearest and with align_corners, (o + 0.5) * scale - 0.5 otherwise (of linear and nearest_exact at least 0), in float32 with one rounding, as torch's kernels have it. linear copies an axis that keeps its size. float32 and bfloat16, one format on both sides, no overlap.
    """

def rotary(x: TensorDesc, cosines: TensorDesc, sines: TensorDesc, output: TensorDesc) -> Step:
    """
    x * cosines + (second half of x's last axis negated, then the first half) * sines. Plain float32 or bfloat16 operands of any strides but on the last axis; cosines and sines broadcast along the other axes.
    """

def softmax(input: TensorDesc, output: TensorDesc, dim: int) -> Step:
    """Softmax along the axis dim. The output may be the input's memory."""

def topk(input: TensorDesc, values: TensorDesc, places: TensorDesc, dim: int, largest: bool, sorted: bool) -> Step:
    """
    The largest (or smallest) entries along the axis dim, as many as values has, and their places (int64); of equals the first, NaN above all numbers. Not `sorted`, they come in any order. All dense and plain.
    """

def pointwise(inputs: Sequence[TensorDesc], output: TensorDesc, ops: Sequence[tuple[str, Sequence[tuple[str, int]], float, float]]) -> Step:
    """
    A chain of elementwise instructions (kind, operands, alpha, beta); operands are ('in', i) or ('reg', j). Slots: inputs, output.
    """

class Winograd(Step):
    """
    Convolution 3x3 with stride 1 by Winograd's F(tile x tile, 3 x 3). Slots: as Convolution's.
    """

    def __init__(self, x: TensorDesc, weights: Sequence[int], has_bias: bool, output: TensorDesc, padding_l: Sequence[int], padding_r: Sequence[int], tile: int, post_ops: Sequence[tuple[str, float, float, TensorDesc | None]], weight_scales: Sequence[float] = []) -> None: ...

    @property
    def packed_bytes(self) -> int: ...

    @property
    def packed_key(self) -> str: ...

    def pack(self, dtype: DType, source: int, packed: int) -> None: ...

class Depthwise(Step):
    """
    Convolution in groups of a channel or a few, by the own kernel. Slots: as Convolution's.
    """

    def __init__(self, x: TensorDesc, weights: Sequence[int], has_bias: bool, output: TensorDesc, stride: Sequence[int], padding_l: Sequence[int], padding_r: Sequence[int], dilation: Sequence[int], post_ops: Sequence[tuple[str, float, float, TensorDesc | None]], weight_scales: Sequence[float] = []) -> None: ...

    @property
    def packed_bytes(self) -> int: ...

    @property
    def packed_key(self) -> str: ...

    def pack(self, dtype: DType, source: int, packed: int) -> None: ...

class Direct(Step):
    """
    Convolution in groups of whole vectors of channels, by the own kernel: float32, one or two spatial axes, relu or clamp after it. Slots: as Convolution's, without operands.
    """

    def __init__(self, x: TensorDesc, weights: Sequence[int], has_bias: bool, output: TensorDesc, stride: Sequence[int], padding_l: Sequence[int], padding_r: Sequence[int], dilation: Sequence[int], post_ops: Sequence[tuple[str, float, float, TensorDesc | None]]) -> None: ...

    @property
    def packed_bytes(self) -> int: ...

    @property
    def packed_key(self) -> str: ...

    def pack(self, dtype: DType, source: int, packed: int) -> None: ...

def group_weights(dtype: DType, weights: int, n: int, k: int, bits: int, group: int, codes: int, scales: int) -> None:
    """
    Round weights (n, k) to codes of 4 or 8 bits, by the float16 scales of groups that err least. All are addresses.
    """

class GroupedStrips:
    """
    Weights (n, k) as codes of 4 or 8 bits, of which ``group`` neighbours along k share a scale, and a minimum if ``minima``, as the GEMM reads them. ``dtype`` of these: float16 or float32. A weight is scale * code + minimum, or scale * (code - 8) and scale * (code - 128).
    """

    def __init__(self, n: int, k: int, bits: int, group: int, dtype: DType, minima: bool = False) -> None: ...

    @property
    def packed_bytes(self) -> int: ...

    @property
    def packed_key(self) -> str: ...

    def pack(self, codes: int, scales: int, minima: int, packed: int) -> None:
        """
        Of codes: (n, k) bytes, or (n, k / 2) with the first of two codes in the low half; scales and minima (0: none) (n, groups).
        """

class Gemm(Step):
    """
    x (M, K) @ weights (N, K) transposed, by the own kernel. Slots: as Linear's. ``widened``: bfloat16 without VDPBF16PS, codes without VPDPBUSD. Codes: as Product's; or, ``dynamic`` by 'tensor' or 'row', x is float32 or bfloat16, quantised to ``codes`` (lowest, highest) by its own range as torch's choose_qparams does: scale = range / (highest - lowest), at least ``eps``; ``symmetric``: the largest magnitude over half of that, with zero point 0. ``rounds_x``: x is rounded to int8 in the groups of the weights.
    """

    def __init__(self, x: TensorDesc, n: int, has_bias: bool, output: TensorDesc, post_ops: Sequence[tuple[str, float, float, TensorDesc | None]], widened: bool = False, weight_scales: Sequence[float] = [], weights_fit_7_bits: bool = False, dynamic: str | None = None, symmetric: bool = False, codes: tuple[int, int] = (0, 255), eps: float = 1.1920928955078125e-07, groups: GroupedStrips | None = None, rounds_x: bool = False) -> None: ...

    @property
    def packed_bytes(self) -> int: ...

    @property
    def packed_key(self) -> str: ...

    def pack(self, dtype: DType, source: int, packed: int) -> None: ...

class ImplicitGemm(Step):
    """
    A convolution of codes in channels_last by the packed GEMM, of one group over one or two axes. Slots: as Convolution's. ``widened``: as Gemm's.
    """

    def __init__(self, x: TensorDesc, weights: Sequence[int], has_bias: bool, output: TensorDesc, stride: Sequence[int], padding_l: Sequence[int], padding_r: Sequence[int], dilation: Sequence[int], post_ops: Sequence[tuple[str, float, float, TensorDesc | None]], weight_scales: Sequence[float], weights_fit_7_bits: bool = False, widened: bool = False) -> None: ...

    @property
    def packed_bytes(self) -> int: ...

    @property
    def packed_key(self) -> str: ...

    def pack(self, dtype: DType, source: int, packed: int) -> None: ...

class RecurrentWeights:
    """How (gates * units, k) weights are packed for a recurrent step."""

    def __init__(self, dtype: DType, gates: int, units: int, k: int) -> None: ...

    @property
    def packed_bytes(self) -> int: ...

    @property
    def packed_key(self) -> str: ...

    def pack(self, dtype: DType, source: int, packed: int) -> None: ...

def recurrent(kind: str, weights: DType, hidden: int, directions: int, batch_first: bool, has_bias: bool, projects: bool, gates: TensorDesc, state: TensorDesc | None, cell: TensorDesc | None, output: TensorDesc, final_state: TensorDesc, final_cell: TensorDesc | None, widened: bool = False) -> Step:
    """
    A step: the hidden part of a recurrent layer, all time steps. Slots: gates; for each direction W_hh packed, the bias of a GRU's new gate if has_bias, the projection packed if projects; state and cell where there are any; output, final_state, final_cell.
    """

class RecurrentLayers:
    """
    An LSTM, GRU or RNN on packed weights, for sequences of any length and batch. ``packed``: their addresses; layer by layer W_ih and biases, then W_hh, inner bias and projection of each direction.
    """

    def __init__(self, kind: str, weights: DType, ends: DType, inputs: int, hidden: int, state: int, layers: int, directions: int, has_bias: bool, packed: Sequence[int]) -> None: ...

    def run(self, steps: int, batch: int, batch_first: bool, batch_sizes: Sequence[int], x: int, state: int, cell: int, output: int, final_state: int, final_cell: int, threads: int) -> None:
        """
        All on addresses, 0 for what there is not. Packed sequences have batch_sizes, and steps, batch and batch_first that go with them.
        """

    @property
    def implementation(self) -> str: ...

PAGE_POSITIONS: int = 64

class PageSlab:
    """
    Memory of ``count`` pages of a cache, ``page_bytes`` apart from ``begin`` on.
    """

    def __init__(self, dtype: DType, heads: int, depth: int, width: int, count: int) -> None: ...

    @property
    def begin(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def page_bytes(self) -> int: ...

def find_page(address: int) -> tuple[DType, int, int, int] | None:
    """
    Dtype, heads, depth of a key and width of a value of the page that begins there; None where none does.
    """

def page_offsets(dtype: DType, heads: int, depth: int, width: int) -> tuple[int, int, int]:
    """
    Bytes from head to head of a page, and within a head to the values, and to the scales of int8 (keys', then values').
    """

def find_libtorch(path: str) -> None:
    """
    Looks up what registering operators needs, in the ``libtorch_cpu.so`` at ``path``. Raises RuntimeError for what is missing.
    """

def operator_names() -> list[str]: ...

def define_operators() -> None:
    """
    Makes ``torch.ops.drystone.NAME`` of all operators that this torch can have.
    """

def replace_operator(family: str) -> list[str]:
    """
    Puts an operator, with its variants and gradient, under torch's own names, switched off, until the process ends. Returns those that this torch can't have.
    """

def switch_operators(families: Sequence[str]) -> None: ...

def unboxed_operators() -> list[str]:
    """The operators under torch's own names that C++ calls without a stack."""

def is_on(family: str) -> bool: ...

def calls_served() -> int:
    """
    The calls that drystone's kernels, not torch's, have served on this thread.
    """

class Threshold:
    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def decides(self) -> str:
        """
        ``from`` or ``up to`` which size drystone serves a call of torch's; ``within`` drystone: how its kernel works.
        """

    @property
    def avx2(self) -> int: ...

    @property
    def avx512(self) -> int: ...

    @property
    def amx(self) -> int: ...

    @property
    def in_force(self) -> int: ...

def thresholds() -> list[Threshold]:
    """
    The sizes at which torch's kernels and drystone's are as fast as each other.
    """

def set_threshold(name: str, value: int) -> None: ...

class PageState:
    @property
    def on(self) -> bool: ...

    @property
    def kept(self) -> int:
        """Bytes that wait for use."""

    @property
    def limit(self) -> int: ...

    @property
    def reused(self) -> int:
        """Large allocations so far that were given earlier memory."""

    @property
    def fresh(self) -> int:
        """Large allocations so far that were given new memory."""

def can_keep_pages() -> bool:
    """Whether torch's allocator is the one that is known."""

def keep_pages(limit: int) -> None:
    """Large CPU tensors use memory of earlier ones again."""

def release_pages() -> None: ...

def page_state() -> PageState: ...
