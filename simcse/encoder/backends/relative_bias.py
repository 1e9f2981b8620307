"""Attention biases that depend on the distance from query to key alone: learned ones, and windows of neighbours.

A bias is kept by distance, (H, 2 * span - 1): column span - 1 is distance 0, key - query grows to the right. H is 1
where all heads share it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["bias_by_distance", "bias_matrix", "distance_columns", "window_bias"]

BUCKETS = 32  # of MPNet, half of them for keys behind the query
EXACT = BUCKETS // 4  # distances with a bucket of their own; beyond, buckets widen by powers
FARTHEST = 128  # tokens; from here on all share the last bucket


def bias_by_distance(table: nn.Embedding, span: int) -> Tensor:
    """(H, 2 * span - 1) of MPNet's table, (BUCKETS, H), for distances below `span` tokens; with gradients."""
    distance = torch.arange(1 - span, span, device=table.weight.device)
    far, half = distance.abs(), BUCKETS // 2
    share = torch.log(far.clamp(min=1).float() / EXACT) / math.log(FARTHEST / EXACT)
    wide = (EXACT + (share * (half - EXACT)).long()).clamp(max=half - 1)
    bucket = torch.where(far < EXACT, far, wide) + half * (distance > 0)
    return F.embedding(bucket, table.weight).t()


def window_bias(window: int, span: int, like: Tensor) -> Tensor:
    """(1, 2 * span - 1): 0 up to `window` tokens away to either side, -inf beyond."""
    far = torch.arange(1 - span, span, device=like.device).abs() > window
    return like.new_zeros(1, 2 * span - 1).masked_fill_(far, -math.inf)


def distance_columns(span: int, queries: int, keys: int, device: torch.device) -> Tensor:
    """(queries, keys) columns of a bias by distance for the first tokens of a sequence, none longer than `span`."""
    return torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None] + span - 1


def bias_matrix(bias: Tensor, queries: int, keys: int) -> Tensor:
    """(H, 2 * span - 1) by distance -> (H, queries, keys)."""
    span = (bias.shape[1] + 1) // 2
    return bias[:, distance_columns(span, queries, keys, bias.device)]
