"""ATen calls in a file: only operators of the list below, only arguments of a few kinds, and only results that torch confirms.

The list is closed: ``torch.ops.aten`` also holds operators that read files, unpack pointers, or write to their operands.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.utils import _pytree as pytree

from drystone.artefact.document import (
    MAX_INT,
    dtype_of,
    entries,
    listed,
    name_of,
    number,
    of_number,
    require,
    text,
    whole,
    word,
)
from drystone.errors import ArtefactError
from drystone.graph.aten import Ref, map_structure
from drystone.graph.graph import Node, Value

# Functional, and computed on CPUs from their operands alone.
ALLOWED = frozenset(
    """
    __and__ __lshift__ __or__ __rshift__ __xor__ _log_softmax _native_batch_norm_legit_no_training _safe_softmax _softmax _to_copy
    _unsafe_view _weight_norm abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr alias all alpha_dropout
    amax amin aminmax angle any arange arccos arcsin arctan arctan2 argmax argmin argsort as_strided asin asinh atan atan2 atanh
    atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bitwise_and bitwise_left_shift
    bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat cdist ceil celu
    channel_shuffle cholesky chunk clamp clamp_max clamp_min clip clone col2im complex concat concatenate conj conj_physical
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution
    _convolution_mode copysign cos cosh cosine_similarity count_nonzero cross cummax cummin cumprod cumsum deg2rad detach diag
    diag_embed diagflat diagonal diff dist div divide dot dropout einsum elu embedding empty empty_like eq equal erf erfc erfinv exp
    exp2 expand expand_as expm1 eye feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift
    fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn fill flatten flip fliplr flipud floor floor_divide fmax fmin fmod
    frac full full_like gather ge gelu glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gt
    hamming_window hann_window hardshrink hardsigmoid hardswish hardtanh heaviside histc huber_loss hypot im2col imag index
    index_add index_fill index_put index_select inner instance_norm inverse isclose isfinite isinf isnan isneginf isposinf kron
    kthvalue l1_loss layer_norm ldexp le leaky_relu lerp less less_equal lgamma lift_fresh lift_fresh_copy linalg_cross linalg_det
    linalg_inv linalg_matrix_norm linalg_norm linalg_solve linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid
    log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit logsumexp lstm lt mT
    masked_fill masked_scatter matmul matrix_exp max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices maximum mean median meshgrid min minimum mish mm movedim mse_loss mul multiply mv nan_to_num nanmean
    nansum narrow native_batch_norm native_dropout native_group_norm native_layer_norm ne neg negative new_empty new_full new_ones
    new_zeros norm not_equal numpy_T one_hot ones ones_like outer pad pairwise_distance pdist permute pixel_shuffle pixel_unshuffle
    polar positive pow prelu prod quantile rad2deg rand rand_like randn randn_like ravel real reciprocal reflection_pad1d
    reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d reshape reshape_as resolve_conj resolve_neg rms_norm rnn_relu rnn_tanh roll rot90 round rsqrt rsub
    scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_scatter selu sgn
    sigmoid sign signbit silu sin sinc sinh slice slice_scatter smooth_l1_loss softmax softmin softplus softshrink sort special_erf
    special_erfc special_erfcx special_expit special_expm1 special_i0 special_log1p special_log_softmax special_softmax
    special_xlog1py split split_with_sizes sqrt square squeeze stack std std_mean stft istft sub subtract sum swapaxes swapdims t
    take take_along_dim tan tanh tensor_split tensordot threshold tile to topk trace transpose trapezoid triangular_solve tril
    tril_indices triu triu_indices true_divide trunc type_as unbind unflatten unfold unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean vdot view view_as view_as_complex view_as_real vstack
    hstack dstack where xlogy zeros zeros_like
    """.split()
)
_TARGET = re.compile(r"(\w{1,64})\.(\w{1,64})", re.ASCII)
_MEMORY_FORMATS = {
    str(format).removeprefix("torch."): format
    for format in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
_TENSORS = ("Tensor", "List[Tensor]")


def target_of(item: Any, what: str) -> torch._ops.OpOverload:
    match = _TARGET.fullmatch(text(item, what))
    require(match is not None and match[1] in ALLOWED, f"{what}: {item!r:.80} is no operator that an artefact may call")
    assert match is not None
    packet = getattr(torch.ops.aten, match[1], None)
    known = isinstance(packet, torch._ops.OpOverloadPacket) and match[2] in packet.overloads()
    require(known, f"{what}: this torch has no operator {item!r:.80}")
    target = getattr(packet, match[2])
    returns = [str(result.type) for result in target._schema.returns]
    functional = not target._schema.is_mutable and returns and all(kind in _TENSORS for kind in returns)
    require(functional, f"{what}: {item!r:.80} does not just give tensors")
    return target


def of_target(target: Any, what: str) -> str:
    """What ``target_of`` reads. Raises ``ArtefactError`` for operators that an artefact may not call."""
    require(isinstance(target, torch._ops.OpOverload) and target.namespace == "aten", f"{what}: {target} is no operator of ATen")
    name = f"{target._schema.name.removeprefix('aten::')}.{target._overloadname}"
    require(target_of(name, what) is target, f"{what}: {target} can't be named")
    return name


def argument(item: Any, what: str, inputs: int, depth: int = 0) -> Any:
    """An argument of a call: a constant, ``{"input": i}``, a list of arguments, or one of torch's own kinds by name."""
    if item is None or type(item) is bool:
        return item
    if type(item) is int:
        return whole(item, what, -MAX_INT - 1)
    if type(item) is str:
        return text(item, what)
    if type(item) is list:
        require(depth < 3, f"{what}: lists in lists in lists")
        return [argument(entry, what, inputs, depth + 1) for entry in item]
    require(type(item) is dict and len(item) == 1, f"{what}: {item!r:.80} is no argument")
    (kind, value), *_ = item.items()
    if kind == "input":
        return Ref(whole(value, what, 0, inputs - 1))
    if kind == "float":
        return number(value, what)
    if kind == "dtype":
        return dtype_of(value, what)
    if kind == "complex":
        real, imaginary = listed(value, what, 2)
        return complex(number(real, what), number(imaginary, what))
    if kind == "memory_format":
        return _MEMORY_FORMATS[word(value, what, _MEMORY_FORMATS)]
    if kind == "layout":
        word(value, what, ("strided",))
        return torch.strided
    word(entries(item, what, "device")[0], what, ("cpu",))
    return torch.device("cpu")


