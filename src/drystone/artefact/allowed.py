"""The ATen operators that an artefact may call: functional, and computed on CPUs from their operands alone.

Left out on purpose: what reads files, unpacks pointers, writes to its operands, or gives memory that nobody has written.
"""

from __future__ import annotations

_NAMES = """
__and__ __lshift__ __or__ __rshift__ __xor__ _convolution _convolution_mode _log_softmax _native_batch_norm_legit_no_training
_safe_softmax _softmax _to_copy _unsafe_view _weight_norm abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr
alias all alpha_dropout amax amin aminmax angle any arange arccos arcsin arctan arctan2 argmax argmin argsort as_strided asin
asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear bitwise_and
bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat cdist
ceil celu channel_shuffle cholesky chunk clamp clamp_max clamp_min clip clone col2im complex concat concatenate conj
conj_physical constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
copysign cos cosh cosine_similarity count_nonzero cross cummax cummin cumprod cumsum deg2rad detach diag diag_embed diagflat
diagonal diff dist div divide dot dropout dstack einsum elu embedding eq equal erf erfc erfinv exp exp2 expand expand_as expm1
eye feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2
fft_irfftn fft_rfft fft_rfft2 fft_rfftn fill flatten flip fliplr flipud floor floor_divide fmax fmin fmod frac full full_like
gather ge gelu glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gt hamming_window
hann_window hardshrink hardsigmoid hardswish hardtanh heaviside histc hstack huber_loss hypot im2col imag index index_add
index_fill index_put index_select inner instance_norm inverse isclose isfinite isinf isnan isneginf isposinf istft kron kthvalue
l1_loss layer_norm ldexp le leaky_relu lerp less less_equal lgamma lift_fresh lift_fresh_copy linalg_cross linalg_det linalg_inv
linalg_matrix_norm linalg_norm linalg_solve linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid log_softmax
logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit logsumexp lstm lt masked_fill
masked_scatter matmul matrix_exp max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum
mean median meshgrid min minimum mish mm movedim mse_loss mT mul multiply mv nan_to_num nanmean nansum narrow native_dropout
native_group_norm native_layer_norm ne neg negative new_full new_ones new_zeros norm not_equal numpy_T one_hot ones ones_like
outer pad pairwise_distance pdist permute pixel_shuffle pixel_unshuffle polar positive pow prelu prod quantile rad2deg rand
rand_like randn randn_like ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder renorm
repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg
rms_norm rnn_relu rnn_tanh roll rot90 round rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_add
scatter_reduce searchsorted select select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh slice slice_scatter
smooth_l1_loss softmax softmin softplus softshrink sort special_erf special_erfc special_erfcx special_expit special_expm1
special_i0 special_log1p special_log_softmax special_softmax special_xlog1py split split_with_sizes sqrt square squeeze stack
std std_mean stft sub subtract sum swapaxes swapdims t take take_along_dim tan tanh tensor_split tensordot threshold tile to
topk trace transpose trapezoid triangular_solve tril tril_indices triu triu_indices true_divide trunc type_as unbind unflatten
unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean vdot view view_as view_as_complex
view_as_real vstack where xlogy zeros zeros_like
"""

ALLOWED = frozenset(_NAMES.split())
