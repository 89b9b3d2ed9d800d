"""Graph → Graph rewrites, one a file. They change the graph that they are given and return it."""

from __future__ import annotations

from drystone.graph.graph import Graph
from drystone.passes.absorb_into_attention import absorb_into_attention
from drystone.passes.absorb_quantisation import absorb_quantisation, share_conversions
from drystone.passes.absorb_rotary import absorb_rotary
from drystone.passes.combine_affine import combine_affine
from drystone.passes.expose_padding import expose_padding
from drystone.passes.fold_batch_norm import fold_batch_norm, fold_into_producers
from drystone.passes.fold_constants import fold_constants
from drystone.passes.fold_padding import fold_padding
from drystone.passes.fuse_epilogues import fuse_epilogues
from drystone.passes.fuse_pointwise import fuse_pointwise
from drystone.passes.lower_precision import lower_precision
from drystone.passes.merge_linears import merge_linears
from drystone.passes.nest_cat import nest_cat
from drystone.passes.recognise_activations import recognise_activations
from drystone.passes.recognise_attention import recognise_attention
from drystone.passes.recognise_matmuls import recognise_matmuls
from drystone.passes.recognise_norms import recognise_norms
from drystone.passes.recognise_rotary import recognise_rotary
from drystone.passes.recognise_shuffle import recognise_shuffle
from drystone.passes.remove_noops import remove_noops

__all__ = ["lower_precision", "simplify"]


def simplify(graph: Graph) -> Graph:
    """Run every pass that keeps the numbers (to rounding), in the order that each needs."""
    remove_noops(graph)
    share_conversions(graph)
    fold_constants(graph)
    recognise_attention(graph)  # while each instruction has a node of its own
    recognise_shuffle(graph)
    nest_cat(graph)
    fold_padding(graph)
    expose_padding(graph)  # before weights are folded, which takes another reading of them
    recognise_norms(graph)
    recognise_rotary(graph)
    combine_affine(graph)
    fold_into_producers(graph)  # before pointwise nodes grow: their number of operands is limited
    fuse_pointwise(graph)
    recognise_activations(graph)  # before the consumers take the scale that ends an activation's spelling
    combine_affine(graph)
    fold_batch_norm(graph)
    remove_noops(graph)
    absorb_into_attention(graph)
    absorb_rotary(graph)
    merge_linears(graph)
    fuse_epilogues(graph)
    recognise_matmuls(graph)  # what attention has not taken
    absorb_quantisation(graph)  # into nodes with all of their epilogues
    remove_noops(graph)
    graph.check_order()
    return graph