def of_argument(leaf: Any, what: str) -> Any:
    """What ``argument`` reads."""
    if isinstance(leaf, (list, tuple)):
        return [of_argument(entry, what) for entry in leaf]
    if leaf is None or type(leaf) in (bool, int, str):
        return leaf
    if isinstance(leaf, Ref):
        return {"input": leaf.index}
    if isinstance(leaf, float):
        return {"float": of_number(leaf)}
    if isinstance(leaf, complex):
        return {"complex": [of_number(leaf.real), of_number(leaf.imag)]}
    if isinstance(leaf, torch.dtype):
        return {"dtype": name_of(leaf)}
    if isinstance(leaf, torch.memory_format):
        return {"memory_format": str(leaf).removeprefix("torch.")}
    if leaf is torch.strided:
        return {"layout": "strided"}
    if isinstance(leaf, torch.device) and leaf.type == "cpu":
        return {"device": "cpu"}
    raise ArtefactError(f"{what}: {leaf!r:.80} is an argument that no artefact holds")


def check(node: Node, read: set[int]) -> None:
    """Compare what torch says of the call with the node's outputs, those that nobody reads left out.

    ``read``: the ids of values that a node or the caller reads. Nothing is computed: the operands are on the meta device.
    """
    results = _results(node)
    require(len(results) == len(node.outputs), f"{node.name} gives {len(results)} tensors, not {len(node.outputs)}")
    for position, (value, result) in enumerate(zip(node.outputs, results, strict=True)):
        if position == 0 or value.id in read:
            require(tuple(result.shape) == value.shape, f"{node.name}: the result is {list(result.shape)}, not {value}")
            # A lowered graph rounds what an operator gives: any float goes to any other.
            same = result.dtype == value.dtype or (result.is_floating_point() and value.dtype.is_floating_point)
            require(same, f"{node.name}: the result is {result.dtype}, not {value}")
    _check_indices(node)


def _results(node: Node) -> list[torch.Tensor]:
    target, meta = node.attrs["target"], torch.device("meta")
    operands = [torch.empty(value.shape, dtype=value.dtype, device=meta) for value in node.inputs]

    def resolve(leaf: Any) -> Any:
        return operands[leaf.index] if isinstance(leaf, Ref) else meta if isinstance(leaf, torch.device) else leaf

    args = list(map_structure(resolve, node.attrs["args"]))
    kwargs = map_structure(resolve, node.attrs["kwargs"])
    names = [argument.name for argument in target._schema.arguments]
    require(set(kwargs) <= set(names[len(args) :]), f"{node.name}: {target} has no such arguments")
    if "device" in names[len(args) :]:
        kwargs["device"] = meta
    try:
        with torch.no_grad():
            return [leaf for leaf in pytree.tree_leaves(target(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
    except Exception as error:  # whatever torch thinks of the arguments
        raise ArtefactError(f"{node.name}: torch refuses this call of {target}: {error!s:.300}") from None


def _check_indices(node: Node) -> None:
    """Constants that index an operand must stay within it; torch finds what an input holds at each call."""
    args = node.attrs["args"]
    name = node.attrs["target"]._schema.name.removeprefix("aten::")
    if name == "embedding":
        indexed = [(0, args[1])]
    elif name in ("index_select", "gather", "scatter", "scatter_add") and len(args) > 2:
        indexed = [(args[1], args[2])]
    elif name in ("index", "index_put"):
        indexed = list(enumerate(args[1])) if isinstance(args[1], list) else []
    else:
        return
    x = _value(node, args[0])
    for dim, ref in indexed:
        value = _value(node, ref)
        if x is None or type(dim) is not int or value is None or not value.is_constant or value.dtype not in (torch.int64, torch.int32):
            continue
        require(-len(x.shape) <= dim < len(x.shape), f"{node.name}: axis {dim} of {x}")
        size, data = x.shape[dim], value.constant
        require(not data.numel() or (-size <= int(data.min()) and int(data.max()) < size), f"{node.name}: an index beyond {x}")


def _value(node: Node, leaf: Any) -> Value | None:
    return node.inputs[leaf.index] if isinstance(leaf, Ref) else None
