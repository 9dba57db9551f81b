"""Attention masks as predicates on raster positions, and the schedule of layers.  (Chapters 6 and 7)

A mask is a bool tensor (queries, keys), True = may attend. i and j are raster indices of query and key on
an h×w grid, so row(i) = i // w and column(i) = i % w. Paper: §2.2 and figure 11; the wrap rule of the
convolution is not stated there, ours is written below.

The stream is [start-of-text, T text tokens, start-of-image, N image tokens]. Its first P = T + 2 positions
are the *prefix*: causal among themselves, seen by every image token in every layer.
"""

import torch
from torch import Tensor

KINDS = ("row", "column", "convolution", "full")


def _offsets(h: int, w: int) -> Tensor:
    """i − j for every pair of raster positions, (N, N)."""
    raster = torch.arange(h * w)
    return raster[:, None] - raster[None, :]


def causal_mask(n: int) -> Tensor:
    """Every position sees itself and all before it, (n, n)."""
    return torch.ones(n, n, dtype=torch.bool).tril()


def row_mask(h: int, w: int) -> Tensor:
    """A raster window: 0 ≤ i − j ≤ w, over the ends of rows; the farthest key stands right above."""
    offset = _offsets(h, w)
    return (offset >= 0) & (offset <= w)


def column_mask(h: int, w: int) -> Tensor:
    """The same column, in this row and in all rows above."""
    offset = _offsets(h, w)
    return (offset >= 0) & (offset % w == 0)


def convolution_mask(h: int, w: int, kernel: int) -> Tensor:
    """A kernel×kernel window around the query, of which only the past is kept.

    Our wrap rule: the key is i − (a·w + b) with 0 ≤ a ≤ r, |b| ≤ r, a·w + b ≥ 0 and r = kernel // 2. The
    window thus slides over the raster and wraps over the ends of rows, as the row mask does.
    Raises ValueError for an even kernel, which would have no middle.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"the convolution's kernel must be odd, not {kernel}; try {kernel + 1}")
    r = kernel // 2
    reach = {a * w + b for a in range(r + 1) for b in range(-r, r + 1)}
    offset = _offsets(h, w)
    return (offset >= 0) & torch.isin(offset, torch.tensor(sorted(reach)))


def image_mask(kind: str, h: int, w: int, kernel: int) -> Tensor:
    """Image-to-image mask of one kind of layer, (N, N). "full" is causal over the whole raster."""
    if kind == "row":
        return row_mask(h, w)
    if kind == "column":
        return column_mask(h, w)
    if kind == "convolution":
        return convolution_mask(h, w, kernel)
    if kind == "full":
        return causal_mask(h * w)
    raise ValueError(f"unknown kind of layer {kind!r}; choose one of {', '.join(KINDS)}")


def stream_mask(kind: str, prefix: int, h: int, w: int, kernel: int) -> Tensor:
    """The mask of the whole stream, (P + N, P + N): prefix causal, image sees all of the prefix."""
    mask = causal_mask(prefix + h * w)
    mask[prefix:, prefix:] = image_mask(kind, h, w, kernel)
    return mask


def layer_schedule(L: int) -> tuple[str, ...]:
    """The kind of each layer (paper, §2.2): column where (i − 2) mod 4 = 0, else row; the last one
    convolutional. i counts from 1: row, column, row, row, row, column, …, convolution."""
    kinds = ["column" if (i - 2) % 4 == 0 else "row" for i in range(1, L)]
    return (*kinds, "convolution")
