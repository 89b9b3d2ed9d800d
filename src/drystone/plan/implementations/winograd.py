"""conv 3x3, 3x3x3 and 1x3x3 by Winograd's minimal filtering, in the formats in which vectors of channels lie together."""

from __future__ import annotations

import math

import torch

from drystone import native
from drystone.graph.graph import Node
from drystone.graph.ops import Conv
from drystone.plan.formats import CHANNELS_LAST
from drystone.plan.implementations.base import Context, Created, Implementation, Layout
from drystone.plan.implementations.epilogue import post_ops

EPILOGUE = {"relu", "leaky_relu", "clamp", "add"}
MAX_EPILOGUE = 3
VECTOR = 16

# The weights, (tile + 2)² / 9 times what they were, are read once for all tiles: with fewer tiles than this, reading them takes
# longer than the multiplications that are saved.
FEWEST_TILES = 8


class Winograd(Implementation):
    """F(tile x tile, 3 x 3) (Lavin and Gray, CVPR 2016): 2.25 times fewer multiplications with tiles of 2, 4 times with tiles of 4.
    Of floats, and of images of codes in integers.

    Its sums are not the direct convolution's: errors are about 1.4 times (tile 2) and 4 times (tile 4) as large;
    ``node.accurate`` bars it. NaN and infinities in x reach the same outputs as with the direct convolution: tiles that
    read one are computed again, directly. Where there are enough tiles of 4 they are always the faster ones, so tiles of 2 are
    offered only where there are not.
    """

    op = Conv
    suits_codes = True

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.name = f"winograd{tile}"

    def refuses(self, node: Node) -> str | None:
        return super().refuses(node) or _shape_reason(node) or _epilogue_reason(node) or self._size_reason(node)

    def _size_reason(self, node: Node) -> str | None:
        few = _tiles(node, self.tile) < FEWEST_TILES
        if few:
            return f"{_tiles(node, self.tile)} tiles are too few for the transformed weights to pay"
        if self.tile == 2 and _tiles(node, 4) >= FEWEST_TILES:
            return "tiles of 4 take fewer multiplications"
        return None

    def layouts(self, node: Node) -> list[Layout]:
        return [
            Layout(tuple(None if value.is_constant else format for value in node.inputs), format)
            for format in ((CHANNELS_LAST, native.blocked().name) if node.inputs[0].quantisation is None else (CHANNELS_LAST,))
        ]

    def create(self, node: Node, inputs: list[native.TensorDesc], output: native.TensorDesc, context: Context) -> Created:
        chain, operands, overwrites = post_ops(node, inputs, output, context.free_inputs)
        op, weight = node.of(Conv), node.inputs[1]
        step = native.Winograd(
            inputs[0],
            list(weight.shape),
            op.has_bias,
            output,
            list(op.padding_l),
            list(op.padding_r),
            self.tile,
            chain,
            context.weights.coded(weight).scales,
        )
        return context.product(node, step, operands, overwrites)


def _tiles(node: Node, tile: int) -> int:
    batch, _, *slices, height, width = node.output.shape
    return batch * math.prod(slices) * -(-height // tile) * -(-width // tile)


def _shape_reason(node: Node) -> str | None:
    """Why the convolution itself is none that Winograd's method serves, or None."""
    op, x, weight = node.of(Conv), node.inputs[0], node.inputs[1]
    if node.accurate:
        return "strict accuracy keeps the order of the arithmetic"
    codes = [value.quantisation is not None for value in (x, weight)]
    if codes[0] != codes[1] or (codes[0] and len(x.shape) != 4):
        return "Winograd's convolution of codes is that of images by weights of codes"
    for value in [*node.inputs, *node.outputs]:
        if value.dtype != torch.float32 and not (codes[0] and value.quantisation is not None):
            return "Winograd's convolution is float32's, or that of codes"
    if tuple(weight.shape[2:]) not in ((3, 3), (1, 3, 3), (3, 3, 3)):
        return "the kernel is not 3x3, 1x3x3 or 3x3x3"
    if any(s != 1 for s in op.stride) or any(d != 1 for d in op.dilation) or op.groups != 1:
        return "Winograd's convolution has stride 1, dilation 1 and one group"
    for before, after, size in zip(op.padding_l, op.padding_r, weight.shape[2:], strict=True):
        if not 0 <= min(before, after) <= max(before, after) < size:
            return "Winograd's convolution pads by 0 to 2, and not across slices that do not see each other"
    if x.shape[1] % VECTOR or node.output.shape[1] % VECTOR:
        return f"the channels do not fill vectors of {VECTOR}"
    return None


def _epilogue_reason(node: Node) -> str | None:
    if len(node.epilogue) > MAX_EPILOGUE:
        return f"Winograd's convolution takes {MAX_EPILOGUE} instructions after it at most"
    for op in node.epilogue:
        if op.kind not in EPILOGUE:
            return f"Winograd's convolution has no {op.kind} after it"
    for value in node.inputs[node.epilogue_start :] if node.epilogue else []:
        if value.shape != node.output.shape or value.is_constant:
            return "Winograd's convolution adds only tensors of the shape of its output"
    return None
